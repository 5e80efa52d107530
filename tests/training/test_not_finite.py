"""NaN and infinity in a Copilot are noticed: in training with the round's number, and where λ is fitted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.helpers.training_helpers import collate, make_pair, make_trainer, reversal_rows
from transformers_copilot import MistakeLog, fit_copilot_weight, record_mistakes
from transformers_copilot.pair.loading import check_finite


COPILOTS = [
    ("llama", {"form": "linear"}),
    ("llama", {"form": "decoder", "num_hidden_layers": 2}),
    ("llama", {"form": "branch", "num_hidden_layers": 1}),
    ("t5", {"form": "decoder", "num_hidden_layers": 2}),
]


def spoil(pair: Any, value: float) -> None:
    """Put one such number into every matrix of the Copilot."""
    with torch.no_grad():
        for weight in pair.copilot.parameters():
            weight.view(-1)[0] = value


class SpoilAfter(TrainerCallback):
    """Spoils the Copilot when so many steps are done."""

    def __init__(self, steps: int, value: float) -> None:
        self.steps, self.value = steps, value

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.steps:
            spoil(model, self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
@pytest.mark.parametrize(("family", "copilot"), COPILOTS, ids=str)
def test_training_stops_in_the_round(tmp_path: Path, family: str, copilot: dict[str, Any], value: float) -> None:
    trainer = make_trainer(tmp_path, make_pair(family, copilot=copilot), max_steps=6)
    trainer.add_callback(SpoilAfter(2, value))
    with pytest.raises(ValueError, match=r"round 2: the Copilot's loss is (nan|inf)"):
        trainer.train()
    assert trainer.state.global_step == 2


def test_a_further_step_of_the_round_stops_too(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, make_pair(copilot={"form": "linear"}), max_steps=6, copilot_steps_per_round=2)
    trainer.callback_handler.callbacks.insert(0, SpoilAfter(3, float("nan")))  # before the further step, not after it
    with pytest.raises(ValueError, match="round 3: the Copilot's loss is nan"):
        trainer.train()


COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}


def test_a_compiled_training_stops_in_the_round_too(tmp_path: Path) -> None:
    """A compiled pass looks at no numbers, so the trainer does."""
    trainer = make_trainer(tmp_path, make_pair(copilot={"form": "linear"}), max_steps=6, **COMPILED)
    trainer.add_callback(SpoilAfter(1, float("nan")))
    with pytest.raises(ValueError, match="round 1: the Copilot's loss is nan"):
        trainer.train()
    assert trainer.state.global_step == 1 and len(trainer.mistake_log) == 1


@pytest.mark.parametrize(
    ("field", "value", "told"), [("input_ids", 9_999, "token id 9999"), ("labels", -5, "-5"), ("labels", 9_999, "9999")]
)
def test_a_compiled_training_names_what_is_outside_the_vocabulary(
    tmp_path: Path, field: str, value: int, told: str
) -> None:
    rows = [{**row, field: [*row[field][:-1], value]} for row in reversal_rows(4)]
    trainer = make_trainer(tmp_path, make_pair(copilot={"form": "linear"}), rows=rows, max_steps=1, **COMPILED)
    with pytest.raises(ValueError, match=told):
        trainer.train()


@pytest.mark.parametrize(("family", "copilot"), COPILOTS, ids=str)
def test_training_from_a_record_stops_in_the_round(tmp_path: Path, family: str, copilot: dict[str, Any]) -> None:
    pair, rows = make_pair(family, copilot=copilot), reversal_rows(12, seq2seq=family == "t5")
    record_mistakes(pair.eval(), rows, tmp_path / "record", data_collator=collate, progress=False)
    record = MistakeLog.open(tmp_path / "record")
    trainer = make_trainer(
        tmp_path / "run", pair, rows=record, max_steps=6, freeze_pilot=True, mistake_log_draw="newest"
    )
    trainer.add_callback(SpoilAfter(1, float("nan")))
    with pytest.raises(ValueError, match="round 1: the Copilot's loss is nan"):
        trainer.train()


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
@pytest.mark.parametrize(("family", "copilot"), COPILOTS, ids=str)
def test_a_pilot_that_broke_down_is_not_recorded(
    tmp_path: Path, family: str, copilot: dict[str, Any], value: float
) -> None:
    pair = make_pair(family, copilot=copilot).eval()
    with torch.no_grad():
        pair.get_output_embeddings().weight[3, 0] = value
    with pytest.raises(ValueError, match=r"sequences .* of the data set, .*: the Pilot's logits hold NaN or inf"):
        record_mistakes(
            pair, reversal_rows(4, seq2seq=family == "t5"), tmp_path / "record", data_collator=collate, progress=False
        )
    assert not list((tmp_path / "record").glob("*.safetensors*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
@pytest.mark.parametrize(("family", "copilot"), COPILOTS, ids=str)
def test_no_pair_is_loaded(tmp_path: Path, family: str, copilot: dict[str, Any], value: float) -> None:
    pair = make_pair(family, copilot=copilot)
    spoil(pair, value)
    pair.save_pretrained(tmp_path / "pair")
    pair.save_copilot(tmp_path / "copilot")
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        type(pair).from_pretrained(tmp_path / "pair")
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        type(pair).from_pilot(pair.pilot, copilot=str(tmp_path / "copilot"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_numbers_whose_sum_is_too_large_are_finite(dtype: torch.dtype) -> None:
    largest = torch.full((3, 4), torch.finfo(dtype).max, dtype=dtype)
    check_finite("a pair", {"weight": largest})
    for value in (float("nan"), float("inf"), -float("inf")):
        largest[1, 2] = value
        with pytest.raises(ValueError, match="`weight` of a pair holds NaN or infinity, in 1 of 12 numbers"):
            check_finite("a pair", {"weight": largest})


@pytest.mark.parametrize(("family", "copilot"), COPILOTS, ids=str)
def test_no_weight_is_fitted(family: str, copilot: dict[str, Any]) -> None:
    pair = make_pair(family, copilot=copilot).eval()
    before = pair.config.copilot_weight
    spoil(pair, float("nan"))
    with pytest.raises(ValueError, match="correction holds NaN or infinity on the validation set"):
        fit_copilot_weight(pair, reversal_rows(4, seq2seq=family == "t5"), data_collator=collate, progress=False)
    assert pair.config.copilot_weight == before and pair.config.copilot_weight_fit is None
