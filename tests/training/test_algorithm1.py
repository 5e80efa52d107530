"""Three rounds of training with the paper's options against a plain reference of Algorithm 1."""

import copy
import functools

import pytest

from tests.helpers.reference_training import algorithm1
from tests.helpers.training_helpers import collate, largest_difference, make_pair, make_trainer, state


PILOT_LR, COPILOT_LR = 3e-3, 5e-3
# AdamW makes whole steps of gradients near zero, which processors round differently; a wrong round moves it over 1e-4.
ROUNDING = 5e-5


@pytest.mark.parametrize("random_head", [False, True], ids=["f=0", "f≠0"])
@pytest.mark.parametrize(
    ("family", "side"), [("llama", "right"), ("llama", "left"), ("llama-tied", "right"), ("t5", "right")]
)
def test_three_rounds_equal_the_reference(tmp_path, family, side, random_head):
    pair = make_pair(family, paper=True, random_head=random_head)
    reference, before = copy.deepcopy(pair), state(pair)
    trainer = make_trainer(
        tmp_path,
        pair,
        data_collator=functools.partial(collate, side=side),
        max_steps=3,
        learning_rate=PILOT_LR,
        copilot_learning_rate=COPILOT_LR,
        lr_scheduler_type="constant",
        mistake_log_dtype="float32",
        seed=9,
    )
    trainer.train()
    assert trainer.drawn == [0, 0, 2]  # a past round and the present one
    algorithm1(reference, trainer.batches, trainer.drawn, PILOT_LR, COPILOT_LR)
    for part in ("pilot", "copilot"):
        trained, expected = state(getattr(pair, part)), state(getattr(reference, part))
        assert largest_difference(trained, expected) <= ROUNDING, part
        untrained = {name[len(part) + 1 :]: value for name, value in before.items() if name.startswith(part + ".")}
        assert largest_difference(trained, untrained) > 1e-3, part


def test_the_reference_would_see_a_wrong_round(tmp_path):
    pair = make_pair(paper=True, random_head=True)
    reference = copy.deepcopy(pair)
    arguments = {"max_steps": 3, "lr_scheduler_type": "constant", "mistake_log_dtype": "float32", "seed": 9}
    trainer = make_trainer(tmp_path, pair, learning_rate=PILOT_LR, copilot_learning_rate=COPILOT_LR, **arguments)
    trainer.train()
    algorithm1(reference, trainer.batches, [0, 1, 2], PILOT_LR, COPILOT_LR)
    assert largest_difference(state(pair.pilot), state(reference.pilot)) <= 1e-5
    assert largest_difference(state(pair.copilot), state(reference.copilot)) > 1e-4
