"""Which class of a Copilot's trainer answers which call: ours before the Trainer's, and no method of ours twice."""

import inspect

import pytest
from transformers import Seq2SeqTrainer, Trainer
from trl import SFTTrainer

from transformers_copilot import CopilotSeq2SeqTrainer, CopilotTrainer, CopilotTrainerMixin
from transformers_copilot.training.trainer_evaluation import CopilotEvaluationMixin
from transformers_copilot.training.trainer_saving import CopilotSavingMixin


OURS = (CopilotTrainerMixin, CopilotEvaluationMixin, CopilotSavingMixin)
# What ours does in the place of the Trainer's method, and not before or after it.
REPLACED = {"create_model_card", "push_to_hub", "_push_from_checkpoint"}
every_trainer = pytest.mark.parametrize("trainer", [Trainer, Seq2SeqTrainer, SFTTrainer])


def methods(owner):
    return {name: value for name, value in vars(owner).items() if inspect.isfunction(value)}


def asks_super(function):
    return "__class__" in function.__code__.co_freevars


def test_no_method_stands_in_two_of_our_classes():
    names = [name for owner in OURS for name in methods(owner)]
    assert sorted(names) == sorted(set(names)) and {"train", "compute_loss", "evaluate", "_save"} <= set(names)


@every_trainer
def test_super_reaches_the_trainers_own_method(trainer):
    class Mixed(CopilotTrainerMixin, trainer):
        pass

    assert Mixed.__mro__ == (Mixed, *OURS, *trainer.__mro__)
    for owner in OURS:
        for name, function in methods(owner).items():
            if name == "__init_subclass__":
                continue
            assert inspect.getattr_static(Mixed, name) is function
            if asks_super(function):
                assert getattr(super(owner, Mixed), name) is getattr(trainer, name)


@every_trainer
def test_what_replaces_a_trainers_method_is_known(trainer):
    ours = {name: function for owner in OURS for name, function in methods(owner).items()}
    replaced = {name for name, function in ours.items() if name in dir(trainer) and not asks_super(function)}
    assert replaced == REPLACED


def test_the_seq2seq_trainer_asks_ours_and_ours_asks_transformers():
    assert CopilotTrainer.__mro__ == (CopilotTrainer, *OURS, *Trainer.__mro__)
    assert CopilotSeq2SeqTrainer.__mro__ == (CopilotSeq2SeqTrainer, *OURS, *Seq2SeqTrainer.__mro__)
    overridden = methods(CopilotSeq2SeqTrainer).keys() & set(dir(Seq2SeqTrainer))
    assert overridden == {"evaluate", "predict", "prediction_step"}
    for name in overridden:
        assert getattr(super(CopilotSeq2SeqTrainer, CopilotSeq2SeqTrainer), name) is vars(CopilotEvaluationMixin)[name]


@every_trainer
def test_a_trainers_class_before_ours_is_refused(trainer):
    with pytest.raises(TypeError, match="Wrong has its Trainer's class before CopilotTrainerMixin"):

        class Wrong(trainer, CopilotTrainerMixin):
            pass
