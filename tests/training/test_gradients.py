"""What each loss may move: the Pilot's only the Pilot, the Copilot's only the Copilot."""

import copy

import peft
import pytest
import torch
from torch import nn
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)


CASES = [
    ("llama", "own", {}),
    ("llama", "pilot", {}),
    ("llama-tied", "pilot", {}),
    ("llama-tied", "pilot", {"fusion": "probability", "objective": "rmse", "mistakes_from": "all"}),
    ("gpt2", "pilot", {"objective": "kl", "copilot": {"num_hidden_layers": 2, "rationale": "current"}}),
    ("t5", "own", {"objective": "mse"}),
    ("t5", "pilot", {}),
    ("llama", "pilot", {"error_feedback": "token", "copilot": {"num_hidden_layers": 2, "rationale": "depths"}}),
    ("gpt2", "own", {"error_feedback": "token", "copilot": {"num_hidden_layers": 2, "rationale": "last"}}),
    ("llama-tied", None, {"copilot": {"form": "linear"}}),
    ("gpt2", None, {"copilot": {"form": "linear"}, "fusion": "probability", "objective": "mse"}),
    ("t5", None, {"copilot": {"form": "linear"}}),
    ("llama-tied", None, {"copilot": {"form": "branch", "num_hidden_layers": 1}}),
    ("gpt2", None, {"copilot": {"form": "branch", "num_hidden_layers": 1}, "objective": "rmse"}),
    ("t5", None, {"copilot": {"form": "branch", "num_hidden_layers": 1}}),
]


def training_pair(family, head, options):
    """A pair in training mode whose Copilot has something to say, and a batch."""
    pair = make_pair(family, head=head, random_head=True, **options).train()
    return pair, collate(reversal_rows(4, seq2seq=family == "t5"))


def with_gradient(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("family", "head", "options"), CASES)
def test_the_copilot_loss_reaches_the_copilot_alone(family, head, options):
    pair, batch = training_pair(family, head, options)
    record = pair(**batch, return_mistakes=True).mistakes
    pair(mistake_round=record).loss.backward()
    assert with_gradient(pair.pilot) == []
    # What a branch shares with its Pilot (T5's positions) does not learn.
    learning = {name: parameter for name, parameter in pair.copilot.named_parameters() if parameter.requires_grad}
    assert with_gradient(pair.copilot) == list(learning)
    assert all(parameter.grad.abs().sum() > 0 for parameter in learning.values())


@pytest.mark.parametrize(("family", "head", "options"), CASES)
def test_the_copilot_loss_on_the_batch_itself_does_not_reach_the_pilot(family, head, options):
    pair, batch = training_pair(family, head, options)
    pair(**batch, copilot_scale=0.0).loss.backward()
    without = {name: parameter.grad for name, parameter in pair.pilot.named_parameters()}
    pair.zero_grad()
    pair(**batch, copilot_scale=1000.0).loss.backward()
    for name, parameter in pair.pilot.named_parameters():
        assert torch.equal(parameter.grad, without[name]), name


@pytest.mark.parametrize(("family", "head", "options"), CASES)
def test_the_pilot_loss_reaches_the_pilot_alone(family, head, options):
    pair, batch = training_pair(family, head, options)
    expected = copy.deepcopy(pair.pilot)
    expected(**batch).loss.backward()
    pair(**batch, copilot_scale=0.0).loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in pair.copilot.parameters())
    for (name, ours), theirs in zip(pair.pilot.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@pytest.mark.parametrize(
    ("family", "head", "options"),
    [
        *[("llama", "own", {}), ("llama-tied", "pilot", {}), ("t5", "pilot", {})],
        ("llama-tied", None, {"copilot": {"form": "linear"}}),
        ("llama-tied", None, {"copilot": {"form": "branch", "num_hidden_layers": 1}}),
    ],
)
def test_a_frozen_pilot_is_only_read(tmp_path, family, head, options):
    pair = make_pair(family, head=head, **options)
    before = state(pair)
    arguments = {"weight_decay": 0.1, "copilot_steps_per_round": 2, "gradient_accumulation_steps": 2}
    trainer = make_trainer(tmp_path, pair, freeze_pilot=True, **arguments)
    trainer.train()
    after = state(pair)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("pilot."))
    assert any(not torch.equal(after[name], before[name]) for name in before if name.startswith("copilot."))
    own = {id(parameter) for parameter in pair.copilot.parameters()}
    optimised = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
    assert optimised == own
    assert {id(parameter) for parameter in trainer.optimizer.state} == own
    assert with_gradient(pair.pilot) == []


def test_a_frozen_pilot_has_no_dropout(tmp_path):
    pair = make_pair("gpt2", pilot=make_pilot("gpt2", resid_pdrop=0.5, embd_pdrop=0.5))
    trainer = make_trainer(tmp_path, pair, freeze_pilot=True)
    trainer.train()
    assert not pair.pilot.training and not any(module.training for module in pair.pilot.modules())
    assert pair.copilot.training
    pair.train()
    batch = collate(reversal_rows(4))
    assert torch.equal(
        pair(**batch).logits, pair.pilot(**{n: batch[n] for n in ("input_ids", "attention_mask")}).logits
    )


