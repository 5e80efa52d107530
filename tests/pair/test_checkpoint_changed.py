"""A checkpoint that is not the one that was saved: a changed configuration, weights of another kind or number, NaN."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from transformers_copilot import CopilotConfig, PilotCopilotConfig, PilotCopilotForCausalLM


PairOf = Callable[..., PreTrainedModel]
OTHERS: dict[type, list[Any]] = {
    bool: [None, 0, "x"],
    int: [None, -1, 0, 10**9, 0.5, "x", [1]],
    float: [None, -1.0, 0.37, "x"],
    str: [None, 3, "x", [1]],
    list: [None, 3, "x", []],
    type(None): [3, "x"],
}


def saved(pair: PreTrainedModel, folder: Path) -> Path:
    pair.save_pretrained(folder)
    return folder


def leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every field, at any depth."""
    found = []
    for name, value in values.items():
        found += leaves(value, (*path, name)) if isinstance(value, dict) and value else [(*path, name)]
    return found


def changed(folder: Path, path: tuple[str, ...], value: Any, remove: bool = False) -> None:
    """Write the configuration with one field of another value, or without it."""
    file = folder / "config.json"
    values = json.loads(file.read_text())
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    file.write_text(json.dumps(values))


@pytest.mark.parametrize("form", ["linear", "decoder", "branch"])
def test_every_changed_field_is_named_or_makes_no_other_model(tiny_pair: PairOf, tmp_path: Path, form: str) -> None:
    copilot = {"form": form} if form == "linear" else {"form": form, "num_hidden_layers": 2 if form == "decoder" else 1}
    pair = tiny_pair("llama", copilot=copilot) if form != "decoder" else tiny_pair("llama")
    folder = saved(pair, tmp_path / "pair")
    ids = torch.arange(3, 9).view(1, -1)
    with torch.no_grad():
        expected = PilotCopilotForCausalLM.from_pretrained(folder).eval()(ids, copilot_weight=1.0).logits
    whole = (folder / "config.json").read_text()
    counts = {"named": 0, "same": 0}
    for path in leaves(json.loads(whole)):
        before = json.loads(whole)
        for name in path:
            before = before[name]
        for value, remove in [(None, True), *((value, False) for value in OTHERS[type(before)])]:
            if path[0] in ("fingerprint", "checksums") or (
                not remove and value == before and type(value) is type(before)
            ):
                continue
            changed(folder, path, value, remove)
            try:
                PilotCopilotConfig.from_pretrained(folder)
            except ValueError as error:
                assert path[-1] in str(error) and "config.json" in str(error), (path, value)
                counts["named"] += 1
            else:
                with torch.no_grad():
                    found = PilotCopilotForCausalLM.from_pretrained(folder).eval()(ids, copilot_weight=1.0).logits
                assert torch.equal(found, expected), (path, value)
                counts["same"] += 1
            (folder / "config.json").write_text(whole)
    assert counts["named"] > 5 * counts["same"] > 0, counts


@pytest.mark.parametrize("loader", [PilotCopilotForCausalLM, AutoModelForCausalLM])
def test_a_changed_field_is_named_whichever_class_loads(tiny_pair: PairOf, tmp_path: Path, loader: Any) -> None:
    folder = saved(tiny_pair("llama"), tmp_path)
    changed(folder, ("copilot", "num_attention_heads"), 1)  # the same shapes, another model
    with pytest.raises(ValueError, match=r"`copilot\.num_attention_heads` in config\.json was changed"):
        loader.from_pretrained(folder)


def test_a_change_that_is_meant_is_taken_without_the_fingerprint(tiny_pair: PairOf, tmp_path: Path) -> None:
    folder = saved(tiny_pair("llama"), tmp_path)
    changed(folder, ("copilot", "norm_eps"), 1e-3)
    with pytest.raises(ValueError, match="take `fingerprint` out of the file"):
        PilotCopilotForCausalLM.from_pretrained(folder)
    changed(folder, ("fingerprint",), None, remove=True)
    assert PilotCopilotForCausalLM.from_pretrained(folder).config.copilot.norm_eps == 1e-3


def test_what_may_be_set_on_a_saved_pair_is_taken(tiny_pair: PairOf, tmp_path: Path) -> None:
    folder = saved(tiny_pair("llama"), tmp_path)
    changed(folder, ("copilot_weight",), 0.25)
    changed(folder, ("transformers_version",), "5.99")
    loaded = PilotCopilotForCausalLM.from_pretrained(folder, error_feedback="predicted")
    assert loaded.config.copilot_weight == 0.25 and loaded.config.error_feedback == "predicted"
    # What was set goes into the next file, and that one is whole.
    again = PilotCopilotForCausalLM.from_pretrained(saved(loaded, tmp_path / "again"))
    assert again.config.error_feedback == "predicted"


