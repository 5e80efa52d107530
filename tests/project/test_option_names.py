"""An option's value that nobody knows is refused wherever it is branched on: it never passes for the last branch."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import transformers_copilot
from tests.helpers.training_helpers import collate, make_pair, make_trainer, reversal_rows
from transformers_copilot import (
    CopilotConfig,
    CopilotModel,
    CopilotTrainingArguments,
    MistakeRecord,
    PilotCopilotConfig,
    fit_copilot_weight,
)
from transformers_copilot.pair.compatibility import check_head
from transformers_copilot.pair.copilot_forms import new_copilot
from transformers_copilot.pair.correction import feedback_kind, predicted_feedback, reads_mistakes
from transformers_copilot.pair.fusion import rectified_log_probabilities, rectify, rectify_shift
from transformers_copilot.pair.masks import copilot_masks
from transformers_copilot.pair.mistake_batch import lesson_positions
from transformers_copilot.pair.modeling_copilot import make_norm
from transformers_copilot.pair.objectives import copilot_objective
from transformers_copilot.pair.options import COPILOT_VALUES, OPTION_VALUES, TRAINING_VALUES


VALUES = {**OPTION_VALUES, **COPILOT_VALUES, **TRAINING_VALUES}
F = torch.zeros(2, 5)
SEEN = torch.ones(1, 2, 2, dtype=torch.bool)
LABELS = torch.tensor([[1, 2]])


def of_config(**wrong: object) -> CopilotConfig:
    """A Copilot's configuration with a value that was set after its checks."""
    config = CopilotConfig(vocab_size=5, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    for name, value in wrong.items():
        setattr(config, name, value)
    return config


def of_form(form: str) -> CopilotConfig:
    """The configuration of a form; of one that is not known, set after its checks."""
    pilot = make_pair().pilot.config
    if form in COPILOT_VALUES["form"]:
        return CopilotConfig.from_pilot(
            pilot, form=form, **({} if form == "linear" else {"num_hidden_layers": 1 + (form == "decoder")})
        )
    config = CopilotConfig.from_pilot(pilot, num_hidden_layers=2)
    config.form = form
    return config


def set_later(pair: Any, **wrong: str) -> Any:
    """A pair of whose configuration, or of whose Copilot's, a value was set after its checks."""
    for name, value in wrong.items():
        setattr(pair.copilot.config if name in COPILOT_VALUES else pair.config, name, value)
    return pair


def record() -> MistakeRecord:
    pair = make_pair().train()
    outputs = pair(**collate(reversal_rows(2)), return_mistakes=True)
    return MistakeRecord.from_batch(outputs.mistakes)


def drawn(value: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.args.mistake_log_draw = value
    trainer.train()


def stored(value: str, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.args.mistake_log_dtype = value
    trainer.train()


# Every function that branches on an option: the option, and the function called with a value for it.
FUNCTIONS: list[tuple[str, Callable[[str], object]]] = [
    ("fusion", lambda value: rectified_log_probabilities(F, F, 1.0, value)),
    ("fusion", lambda value: rectify_shift(F, F, 1.0, value)),
    ("fusion", lambda value: rectify(F, F, 1.0, value)),
    ("fusion", lambda value: rectify(F, F, 0.0, value)),
    ("fusion", lambda value: predicted_feedback(F, F, value)),
    ("fusion", lambda value: copilot_objective(F, F + 0.2, torch.tensor([1, 2]), "mse", value)),
    ("objective", lambda value: copilot_objective(F, F + 0.2, torch.tensor([1, 2]), value, "logits")),
    ("rationale", lambda value: copilot_masks(SEEN, 0, value, torch.float32)),
    ("rationale", lambda value: of_config(rationale=value).rationale_states),
    ("rationale", lambda value: of_config(rationale=value).reads_own_rationale),
    ("rationale", lambda value: CopilotModel(of_config(rationale=value))),
    ("rationale", lambda value: set_later(make_pair(), rationale=value).copilot.layers_read(6)),
    ("form", lambda value: new_copilot(of_form(value))),
    ("form", lambda value: feedback_kind(set_later(make_pair(), form=value))),
    ("error_feedback", lambda value: feedback_kind(set_later(make_pair(), error_feedback=value))),
    ("error_feedback", lambda value: reads_mistakes(set_later(make_pair(), error_feedback=value))),
    ("mistakes_from", lambda value: lesson_positions(LABELS, LABELS > 0, None, value)),
    ("mistakes_from", lambda value: record().count_supervised(value)),
    ("norm_type", lambda value: make_norm(of_config(norm_type=value), 8)),
    ("head", lambda value: CopilotModel(of_config(head=value))),
    ("head", lambda value: check_head(make_pair().pilot, of_config(head=value, pilot_hidden_size=16))),
]
# What a user sets on a pair's configuration after it was made, met by what users do with a pair.
USES: dict[str, Callable[[object], object]] = {
    "scoring": lambda pair: pair.eval()(input_ids=LABELS),
    "a step of training": lambda pair: pair.train()(**collate(reversal_rows(2))),
    "generating": lambda pair: pair.eval().generate(LABELS, max_new_tokens=2, do_sample=False),
    "fitting λ": lambda pair: fit_copilot_weight(pair.eval(), reversal_rows(2), data_collator=collate, progress=False),
}
# Where an option plays no part it is not looked at: scoring has no lessons.
NO_PART = {
    ("scoring", "objective"),
    ("scoring", "mistakes_from"),
    ("generating", "objective"),
    ("generating", "mistakes_from"),
    ("fitting λ", "objective"),
    ("fitting λ", "mistakes_from"),
}


@pytest.mark.parametrize(
    ("name", "call"), FUNCTIONS, ids=[f"{place}-{name}" for place, (name, _) in enumerate(FUNCTIONS)]
)
def test_a_function_refuses_an_unknown_value(name: str, call: Callable[[str], object]) -> None:
    for value in VALUES[name]:
        call(value)
    with pytest.raises(
        ValueError, match=f"`{name}` is 'sideways', which is not one of its values: '{VALUES[name][0]}'"
    ):
        call("sideways")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", OPTION_VALUES)
def test_a_pair_refuses_an_unknown_value_that_was_set_later(name: str, use: str) -> None:
    pair = make_pair(random_head=True)
    setattr(pair.config, name, "sideways")
    if (use, name) in NO_PART:
        USES[use](pair)
        return
    with pytest.raises(ValueError, match=f"`{name}` is 'sideways'"):
        USES[use](pair)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ["form", "head", "rationale"])
def test_a_pair_refuses_an_unknown_kind_of_copilot_that_was_set_later(name: str, use: str) -> None:
    pair = set_later(make_pair(random_head=True), **{name: "sideways"})
    with pytest.raises(ValueError, match=f"`{name}` is 'sideways'"):
        USES[use](pair)


@pytest.mark.parametrize(("name", "train"), [("mistake_log_draw", drawn), ("mistake_log_dtype", stored)])
def test_a_training_refuses_an_unknown_value_that_was_set_later(
    name: str, train: Callable[[str, Path], None], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is 'sideways'"):
        train("sideways", tmp_path)


@pytest.mark.parametrize(
    ("make", "names"),
    [(PilotCopilotConfig, OPTION_VALUES), (CopilotConfig, COPILOT_VALUES), (CopilotTrainingArguments, TRAINING_VALUES)],
)
def test_what_holds_options_refuses_an_unknown_value(make: Callable[..., object], names: dict[str, object]) -> None:
    for name in names:
        with pytest.raises(ValueError, match=f"`{name}` is 'sideways'"):
            make(**{name: "sideways"})


def test_every_branch_on_an_option_is_checked() -> None:
    """A comparison of an option with one of its values stands in a function that refuses what is not known."""
    found, unchecked = 0, []
    for file in Path(transformers_copilot.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            calls = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
            checks = any(name.endswith(("chosen", "check_option")) for name in calls)
            for node in ast.walk(function):
                if isinstance(node, ast.Compare) and is_branch(node):
                    found += 1
                    if not checks:
                        unchecked.append(f"{file.name}:{node.lineno}: {ast.unparse(node)}")
    assert found > 15 and not unchecked, unchecked


def is_branch(node: ast.Compare) -> bool:
    """`fusion == "logits"`, `pair.config.head != "own"`, `chosen("head", …) == "pilot"`."""
    values = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    name = ast.unparse(node.left).split("(")[0].split(".")[-1]
    if name == "chosen":
        return True
    return name in VALUES and any(value in VALUES[name] for value in values)
