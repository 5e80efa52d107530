"""Checkpoints that earlier code wrote.

Version 0.1 said `rationale` in three options: combinations that were kept load as what they were, dropped ones are
refused. `saved_pairs` holds one of each kind from before the package had folders.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.utils import logging

from tests.conftest import some_ids
from transformers_copilot import CopilotConfig, PilotCopilotConfig, PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM


PairOf = Callable[..., PreTrainedModel]
SAVED = Path(__file__).parent / "saved_pairs"  # tiny, without the code that lay beside them; written by commit 3cb7745
SAVED_IDS = torch.arange(2, 14).view(2, 6)
# `rationale` for `rationale_window`, `rationale_pooling` and the Copilot's `rationale_input`.
KEPT = {
    ("preceding", "mean", False): "preceding",
    ("current", "mean", False): "current",
    ("current", "last", True): "last",
}
DROPPED = [
    ("preceding", "last", False),
    ("current", "last", False),
    ("current", "mean", True),
]
NEW_FIELDS = ("form", "rationale", "branch_config", "branch_scale")  # of the Copilot


@pytest.fixture(autouse=True)
def warnings_of_each_test() -> None:
    """What is said once a process is said once a test."""
    logging.warning_once.cache_clear()


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(file.read_text(encoding="utf-8"))
    for name in ("fingerprint", "fields_fingerprint", "checksums"):  # which version 0.1 did not write
        values.pop(name, None)
    change(values)
    file.write_text(json.dumps(values), encoding="utf-8")


def former_copilot(values: dict[str, Any], own_input: bool) -> None:
    """A Copilot's configuration as version 0.1 wrote it."""
    for name in NEW_FIELDS:
        values.pop(name)
    values["rationale_input"] = own_input


def former_options(values: dict[str, Any], window: str, pooling: str) -> None:
    values |= {"rationale_window": window, "rationale_pooling": pooling, "mistake_tail": 16}


def save_former_pair(pair: PreTrainedModel, folder: Path, window: str, pooling: str, own_input: bool) -> None:
    pair.save_pretrained(folder)

    def change(values: dict[str, Any]) -> None:
        former_copilot(values["copilot"], own_input)
        former_options(values, window, pooling)
        values["transformers_copilot_version"] = "0.1.0"

    rewrite(folder / "config.json", change)


def save_former_copilot(pair: PreTrainedModel, folder: Path, window: str, pooling: str, own_input: bool) -> None:
    pair.save_copilot(folder)
    rewrite(folder / "config.json", lambda values: former_copilot(values, own_input))

    def change(values: dict[str, Any]) -> None:
        former_options(values["options"], window, pooling)
        values["transformers_copilot_version"] = "0.1.0"

    rewrite(folder / "pairing.json", change)


def logits(pair: PreTrainedModel) -> torch.Tensor:
    ids = some_ids(2, 6)
    given = {"decoder_input_ids": ids[:, :4]} if pair.config.is_encoder_decoder else {}
    with torch.no_grad():
        return pair.eval()(ids, **given).logits


def check_loaded(loaded: PreTrainedModel, pair: PreTrainedModel, rationale: str, recwarn: Any) -> None:
    assert loaded.config.copilot.rationale == loaded.copilot.config.rationale == rationale
    assert loaded.config.copilot.form == "decoder"
    torch.testing.assert_close(logits(loaded), logits(pair), atol=1e-5, rtol=1e-5)
    written = json.dumps(loaded.config.to_dict())
    assert not any(
        name in written for name in ("rationale_window", "rationale_pooling", "rationale_input", "mistake_tail")
    )
    assert not [str(warning.message) for warning in recwarn if "not known" in str(warning.message)]


@pytest.mark.parametrize(("former", "rationale"), KEPT.items())
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_pair_of_version_0_1_comes_back_as_it_was(
    tiny_pair: PairOf,
    tmp_path: Path,
    former: tuple[str, str, bool],
    rationale: str,
    family: str,
    recwarn: Any,
    caplog: Any,
):
    pair = tiny_pair(family, copilot={"num_hidden_layers": 2, "rationale": rationale})
    save_former_pair(pair, tmp_path / "old", *former)
    loaded = type(pair).from_pretrained(tmp_path / "old")
    check_loaded(loaded, pair, rationale, recwarn)
    if family == "llama":
        check_loaded(AutoModelForCausalLM.from_pretrained(tmp_path / "old"), pair, rationale, recwarn)
        assert AutoConfig.from_pretrained(tmp_path / "old").copilot.rationale == rationale
    loaded.save_pretrained(tmp_path / "new")
    check_loaded(type(pair).from_pretrained(tmp_path / "new"), pair, rationale, recwarn)
    assert "not used" not in caplog.text