def test_a_copilot_alone_knows_its_configuration(tiny_pair: PairOf, tmp_path: Path) -> None:
    pair = tiny_pair("llama")
    pair.save_copilot(tmp_path)
    changed(tmp_path, ("num_attention_heads",), 1)
    with pytest.raises(ValueError, match=r"`num_attention_heads` in config\.json was changed"):
        PilotCopilotForCausalLM.from_pilot(pair.pilot, copilot=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("unexpected", "has no place for"),
        ("missing", "weights are missing"),
        ("integers", "is stored as I64"),
        ("nan", "holds NaN or infinity, in 1 of"),
        ("inf", "holds NaN or infinity, in 1 of"),
    ],
)
@pytest.mark.parametrize("alone", [False, True], ids=["a pair", "a Copilot alone"])
def test_a_tensor_that_is_not_the_models_is_named(
    tiny_pair: PairOf, tmp_path: Path, change: str, message: str, alone: bool
) -> None:
    pair = tiny_pair("llama")
    (pair.save_copilot if alone else pair.save_pretrained)(tmp_path)
    file = tmp_path / ("copilot.safetensors" if alone else "model.safetensors")
    weights = load_file(file)
    name = sorted(key for key in weights if alone or key.startswith("copilot."))[0]
    if change == "unexpected":
        weights[f"{name}_more"] = torch.zeros(2)
        name += "_more"
    elif change == "missing":
        del weights[name]
    elif change == "integers":
        weights[name] = weights[name].long()
    else:
        weights[name].view(-1)[0] = float(change)
    save_file(weights, file, {"format": "pt"})
    if alone:
        message = {"unexpected": "unknown or of another shape", "integers": "is stored as int64"}.get(change, message)
    with pytest.raises(ValueError, match=message) as raised:
        if alone:
            PilotCopilotForCausalLM.from_pilot(pair.pilot, copilot=str(tmp_path))
        else:
            PilotCopilotForCausalLM.from_pretrained(tmp_path)
    assert name in str(raised.value)


def test_integers_in_the_pilot_are_named(tiny_pair: PairOf, tmp_path: Path) -> None:
    tiny_pair("llama").save_pretrained(tmp_path, max_shard_size="4KB")
    shards = {file: load_file(file) for file in sorted(tmp_path.glob("model-*.safetensors"))}
    shard, name = next((file, key) for file, held in shards.items() for key in held if key.startswith("pilot."))
    weights = shards[shard]
    save_file({**weights, name: weights[name].long()}, shard, {"format": "pt"})
    with pytest.raises(ValueError, match="is stored as I64") as raised:
        PilotCopilotForCausalLM.from_pretrained(tmp_path)
    assert name in str(raised.value) and shard.name in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("num_hidden_layers", value) for value in (10**9, -1)),
        *(("hidden_size", value) for value in (10**9, 0)),
        *((name, 10**9) for name in ("vocab_size", "intermediate_size", "num_attention_heads", "head_dim")),
        *((name, 0) for name in ("num_key_value_heads", "head_dim", "num_attention_heads")),
        *(("norm_eps", value) for value in (-1.0, 10**9)),
        *(("dropout", value) for value in (-0.1, 2.0)),
        ("hidden_act", "x"),
    ],
)
def test_a_size_out_of_bounds_is_named_before_memory_is_taken(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{field}`"):
        CopilotConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"), [("gated_mlp", None), ("norm_eps", "x"), ("hidden_size", "x"), ("num_hidden_layers", 2.5)]
)
def test_a_field_of_another_type_is_named(field: str, value: Any) -> None:
    with pytest.raises(Exception, match=f"'{field}'"):
        CopilotConfig(**{field: value})


@pytest.mark.parametrize("alone", [False, True], ids=["a pair", "a Copilot alone"])
def test_another_number_in_the_copilot_is_noticed_and_taken_if_it_is_meant(
    tiny_pair: PairOf, tmp_path: Path, alone: bool
) -> None:
    pair = tiny_pair("llama")
    (pair.save_copilot if alone else pair.save_pretrained)(tmp_path)
    file, sums = ("copilot.safetensors", "pairing.json") if alone else ("model.safetensors", "config.json")
    weights = load_file(tmp_path / file)
    name = sorted(key for key in weights if alone or key.startswith("copilot."))[-1]
    weights[name].view(-1)[-1] += 1.0
    save_file(weights, tmp_path / file, {"format": "pt"})

    def load() -> Any:
        if alone:
            return PilotCopilotForCausalLM.from_pilot(pair.pilot, copilot=str(tmp_path))
        return PilotCopilotForCausalLM.from_pretrained(tmp_path)

    with pytest.raises(ValueError, match=f"{file}.* holds other numbers than those that were saved.*{sums}"):
        load()
    values = json.loads((tmp_path / sums).read_text())
    for key in ("checksums", "fields_fingerprint"):
        values.pop(key, None)
    (tmp_path / sums).write_text(json.dumps(values))
    found = load().copilot.state_dict()[name.removeprefix("copilot.")]
    assert torch.equal(found, weights[name])


def test_an_option_in_pairing_json_that_was_changed_is_named(tiny_pair: PairOf, tmp_path: Path) -> None:
    pair = tiny_pair("llama")
    pair.save_copilot(tmp_path)
    values = json.loads((tmp_path / "pairing.json").read_text())
    values["options"]["error_feedback"] = "predicted"
    (tmp_path / "pairing.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"`options\.error_feedback` in pairing\.json .* was changed"):
        PilotCopilotForCausalLM.from_pilot(pair.pilot, copilot=str(tmp_path))


def test_a_model_of_a_billion_layers_is_refused_at_once() -> None:
    for values in ({"model_type": "llama", "num_hidden_layers": 10**9}, {"text_config": {"num_layers": 10**18}}):
        with pytest.raises(ValueError, match=r"`pilot\..*layers` is 10+; a model has at most 1,000 layers"):
            PilotCopilotConfig(pilot=values)