def collator_for(pilot):
    """With the decoder's input, which transformers' label smoothing of an encoder-decoder needs."""
    if not pilot.config.is_encoder_decoder:
        return collate

    def collator(rows):
        batch = collate(rows)
        return {**batch, "decoder_input_ids": pilot.prepare_decoder_input_ids_from_labels(labels=batch["labels"])}

    return collator


def train_alone(folder, pilot, rows, **arguments):
    """The Pilot alone with transformers' own Trainer."""
    seq2seq = pilot.config.is_encoder_decoder
    given = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, **arguments}
    args = (Seq2SeqTrainingArguments if seq2seq else TrainingArguments)(str(folder), **given)
    trainer = (Seq2SeqTrainer if seq2seq else Trainer)(
        model=pilot, args=args, train_dataset=rows, data_collator=collator_for(pilot)
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("family", "head", "arguments", "own"),
    [
        ("llama", "own", {}, {}),
        ("llama-tied", "pilot", {"weight_decay": 0.1, "max_grad_norm": 0.05}, {}),
        ("llama", "own", {"gradient_accumulation_steps": 2}, {"copilot_steps_per_round": 3}),
        ("llama", "own", {"lr_scheduler_type": "cosine", "warmup_steps": 2}, {"copilot_warmup_steps": 1}),
        ("llama", "own", {"label_smoothing_factor": 0.1}, {"mistakes_from": "all"}),
        ("llama", "own", {"max_grad_norm": 0.0}, {"copilot_max_grad_norm": 0.5}),
        ("llama", "own", {}, {"use_mistake_log": False}),
        ("llama", "pilot", {"bf16": True}, {}),
        ("gpt2-dropout", "own", {}, {}),
        ("t5", "own", {"label_smoothing_factor": 0.1}, {}),
        ("t5", "pilot", {"optim": "adafactor"}, {}),
        ("llama-tied", "linear", {"weight_decay": 0.1}, {}),
        ("gpt2-dropout", "branch", {}, {"copilot_steps_per_round": 2}),
        ("t5", "branch", {}, {}),
    ],
)
def test_the_pilot_learns_as_it_would_alone(tmp_path, family, head, arguments, own):
    """Same data, seed and clipping: a Copilot beside it doesn't change what the Pilot becomes."""
    changes = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2} if "dropout" in family else {}
    alone = make_pilot(family.removesuffix("-dropout"), **changes)
    form = {"linear": {"form": "linear"}, "branch": {"form": "branch", "num_hidden_layers": 1}}.get(head)
    pair = make_pair(pilot=copy.deepcopy(alone), **({"head": head} if form is None else {"copilot": form}))
    rows = reversal_rows(22, seq2seq=family == "t5")  # an epoch ends with a smaller batch, and an incomplete step
    shared = {"num_train_epochs": 2, "max_steps": -1, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    shared = {**shared, "seed": 7, **arguments}
    make_trainer(tmp_path / "pair", pair, rows=rows, data_collator=collator_for(alone), **shared, **own).train()
    train_alone(tmp_path / "alone", alone, rows, **shared)
    expected, trained = state(alone), state(pair.pilot)
    # transformers' own label smoothing sums in another order, and AdamW makes much of a gradient near zero.
    tolerance = 1e-3 if family == "t5" and arguments else 1e-6
    for name in expected:
        torch.testing.assert_close(trained[name], expected[name], rtol=0.0, atol=tolerance, msg=name)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("kind", ["dropout", "adapter", "branch", "linear with an adapter"])
def test_the_copilots_dropout_takes_nothing_from_the_pilots_stream(tmp_path, family, kind):
    """The Pilot draws the very masks that it would draw alone; NEFTune's noise and checkpointing among them."""
    changes = {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2} if family == "gpt2" else {"dropout_rate": 0.2}
    alone = make_pilot(family, **changes)
    copilot = {"num_hidden_layers": 2, "dropout": 0.3}
    if kind == "branch":
        copilot = {"form": "branch", "num_hidden_layers": 1}  # its dropout is the Pilot's
    elif kind.startswith("linear"):
        copilot = {"form": "linear"}
    pair = make_pair(pilot=copy.deepcopy(alone), copilot=copilot)
    if "adapter" in kind:
        pair.add_adapters(copilot=peft.LoraConfig(r=2, lora_dropout=0.3))
    rows = reversal_rows(16, seq2seq=family == "t5")
    shared = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "neftune_noise_alpha": 5.0}
    for model in (alone, pair):
        model.activation_checkpointing_enable()
    own = {"copilot_steps_per_round": 2}
    make_trainer(tmp_path / "pair", pair, rows=rows, data_collator=collator_for(alone), **shared, **own).train()
    train_alone(tmp_path / "alone", alone, rows, **shared)
    assert largest_difference(state(alone), state(pair.pilot)) == 0.0


def test_the_copilots_masks_change_with_round_step_and_seed():
    pair, batch = training_pair("llama", "own", {"copilot": {"num_hidden_layers": 2, "dropout": 0.5}})
    losses = []
    for seed, scale in ((0, 1.0), (0, 1.0), (1, 1.0), (0, 1.5)):
        torch.manual_seed(seed)
        torch.rand(len(losses))  # wherever torch's own stream is
        with torch.no_grad():
            pair.copilot.norm.weight.mul_(scale)  # a step was made
            pair.copilot.correction_head.weight.div_(scale)
        losses.append(float(pair(**batch).copilot_loss))
    assert losses[0] == losses[1]
    assert len({round(loss, 5) for loss in losses}) == 3
