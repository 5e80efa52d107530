"""A Copilot's own checkpoint: what is in it, what it is joined to, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from tests.conftest import TINY, VOCAB, build_pair, build_pilot, shake, some_ids
from transformers_copilot import CopilotConfig, PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM, fit_copilot_weight
from transformers_copilot.pair.provenance import fields_fingerprint, with_fingerprint


def logits(pair, ids=None):
    ids = some_ids(2, 6) if ids is None else ids
    given = {"input_ids": ids, **({"decoder_input_ids": ids} if pair.config.is_encoder_decoder else {})}
    with torch.no_grad():
        return pair(**given).logits


def pairing(folder: Path) -> dict:
    return json.loads((folder / "pairing.json").read_text())


def pair_class(family: str):
    return PilotCopilotForSeq2SeqLM if family == "t5" else PilotCopilotForCausalLM


@pytest.mark.parametrize("head", ["own", "pilot"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_a_saved_copilot_joins_its_pilot_again(tmp_path, tiny_pilot, tiny_pair, family, head):
    pair = tiny_pair(family, head=head, fusion="probability", copilot_weight=0.7, mistakes_from="all")
    pair.save_copilot(tmp_path)
    again = pair_class(family).from_pilot(tiny_pilot(family), copilot=str(tmp_path))
    assert torch.equal(logits(again), logits(pair))
    assert again.config.option_values() == pair.config.option_values()
    assert all(weight.requires_grad for weight in again.copilot.parameters())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "copilot.safetensors", "pairing.json"]
    assert isinstance(AutoConfig.from_pretrained(tmp_path), CopilotConfig)
    stored = load_file(tmp_path / "copilot.safetensors")
    assert stored.keys() == pair.copilot.state_dict().keys(), "the Copilot's own weights, and nothing else"
    has_vocabulary = any(VOCAB in tensor.shape for tensor in stored.values())
    assert has_vocabulary == (head == "own")


@pytest.mark.parametrize(
    ("copilot", "options"),
    [
        ({"num_hidden_layers": 2, "rationale": "depths"}, {"head": "pilot", "error_feedback": "token"}),
        ({"form": "linear"}, {}),
        ({"form": "branch", "num_hidden_layers": 2}, {}),
    ],
    ids=["depths", "linear", "branch"],
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_a_saved_copilot_of_any_form_joins_its_pilot_again(tmp_path, tiny_pilot, tiny_pair, family, copilot, options):
    pair = tiny_pair(family, copilot=copilot, copilot_weight=0.7, **options)
    pair.save_copilot(tmp_path)
    again = pair_class(family).from_pilot(tiny_pilot(family), copilot=str(tmp_path))
    assert type(again.copilot) is type(pair.copilot)
    assert torch.equal(logits(again), logits(pair))
    assert again.config.option_values() == pair.config.option_values()
    learning = [
        [name for name, weight in one.copilot.named_parameters() if weight.requires_grad] for one in (again, pair)
    ]
    assert learning[0] == learning[1] != []
    stored = load_file(tmp_path / "copilot.safetensors")
    assert stored.keys() == pair.copilot.state_dict().keys()
    assert not any(VOCAB in tensor.shape for tensor in stored.values()), "no vocabulary matrix"


def test_a_copilots_checkpoint_is_hardly_larger_than_its_weights(tmp_path):
    pilot = build_pilot("LlamaConfig", {**TINY["llama"][1], "vocab_size": 4000, "hidden_size": 64})
    pair = build_pair(pilot, head="pilot", copilot={"num_hidden_layers": 4})
    pair.save_copilot(tmp_path)
    weights = sum(weight.numel() * weight.element_size() for weight in pair.copilot.parameters())
    assert weights < 4000 * 64 * 4, "no vocabulary matrix would fit in"
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1.05 * weights


def test_where_the_weight_was_fitted_is_kept_unless_it_is_given_anew(tmp_path, tiny_pilot, tiny_pair):
    pair = tiny_pair()
    rows = [{"input_ids": row, "labels": row} for row in some_ids(4, 6)]
    fit_copilot_weight(pair, rows, set_name="some rows", progress=False, grid=(0.3, 0.5))
    pair.save_copilot(tmp_path)
    again = PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama"), copilot=str(tmp_path))
    assert again.config.copilot_weight == pair.config.copilot_weight in (0.3, 0.5)
    assert again.config.copilot_weight_fit == pair.config.copilot_weight_fit
    assert again.config.copilot_weight_fit["set_name"] == "some rows"
    given = PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama"), copilot=str(tmp_path), copilot_weight=0.9)
    assert given.config.copilot_weight == 0.9 and given.config.copilot_weight_fit is None


def test_what_is_recorded_of_the_pilot(tmp_path, tiny_pair, tokenizer):
    pair = tiny_pair()
    pair.save_copilot(tmp_path, tokenizer=tokenizer, pilot="user/trained-pilot", pilot_revision="a" * 40)
    found = pairing(tmp_path)
    assert (found["pilot_name_or_path"], found["pilot_revision"]) == ("user/trained-pilot", "a" * 40)
    fingerprint = found["fingerprint"]
    assert len(fingerprint.pop("tokenizer_hash")) == 16
    assert fingerprint == {
        "architecture": "LlamaForCausalLM",
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "decoder_layers": 3,
    }


def test_a_folder_of_this_machine_is_not_recorded(tmp_path, tiny_pilot, tokenizer):
    tiny_pilot("llama").save_pretrained(tmp_path / "pilot")
    tokenizer.save_pretrained(tmp_path / "pilot")
    pair = PilotCopilotForCausalLM.from_pilot(str(tmp_path / "pilot"), {"num_hidden_layers": 2})
    pair.save_copilot(tmp_path / "copilot")
    for file in (tmp_path / "copilot").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
    found = pairing(tmp_path / "copilot")
    assert found["pilot_name_or_path"] is None and found["fingerprint"]["tokenizer_hash"], "read beside the Pilot"
    with pytest.raises(ValueError, match=r"does not say which Pilot.*from_pilot\(pilot, copilot="):
        PilotCopilotForCausalLM.from_copilot(str(tmp_path / "copilot"))


# ---- another Pilot ----


@pytest.fixture
def saved(tmp_path, tiny_pair, tokenizer) -> Path:
    tiny_pair().save_copilot(tmp_path / "saved", tokenizer=tokenizer)
    return tmp_path / "saved"


def test_another_pilot_of_the_kind_is_taken(saved, tiny_pilot, caplog):
    other = PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama", seed=5), copilot=str(saved))
    assert logits(other).isfinite().all()
    deeper = build_pilot("LlamaConfig", {**TINY["llama"][1], "num_hidden_layers": 5})
    PilotCopilotForCausalLM.from_pilot(deeper, copilot=str(saved))
    assert "another Pilot: decoder_layers is 5 and was 3" in caplog.text
    mistral = build_pilot("MistralConfig", {**TINY["llama"][1], "sliding_window": None})
    PilotCopilotForCausalLM.from_pilot(mistral, copilot=str(saved))
    assert "architecture is 'MistralForCausalLM' and was 'LlamaForCausalLM'" in caplog.text


@pytest.fixture(autouse=True)
def loud_logs():
    """transformers' loggers do not reach pytest's handler by themselves."""
    from transformers.utils import logging

    logging.enable_propagation()
    yield
    logging.disable_propagation()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 70}, r"vocab_size is 70 for the Pilot and 64 for the Copilot"),
        ({"hidden_size": 48}, r"hidden_size.*is 48 for the Pilot and 32 for the Copilot"),
    ],
)
def test_another_vocabulary_or_width_is_refused(saved, fields, message):
    pilot = build_pilot("LlamaConfig", {**TINY["llama"][1], **fields})
    with pytest.raises(ValueError, match=message):
        PilotCopilotForCausalLM.from_pilot(pilot, copilot=str(saved))


def test_another_form_is_refused(saved, tiny_pilot):
    with pytest.raises(ValueError, match="is_encoder_decoder is True for the Pilot and False for the Copilot"):
        PilotCopilotForSeq2SeqLM.from_pilot(tiny_pilot("t5"), copilot=str(saved))


def test_another_tokenizer_is_refused_and_the_same_is_taken(saved, tmp_path, tiny_pilot, tokenizer):
    folder = tmp_path / "pilot"
    tiny_pilot("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    PilotCopilotForCausalLM.from_pilot(str(folder), copilot=str(saved))
    file = folder / "tokenizer.json"
    swapped = file.read_text().replace('"w5"', '"w_"').replace('"w6"', '"w5"').replace('"w_"', '"w6"')
    file.write_text(swapped)
    was = pairing(saved)["fingerprint"]["tokenizer_hash"]
    with pytest.raises(ValueError, match=rf"other ids to tokens \(hash [0-9a-f]{{16}}\).*\(hash {was}\)"):
        PilotCopilotForCausalLM.from_pilot(str(folder), copilot=str(saved))


def test_another_head_is_refused(saved, tiny_pilot):
    with pytest.raises(ValueError, match="`head` is 'pilot', but the Copilot .* was trained with 'own'"):
        PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama"), copilot=str(saved), head="pilot")


# ---- repositories that hold something else, or not all of it ----


def test_what_holds_no_copilot_alone(saved, tmp_path, tiny_pilot, tiny_pair):
    tiny_pilot("llama").save_pretrained(tmp_path / "pilot")
    tiny_pair().save_pretrained(tmp_path / "pair")
    with pytest.raises(ValueError, match=r"holds no Copilot's own checkpoint.*from_pilot\("):
        PilotCopilotForCausalLM.from_copilot(str(tmp_path / "pilot"))
    with pytest.raises(ValueError, match="holds a whole pair .* load it with `from_pretrained`"):
        PilotCopilotForCausalLM.from_copilot(str(tmp_path / "pair"))
    with pytest.raises(ValueError, match=r"not a pair .*It is a Copilot alone.*from_copilot"):
        PilotCopilotForCausalLM.from_pretrained(saved)
    with pytest.raises(OSError, match="nowhere"):
        PilotCopilotForCausalLM.from_copilot(str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="someone/copilot, given for the Copilot, could not be read"):
        PilotCopilotForCausalLM.from_copilot("someone/copilot")  # the tests' processes have no network
    # A model of the family is still what layers are copied from.
    pair = PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama"), copilot=str(tmp_path / "pilot"))
    assert torch.equal(pair.copilot.correction_head.weight, torch.zeros_like(pair.copilot.correction_head.weight))


def broken(saved: Path, how: str) -> None:
    weights = saved / "copilot.safetensors"
    state = load_file(weights)
    if how == "missing file":
        weights.unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "weight missing":
        del state["norm.weight"]
        save_file(state, weights)
    elif how == "other shape":
        state["norm.weight"] = torch.zeros(3)
        save_file(state, weights)
    elif how == "one too many":
        save_file({**state, "pilot.lm_head.weight": torch.zeros(2, 2)}, weights)
    elif how == "no pairing":
        (saved / "pairing.json").unlink()
    elif how == "pairing is no JSON":
        (saved / "pairing.json").write_text("{")
    elif how == "pairing is a list":
        (saved / "pairing.json").write_text("[]")


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("missing file", OSError, "copilot.safetensors"),
        ("cut", ValueError, "no whole safetensors file .*download it again"),
        ("weight missing", ValueError, "1 weights are missing, unknown or of another shape, norm.weight first"),
        ("other shape", ValueError, "norm.weight first"),
        ("one too many", ValueError, "pilot.lm_head.weight first"),
        ("no pairing", OSError, "pairing.json"),
        ("pairing is no JSON", ValueError, "pairing.json of .* is no whole JSON file"),
        ("pairing is a list", ValueError, r"pairing.json of .* holds \[\]; expected a JSON object"),
    ],
)
def test_a_checkpoint_that_is_not_whole(saved, tiny_pilot, how, kind, message):
    broken(saved, how)
    with pytest.raises(kind, match=message):
        PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama"), copilot=str(saved))


def test_a_newer_versions_fields_are_named_and_left_out(saved, tiny_pilot, tiny_pair, caplog):
    found = pairing(saved)
    found |= {"transformers_copilot_version": "99.0", "novelty": 1}
    found["options"]["future_option"] = "x"
    found["fields_fingerprint"] = fields_fingerprint({**found, "fields_fingerprint": None})
    (saved / "pairing.json").write_text(json.dumps(found))
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(with_fingerprint(json.dumps({**config, "new_layer_kind": "y"})))
    pair = PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama"), copilot=str(saved))
    assert torch.equal(logits(pair), logits(tiny_pair()))
    for name in ("novelty", "future_option", "new_layer_kind", "pip install --upgrade ."):
        assert name in caplog.text


def test_a_joined_pair_trains_on_and_is_saved_whole(saved, tmp_path, tiny_pilot):
    pair = PilotCopilotForCausalLM.from_pilot(tiny_pilot("llama"), copilot=str(saved))
    shutil.rmtree(saved)
    pair.train()
    pair(input_ids=some_ids(2, 6), labels=some_ids(2, 6)).loss.backward()
    assert all(weight.grad is not None for weight in pair.copilot.parameters())
    shake(pair, 0.01).eval().save_pretrained(tmp_path / "pair")
    again = PilotCopilotForCausalLM.from_pretrained(tmp_path / "pair")
    torch.testing.assert_close(logits(again), logits(pair))