@pytest.mark.parametrize(("former", "rationale"), KEPT.items())
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_copilot_of_version_0_1_joins_its_pilot(
    tiny_pair: PairOf,
    tmp_path: Path,
    former: tuple[str, str, bool],
    rationale: str,
    family: str,
    recwarn: Any,
    caplog: Any,
):
    pair = tiny_pair(family, copilot={"num_hidden_layers": 2, "rationale": rationale}, copilot_weight=0.7)
    save_former_copilot(pair, tmp_path / "old", *former)
    kind = PilotCopilotForSeq2SeqLM if family == "t5" else PilotCopilotForCausalLM
    loaded = kind.from_pilot(pair.pilot, copilot=str(tmp_path / "old"))
    assert loaded.config.copilot_weight == 0.7
    check_loaded(loaded, pair, rationale, recwarn)
    assert "not used" not in caplog.text


@pytest.mark.parametrize("former", DROPPED)
def test_a_combination_that_was_dropped_is_refused_by_name(
    tiny_pair: PairOf, tmp_path: Path, former: tuple[str, str, bool]
):
    window, pooling, own_input = former
    message = (
        f"rationale_window='{window}', rationale_pooling='{pooling}' and rationale_input={own_input}, of which only "
        "some combinations were kept: 'preceding', 'current', 'last', 'depths'.* load it with version 0.1"
    )
    pair = tiny_pair(copilot={"num_hidden_layers": 2, "rationale": "last" if own_input else "current"})
    save_former_pair(pair, tmp_path / "pair", *former)
    with pytest.raises(ValueError, match=message):
        PilotCopilotForCausalLM.from_pretrained(tmp_path / "pair")
    with pytest.raises(ValueError, match=message):
        PilotCopilotConfig.from_pretrained(tmp_path / "pair")
    save_former_copilot(pair, tmp_path / "copilot", *former)
    with pytest.raises(ValueError, match=message):
        PilotCopilotForCausalLM.from_pilot(pair.pilot, copilot=str(tmp_path / "copilot"))


def test_every_former_combination_is_kept_or_dropped():
    for window in ("preceding", "current"):
        for pooling in ("mean", "last"):
            for own_input in (False, True):
                former = (window, pooling, own_input)
                if former in KEPT:
                    assert CopilotConfig.rationale_of_former(*former) == KEPT[former]
                    continue
                with pytest.raises(ValueError, match="only some combinations were kept"):
                    CopilotConfig.rationale_of_former(*former)


def test_a_file_older_than_pooling_is_one_of_means(tiny_pair: PairOf, tmp_path: Path, recwarn: Any):
    pair = tiny_pair(copilot={"num_hidden_layers": 2, "rationale": "current"})
    save_former_pair(pair, tmp_path, "current", "mean", False)

    def change(values: dict[str, Any]) -> None:
        del values["rationale_pooling"], values["copilot"]["rationale_input"], values["mistake_tail"]

    rewrite(tmp_path / "config.json", change)
    check_loaded(PilotCopilotForCausalLM.from_pretrained(tmp_path), pair, "current", recwarn)


@pytest.mark.parametrize("kind", ["linear", "branch", "decoder", "decoder-pilot-head", "seq2seq", "adapters"])
def test_a_pair_saved_before_the_package_had_folders_says_what_it_said(kind: str) -> None:
    auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    pair = auto.from_pretrained(SAVED / kind).eval()
    given = {"decoder_input_ids": SAVED_IDS[:, :4]} if kind == "seq2seq" else {}
    with torch.no_grad():
        found = pair(SAVED_IDS, **given).logits
    torch.testing.assert_close(found, load_file(SAVED / "logits.safetensors")[kind], atol=1e-5, rtol=1e-5)


def test_a_copilot_saved_alone_before_that_joins_its_pilot() -> None:
    # That Pilot is the one beside the same seed's linear Copilot.
    pilot = AutoModelForCausalLM.from_pretrained(SAVED / "linear").pilot
    pair = PilotCopilotForCausalLM.from_pilot(pilot, copilot=str(SAVED / "copilot-alone")).eval()
    with torch.no_grad():
        found = pair(SAVED_IDS).logits
    torch.testing.assert_close(found, load_file(SAVED / "logits.safetensors")["copilot-alone"], atol=1e-5, rtol=1e-5)
