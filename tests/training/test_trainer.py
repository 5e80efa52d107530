"""Training a pair with CopilotTrainer, CopilotSeq2SeqTrainer and plain Trainer."""

import copy
import json
import math
import os
import subprocess
import sys
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    DataCollatorWithFlattening,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_scheduler,
)

from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    logged,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)
from transformers_copilot import CopilotTrainer, MistakeLog, MistakeRecord


def split_state(pair):
    return state(pair.pilot), state(pair.copilot)


def plain_trainer(folder, model, rows=None, **arguments):
    """transformers' own Trainer, as `make_trainer` sets ours up."""
    seq2seq = model.config.is_encoder_decoder
    given = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
    given = {**given, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, **arguments}
    args = (Seq2SeqTrainingArguments if seq2seq else TrainingArguments)(str(folder), **given)
    return (Seq2SeqTrainer if seq2seq else Trainer)(
        model=model,
        args=args,
        train_dataset=reversal_rows(32, seq2seq=seq2seq) if rows is None else rows,
        eval_dataset=reversal_rows(10, seed=1, seq2seq=seq2seq),
        data_collator=collate,
    )


# ---- gradient accumulation ----

ACCUMULATION = [
    ("llama", {"objective": "mse"}, {}),
    ("llama", {"objective": "cross_entropy"}, {}),
    ("llama", {"objective": "kl", "mistakes_from": "all"}, {}),
    ("llama", {"objective": "mse", "mistakes_from": "all"}, {"held_out_mistakes": 0.4}),
    ("llama", {"objective": "mse"}, {"copilot_steps_per_round": 3}),
    ("llama", {"objective": "mse"}, {"use_mistake_log": False}),
    ("llama", {"objective": "mse", "mistakes_from": "all"}, {"data_collator": DataCollatorWithFlattening()}),
    ("t5", {"objective": "mse"}, {"freeze_pilot": True}),
    ("t5", {"objective": "cross_entropy", "mistakes_from": "all"}, {"freeze_pilot": True}),
]


@pytest.mark.parametrize(("family", "options", "arguments"), ACCUMULATION)
def test_two_batches_of_two_are_one_of_four(tmp_path, family, options, arguments):
    results = []
    for size, accumulation in ((4, 1), (2, 2)):
        pair = make_pair(family, random_head=True, **options)
        given = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, **arguments}
        # Plain SGD: AdamW hides a factor on the gradient. No clipping, for the same reason.
        given = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1, "copilot_learning_rate": 0.01, **given}
        trainer = make_trainer(tmp_path, pair, mistake_log_dtype="float32", **given)
        trainer.train()
        results.append((*split_state(pair), trainer))
    (pilot, copilot, one), (other_pilot, other_copilot, two) = results
    assert one.drawn == two.drawn
    if not arguments.get("use_mistake_log", True):
        assert one.drawn == [] and len(one.mistake_log) == 0
    assert largest_difference(copilot, other_copilot) < 1e-5
    assert largest_difference(copilot, state(make_pair(family, random_head=True).copilot)) > 1e-4
    assert logged(one, "copilot_loss") == pytest.approx(logged(two, "copilot_loss"), abs=2e-4)
    if family == "t5":  # whose own loss is a mean of each batch, summed over them: see the next test
        return
    assert largest_difference(pilot, other_pilot) < 1e-5
    for name in ("loss", "pilot_loss"):
        assert logged(one, name) == pytest.approx(logged(two, name), abs=2e-4), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "t5"])
def test_accumulated_losses_are_the_pilots_own_sum(tmp_path, family):
    """Whatever a family makes of `num_items_in_batch`, the Pilot in a pair learns what it would alone."""
    alone = make_pilot(family)
    given = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "optim": "sgd", "learning_rate": 0.1}
    trainer = make_trainer(tmp_path, make_pair(pilot=copy.deepcopy(alone)), **given)
    trainer.train()
    reference = plain_trainer(tmp_path, alone, **given)
    reference.train()
    assert largest_difference(state(trainer.pair.pilot), state(alone)) == 0.0
    assert logged(trainer, "pilot_loss") == pytest.approx(logged(reference, "loss"), abs=1e-4)


def test_an_incomplete_last_step_is_scaled_by_what_it_has(tmp_path):
    results = []
    for size, accumulation in ((4, 1), (2, 2)):
        pair = make_pair(random_head=True, objective="mse")
        given = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "optim": "sgd"}
        given = {**given, "max_steps": -1, "num_train_epochs": 2, "max_grad_norm": 0.0, "copilot_learning_rate": 0.01}
        make_trainer(tmp_path, pair, rows=reversal_rows(10), mistake_log_dtype="float32", **given).train()
        results.append(state(pair))
    assert largest_difference(*results) < 1e-5


# ---- plain Trainer ----


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_plain_trainer_trains_a_pair(tmp_path, family):
    results = []
    for size, accumulation in ((4, 1), (2, 2)):
        pair = make_pair(family, random_head=True, objective="mse")
        before = split_state(pair)
        given = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "optim": "sgd"}
        trainer = plain_trainer(tmp_path, pair, max_grad_norm=0.0, **given)
        trainer.train()
        assert all(largest_difference(*both) > 1e-4 for both in zip(before, split_state(pair), strict=True))
        results.append(state(pair))
        metrics = trainer.evaluate()
        assert math.isfinite(metrics["eval_loss"])
    if family == "llama":  # T5's own loss is a mean of each batch, summed over them
        assert largest_difference(*results) < 1e-5


def test_plain_trainer_and_ours_without_a_log_do_the_same(tmp_path):
    pairs = [make_pair(random_head=True, objective="mse") for _ in range(2)]
    plain_trainer(tmp_path, pairs[0], optim="sgd", max_grad_norm=0.0).train()
    make_trainer(tmp_path, pairs[1], optim="sgd", max_grad_norm=0.0, use_mistake_log=False).train()
    assert largest_difference(state(pairs[0]), state(pairs[1])) < 1e-6


# ---- rounds ----


def test_every_round_is_drawn_as_often_the_one_under_way_too(tmp_path):
    trainer = make_trainer(tmp_path, mistake_log_rounds=8)
    trainer.train()
    one = trainer.mistake_log[0]
    for full in (False, True):
        log = trainer.mistake_callback.log = MistakeLog(max_rounds=8)
        rounds = [MistakeRecord(**one.tensors()) for _ in range(8 if full else 7)]
        for record in rounds:
            log.append(record)
        counts = Counter()
        for step in range(4000):
            trainer.state.global_step = step
            record = CopilotTrainer._draw(trainer)
            counts[None if record is None else [r is record for r in rounds].index(True)] += 1
        # Algorithm 1 appends before it draws, so of a full log the oldest round has gone by then.
        expected = [*range(1 if full else 0, len(rounds)), None]
        assert set(counts) == set(expected) and len(expected) == 8
        assert sum((counts[number] - 500) ** 2 / 500 for number in expected) < 24.3  # χ² of 7 degrees, 0.1 %


def test_the_newest_round_is_read_first(tmp_path):
    trainer = make_trainer(tmp_path, mistake_log_draw="newest", copilot_steps_per_round=3, max_steps=8)
    trainer.train()
    rounds = [trainer.drawn[start : start + 3] for start in range(0, len(trainer.drawn), 3)]
    assert [first for first, *_ in rounds] == list(range(8))  # the one under way: none is missed
    further = [(step, number) for step, (_, *numbers) in enumerate(rounds) for number in numbers]
    assert len(further) == 16 and all(number <= step for step, number in further)
    assert any(number < step for step, number in further)


def test_reading_only_the_newest_round_is_learning_without_a_log(tmp_path):
    pairs = [make_pair(random_head=True) for _ in range(2)]
    with_log = make_trainer(tmp_path, pairs[0], mistake_log_draw="newest")
    with_log.train()
    make_trainer(tmp_path, pairs[1], use_mistake_log=False).train()
    assert len(with_log.mistake_log) == 4
    assert largest_difference(state(pairs[0]), state(pairs[1])) == 0.0


def test_the_log_is_bounded_and_numbered(tmp_path):
    trainer = make_trainer(tmp_path, mistake_log_rounds=3, max_steps=5, mistake_log_layers=1)
    trainer.train()
    assert trainer.mistake_log.round_numbers == [2, 3, 4] and trainer.mistake_log.total_rounds == 5
    assert logged(trainer, "mistake_log_rounds") == [1, 2, 3, 3, 3]
    last = trainer.batches[-1]
    lengths = last["attention_mask"].sum(-1).tolist()
    assert trainer.mistake_log[-1].lengths.tolist() == lengths
    assert trainer.mistake_log[-1].layers.shape == (2, lengths[0], 16)
    one = trainer.mistake_log[-1].nbytes
    smaller = make_trainer(tmp_path, mistake_log_max_bytes=int(2.5 * one), max_steps=6, mistake_log_layers=1)
    smaller.train()
    assert len(smaller.mistake_log) < 4 and smaller.mistake_log.nbytes <= 2.5 * one


def test_accumulated_batches_are_one_round(tmp_path):
    trainer = make_trainer(tmp_path, gradient_accumulation_steps=3, per_device_train_batch_size=2, max_steps=2)
    trainer.train()
    assert len(trainer.mistake_log) == 2 and len(trainer.batches) == 6
    ids = [row[row != 0].tolist() for batch in trainer.batches[3:] for row in batch["input_ids"]]
    assert trainer.mistake_log[1].token_ids.tolist() == sum(ids, [])


def test_a_log_that_is_given_is_gone_on_with(tmp_path):
    empty = MistakeLog(max_rounds=2)
    trainer = make_trainer(tmp_path, trainer_kwargs={"mistake_log": empty}, max_steps=3)
    assert trainer.mistake_log is empty
    trainer.train()
    assert empty.round_numbers == [1, 2] and empty.fingerprint["architecture"] == "LlamaForCausalLM"
    again = make_trainer(tmp_path, trainer_kwargs={"mistake_log": empty}, max_steps=1)
    again.train()
    assert len(empty) == 2 and empty.total_rounds == 4


def test_a_frozen_embedding_is_not_logged(tmp_path):
    for frozen in (True, False):
        trainer = make_trainer(tmp_path, freeze_pilot=frozen, max_steps=2)
        trainer.train()
        assert (trainer.mistake_log[0].question is None) == frozen


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_copilot_steps_several_times_a_round(tmp_path, accumulation):
    pair = make_pair()
    given = {"copilot_steps_per_round": 3, "max_steps": 5, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(tmp_path, pair, per_device_train_batch_size=2, **given)
    trainer.train()
    assert len(trainer.drawn) == 5 * 3
    steps = {
        part: {int(trainer.optimizer.state[p]["step"]) for p in module.parameters()}
        for part, module in (("pilot", pair.pilot), ("copilot", pair.copilot))
    }
    assert steps == {"pilot": {5}, "copilot": {15}}
    once = make_trainer(tmp_path, make_pair(), per_device_train_batch_size=2, **{**given, "copilot_steps_per_round": 1})
    once.train()
    assert logged(trainer, "copilot_grad_norm")[0] == pytest.approx(logged(once, "copilot_grad_norm")[0], rel=1e-3)


def test_mistakes_from_every_position(tmp_path):
    pair = make_pair(random_head=True, objective="mse", mistake_top_k=None)
    start = copy.deepcopy(pair).eval()
    trainer = make_trainer(tmp_path, pair, mistakes_from="all", max_steps=1)
    trainer.train()
    assert pair.config.mistakes_from == "all"
    batch = trainer.batches[0]
    with torch.no_grad():
        output = start(**batch, return_correction=True)
    known = batch["attention_mask"][:, 1:].bool()
    mistakes = F.one_hot(batch["input_ids"][:, 1:], 23) - output.pilot_logits[:, :-1].softmax(-1)
    expected = (output.correction[:, :-1] - mistakes)[known].square().sum(-1).mean()
    assert logged(trainer, "copilot_loss")[0] == pytest.approx(float(expected), abs=1e-4)


def test_training_goes_on_after_an_interrupted_step(tmp_path):
    class Interrupt(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    arguments = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 3, "seed": 9}
    pairs = [make_pair(random_head=True) for _ in range(2)]
    undisturbed = make_trainer(tmp_path, pairs[0], **arguments)
    undisturbed.train()
    trainer = make_trainer(tmp_path, pairs[1], **arguments)
    interrupt = Interrupt()
    trainer.add_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(interrupt)
    trainer.drawn.clear()
    trainer.train()
    assert trainer.drawn == undisturbed.drawn and len(trainer.mistake_log) == 3
    assert largest_difference(state(pairs[0]), state(pairs[1])) < 1e-6


# ---- batches without a supervised token ----


def unlabelled(rows):
    return [{**row, "labels": [-100] * len(row["labels"])} for row in rows]


@pytest.mark.parametrize("mistakes_from", ["labels", "all"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_rounds_without_a_supervised_token_are_skipped_and_counted(tmp_path, accumulation, mistakes_from):
    rows = [*unlabelled(reversal_rows(2)), *reversal_rows(2, seed=1), *unlabelled(reversal_rows(4, seed=2))]
    rows.insert(5, reversal_rows(1, seed=3)[0])  # in a step of two batches, one with and one without
    pair = make_pair(mistakes_from=mistakes_from)
    given = {"gradient_accumulation_steps": accumulation, "train_sampling_strategy": "sequential"}
    trainer = make_trainer(
        tmp_path, pair, rows=rows, per_device_train_batch_size=1, max_steps=8 // accumulation, **given
    )
    trainer.train()
    steps = 8 // accumulation
    labelled = {2, 3, 5} if accumulation == 1 else {1, 2}
    kept = sorted(labelled) if mistakes_from == "labels" else list(range(steps))
    assert trainer.mistake_log.round_numbers == kept
    assert trainer.mistake_log.skipped_rounds == steps - len(kept)
    if mistakes_from == "labels":
        assert logged(trainer, "mistake_log_skipped_rounds")[-1] == steps - len(kept)
    assert all(tensor.isfinite().all() for tensor in state(pair).values())
    for name in ("loss", "pilot_loss", "copilot_loss", "grad_norm"):
        assert np.isfinite(logged(trainer, name)).all(), name


def test_a_set_without_any_label_changes_nothing(tmp_path):
    pair = make_pair()
    before = state(pair)
    trainer = make_trainer(tmp_path, pair, rows=unlabelled(reversal_rows(8)), max_steps=2, copilot_steps_per_round=2)
    trainer.train()
    assert largest_difference(before, state(pair)) == 0.0
    assert len(trainer.mistake_log) == 0 and trainer.mistake_log.skipped_rounds == 2


# ---- held-out rows ----


@pytest.mark.parametrize("form", ["list", "datasets"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_held_out_rows_teach_the_copilot_alone(tmp_path, form, accumulation):
    rows = reversal_rows(24)
    given = {"gradient_accumulation_steps": accumulation, "max_steps": 6, "seed": 4}
    pair, alone = make_pair(), make_pilot()
    dataset = rows if form == "list" else datasets.Dataset.from_list(rows)
    trainer = make_trainer(tmp_path, pair, rows=dataset, held_out_mistakes=0.5, **given)
    flags = [bool(row["held_out"]) for row in trainer.train_dataset]
    assert sum(flags) == 12
    trainer.train()
    # The Pilot alone, on the same batches, with the held-out rows' labels removed.
    masked = [unlabelled([row])[0] if flag else row for row, flag in zip(rows, flags, strict=True)]
    reference = plain_trainer(tmp_path, alone, masked, **given)
    reference.train()
    assert largest_difference(state(pair.pilot), state(alone)) < 1e-6
    assert logged(trainer, "pilot_loss") == pytest.approx(logged(reference, "loss"), abs=2e-4)
    # The log has their mistakes too.
    supervised = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in trainer.batches)
    assert sum(record.count_supervised("labels") for record in trainer.mistake_log) == supervised


def test_the_same_seed_holds_out_the_same_rows(tmp_path):
    flags = []
    for seed in (1, 1, 2):
        trainer = make_trainer(tmp_path, held_out_mistakes=0.25, seed=seed)
        flags.append([row["held_out"] for row in trainer.train_dataset])
    assert flags[0] == flags[1] != flags[2] and sum(flags[0]) == 8


@pytest.mark.parametrize("seed", [0, 42])
def test_held_out_rows_are_spread_over_the_epoch(tmp_path, seed):
    trainer = make_trainer(tmp_path, rows=reversal_rows(96), held_out_mistakes=0.25, seed=seed, max_steps=24)
    trainer.train()
    flags = torch.cat([batch["held_out"] for batch in trainer.batches])
    assert flags.sum() == 24
    assert all(1 <= quarter.sum() <= 12 for quarter in flags.split(24))


def test_a_batch_of_held_out_rows_alone_is_no_division_by_zero(tmp_path):
    pair = make_pair()
    trainer = make_trainer(tmp_path, pair, rows=reversal_rows(4), held_out_mistakes=0.9, per_device_train_batch_size=1)
    assert sum(row["held_out"] for row in trainer.train_dataset) == 3
    trainer.train()
    assert all(tensor.isfinite().all() for tensor in state(pair).values())
    assert logged(trainer, "pilot_loss").count(0.0) == 3
    assert len(trainer.mistake_log) == 4


# ---- optimiser, schedules, clipping ----


class Watch(TrainerCallback):
    """Notes learning rates and both parts' gradient norms just before each optimiser step."""

    def __init__(self, pair):
        self.pair, self.rates, self.norms = pair, [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        rates = {part: {g["lr"] for g in optimizer.param_groups if g["part"] == part} for part in ("pilot", "copilot")}
        assert all(len(values) == 1 for values in rates.values())
        self.rates.append(tuple(values.pop() for values in rates.values()))
        norms = [
            torch.cat([p.grad.flatten() for p in part.parameters()]).norm()
            for part in (self.pair.pilot, self.pair.copilot)
        ]
        self.norms.append([float(norm) for norm in norms])


def watched(folder, pair=None, **arguments):
    pair = make_pair(random_head=True) if pair is None else pair
    trainer = make_trainer(folder, pair, **arguments)
    watch = Watch(pair)
    trainer.add_callback(watch)
    trainer.train()
    return trainer, watch


def schedule(kind, peak, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = get_scheduler(kind, optimizer=optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("arguments", "pilot", "copilot"),
    [
        ({}, ("linear", 1e-2, 0), ("linear", 1e-2, 0)),
        ({"copilot_learning_rate": 3e-2}, ("linear", 1e-2, 0), ("linear", 3e-2, 0)),
        (
            {"lr_scheduler_type": "cosine", "warmup_steps": 2, "copilot_learning_rate": 1e-3},
            ("cosine", 1e-2, 2),
            ("cosine", 1e-3, 2),
        ),
        (
            {"copilot_lr_scheduler_type": "constant_with_warmup", "copilot_warmup_steps": 0.5},
            ("linear", 1e-2, 0),
            ("constant_with_warmup", 1e-2, 3),
        ),
        ({"warmup_steps": 3, "copilot_warmup_steps": 1}, ("linear", 1e-2, 3), ("linear", 1e-2, 1)),
        ({"warmup_steps": 3, "copilot_lr_scheduler_type": "cosine"}, ("linear", 1e-2, 3), ("cosine", 1e-2, 3)),
    ],
)
def test_each_part_has_its_learning_rate_and_schedule(tmp_path, arguments, pilot, copilot):
    _, watch = watched(tmp_path, max_steps=6, **arguments)
    expected = zip(schedule(*pilot, 6), schedule(*copilot, 6), strict=True)
    assert watch.rates == [pytest.approx(both) for both in expected]


def test_each_part_has_its_weight_decay_and_norms_have_none(tmp_path):
    trainer, _ = watched(tmp_path, weight_decay=0.1, copilot_weight_decay=0.3)
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    names = dict(trainer.model.named_parameters())
    assert len(decay) == len(names)
    for name, parameter in names.items():
        full = 0.1 if name.startswith("pilot.") else 0.3
        assert decay[id(parameter)] == (0.0 if "norm" in name else full), name


@pytest.mark.parametrize(
    ("arguments", "pilot", "copilot"),
    [
        ({"max_grad_norm": 0.2}, 0.2, 0.2),
        ({"max_grad_norm": 0.2, "copilot_max_grad_norm": 0.1}, 0.2, 0.1),
        ({"max_grad_norm": 0.2, "copilot_max_grad_norm": 0.0}, 0.2, None),
        ({"max_grad_norm": 0.0, "copilot_max_grad_norm": 0.1}, None, 0.1),
        ({"max_grad_norm": 0.0}, None, None),
    ],
)
def test_each_part_is_clipped_by_its_own_norm(tmp_path, arguments, pilot, copilot):
    trainer, watch = watched(tmp_path, max_steps=2, **arguments)
    free = [logged(trainer, name)[0] for name in ("grad_norm", "copilot_grad_norm")]
    assert min(free) > 0.25  # so that the bounds bite
    for norm, bound, before in zip(watch.norms[0], (pilot, copilot), free, strict=True):
        assert norm == pytest.approx(before if bound is None else bound, rel=1e-3)


# ---- what is logged ----


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_first_losses_are_those_of_the_pair_at_the_start(tmp_path, family):
    pair = make_pair(family, random_head=True, objective="mse", mistake_top_k=None)
    start = copy.deepcopy(pair).eval()
    trainer = make_trainer(tmp_path, pair, max_steps=3, label_smoothing_factor=0.2)
    trainer.train()
    with torch.no_grad():
        output = start(**trainer.batches[0])
    targets = start.aligned_labels(trainer.batches[0]["labels"])
    smooth = F.cross_entropy(output.pilot_logits[targets >= 0], targets[targets >= 0], label_smoothing=0.2)
    assert logged(trainer, "pilot_loss")[0] == pytest.approx(float(smooth), abs=1e-4)
    assert logged(trainer, "copilot_loss")[0] == pytest.approx(float(output.copilot_loss), abs=1e-4)
    both = [sum(pair) for pair in zip(logged(trainer, "pilot_loss"), logged(trainer, "copilot_loss"), strict=True)]
    assert logged(trainer, "loss") == pytest.approx(both, abs=3e-4)


def test_logged_losses_are_means_over_the_steps(tmp_path):
    often, seldom = (make_trainer(tmp_path, make_pair(random_head=True), logging_steps=n, max_steps=4) for n in (1, 2))
    often.train()
    seldom.train()
    for name in ("loss", "pilot_loss", "copilot_loss", "copilot_grad_norm"):
        single = logged(often, name)
        assert logged(seldom, name) == pytest.approx([sum(single[:2]) / 2, sum(single[2:]) / 2], abs=2e-4), name


# ---- evaluation ----


def brute_force_sizes(pair, rows, weight):
    """E‖p − p̃‖² over the supervised tokens, a sequence at a time."""
    sizes = []
    for row in rows:
        with torch.no_grad():
            logits = pair(**collate([row]), copilot_weight=weight).logits[0]
        labels = torch.tensor(row["labels"])
        if not pair.config.is_encoder_decoder:
            logits, labels = logits[:-1], labels[1:]
        p = F.one_hot(labels[labels != -100], 23) - logits[labels != -100].softmax(-1)
        sizes.append(p.square().sum(-1))
    return float(torch.cat(sizes).mean())


@pytest.mark.parametrize(
    ("family", "fusion", "arguments"),
    [
        ("llama", "logits", {}),
        ("llama", "probability", {}),
        ("t5", "logits", {}),
        ("t5", "logits", {"predict_with_generate": True, "generation_max_length": 4}),
    ],
)
def test_the_share_of_mistake_removed(tmp_path, family, fusion, arguments):
    pair = make_pair(family, random_head=True, fusion=fusion)
    given = {"trainer_kwargs": {"compute_metrics": lambda prediction: {}}, "per_device_eval_batch_size": 4}
    trainer = make_trainer(tmp_path, pair, **given, **arguments)
    metrics = trainer.evaluate()
    pair.eval()
    rows = trainer.eval_dataset
    alone, together = brute_force_sizes(pair, rows, 0.0), brute_force_sizes(pair, rows, 1.0)
    assert metrics["eval_pilot_mistake_size"] == pytest.approx(alone, rel=1e-4)
    assert metrics["eval_mistake_size"] == pytest.approx(together, rel=1e-4)
    assert metrics["eval_mistake_removed"] == pytest.approx(1 - together / alone, abs=1e-4)
    assert abs(metrics["eval_mistake_removed"]) > 1e-3


def test_an_untrained_pair_removes_nothing(tmp_path):
    trainer = make_trainer(tmp_path, make_pair())
    assert trainer.evaluate()["eval_mistake_removed"] == pytest.approx(0.0, abs=1e-6)
    trainer.pair.config.copilot_weight = 0.0
    assert trainer.evaluate()["eval_mistake_removed"] == 0.0


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_evaluation_metrics_see_the_rectified_logits(tmp_path, family):
    pair = make_pair(family, random_head=True)
    seen = {}

    def metrics(prediction):
        seen["logits"], seen["labels"] = prediction.predictions, prediction.label_ids
        return {"score": 0.5}

    trainer = make_trainer(tmp_path, pair, trainer_kwargs={"compute_metrics": metrics}, per_device_eval_batch_size=10)
    assert trainer.evaluate()["eval_score"] == 0.5
    with torch.no_grad():
        expected = pair.eval()(**collate(trainer.eval_dataset)).logits
    assert isinstance(seen["logits"], np.ndarray)
    np.testing.assert_allclose(seen["logits"], expected.numpy(), atol=1e-5)
    assert seen["labels"].shape == expected.shape[:2]


def test_evaluation_while_training_does_not_disturb_it(tmp_path):
    given = {"gradient_accumulation_steps": 2, "max_steps": 4, "copilot_steps_per_round": 2}
    pairs = [make_pair(), make_pair()]
    make_trainer(tmp_path, pairs[0], **given).train()
    trainer = make_trainer(tmp_path, pairs[1], eval_strategy="steps", eval_steps=1, **given)
    trainer.train()
    assert len(logged(trainer, "eval_mistake_removed")) == 4
    assert largest_difference(state(pairs[0]), state(pairs[1])) == 0.0


def test_predict_with_generate(tmp_path):
    pair, texts = make_pair("t5", random_head=True), []

    def metrics(prediction):
        texts.append(prediction.predictions)
        return {"exact": float((prediction.predictions[:, 1:3] == prediction.label_ids[:, :2]).all(-1).mean())}

    arguments = {"predict_with_generate": True, "generation_max_length": 5, "per_device_eval_batch_size": 10}
    trainer = make_trainer(tmp_path, pair, trainer_kwargs={"compute_metrics": metrics}, **arguments)
    trainer.train()
    result = trainer.evaluate()
    assert 0.0 <= result["eval_exact"] <= 1.0 and math.isfinite(result["eval_loss"])
    batch = {name: value for name, value in collate(trainer.eval_dataset).items() if name != "labels"}
    expected = pair.eval().generate(**batch, max_length=5)
    assert torch.equal(torch.from_numpy(texts[-1])[:, : expected.shape[1]], expected)


# ---- precision, memory, and the whole ----


@pytest.mark.parametrize("options", [{}, {"head": "pilot"}, {"fusion": "probability", "objective": "rmse"}])
def test_bfloat16_autocast(tmp_path, options):
    results = []
    for bf16 in (False, True):
        pair = make_pair(random_head=True, **options)
        trainer = make_trainer(tmp_path, pair, bf16=bf16, copilot_steps_per_round=2)
        trainer.train()
        results.append((logged(trainer, "pilot_loss"), logged(trainer, "copilot_loss")))
        assert all(parameter.dtype == torch.float32 for parameter in pair.parameters())
        assert math.isfinite(trainer.evaluate()["eval_loss"])
    for exact, narrow in zip(*results, strict=True):
        assert narrow == pytest.approx(exact, rel=0.05) and narrow != exact


def test_a_pilot_in_bfloat16_beside_a_copilot_in_float32(tmp_path):
    pair = make_pair(pilot=make_pilot().bfloat16())
    trainer = make_trainer(tmp_path, pair, max_steps=8)
    before = split_state(pair)
    trainer.train()
    assert {p.dtype for p in pair.pilot.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in pair.copilot.parameters()} == {torch.float32}
    assert all(largest_difference(*both) > 1e-3 for both in zip(before, split_state(pair), strict=True))


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("frozen", [False, True])
def test_activation_checkpointing_changes_nothing(tmp_path, family, frozen):
    pairs = []
    for checkpointing in (False, True):
        pairs.append(make_pair(family, random_head=True))
        make_trainer(
            tmp_path, pairs[-1], activation_checkpointing=checkpointing, freeze_pilot=frozen, max_steps=2
        ).train()
    assert largest_difference(*map(state, pairs)) < 1e-6


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_pair_learns_what_its_pilot_has_not_learnt(tmp_path, family):
    seq2seq = family == "t5"
    pair = make_pair(family)
    given = {"max_steps": 150, "per_device_train_batch_size": 16, "logging_steps": 25, "learning_rate": 1e-4}
    trainer = make_trainer(
        tmp_path,
        pair,
        rows=reversal_rows(600, seed=2, seq2seq=seq2seq),
        eval_rows=reversal_rows(60, seed=3, seq2seq=seq2seq),
        copilot_learning_rate=1e-2,
        copilot_steps_per_round=2,
        **given,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    losses = logged(trainer, "copilot_loss")
    assert losses[-1] < losses[0] - 0.2
    assert after["eval_loss"] < before["eval_loss"] - 0.2 and after["eval_mistake_removed"] > 0.015


# ---- several processes ----

_DDP = """
import json, sys
import torch
from tests.helpers.training_helpers import logged, make_pair, make_trainer, reversal_rows, state
folder, size, empty = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "empty"
torch.set_num_threads(1)
pair = make_pair(random_head=True, objective="mse")
rows = reversal_rows(16)
if empty:  # the first process's batches have no supervised token
    none = [{**row, "labels": [-100] * len(row["labels"])} for row in rows]
    rows = [none[i] if (i // size) % 2 == 0 else row for i, row in enumerate(rows)]
trainer = make_trainer(folder, pair, rows=rows, per_device_train_batch_size=size, train_sampling_strategy="sequential",
                       optim="sgd", max_grad_norm=0.0, ddp_find_unused_parameters=empty, learning_rate=0.1,
                       copilot_steps_per_round=2 if empty else 1,
                       copilot_learning_rate=0.01, max_steps=4, save_strategy="steps", save_steps=4)
trainer.train()
metrics = trainer.evaluate()
rank = trainer.args.process_index
torch.save(state(trainer.pair), f"{folder}/state-{rank}.pt")
json.dump({"pilot_loss": logged(trainer, "pilot_loss"), "rounds": len(trainer.mistake_log), "metrics": metrics,
           "skipped": trainer.mistake_log.skipped_rounds}, open(f"{folder}/about-{rank}.json", "w"))
"""


def launch(tmp_path, processes, size, kind="full"):
    """Train in so many processes; the weights and what each process tells."""
    script, folder = tmp_path / "ddp.py", tmp_path / f"of-{processes}"
    script.write_text(_DDP)
    folder.mkdir()
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*run, str(script), str(folder), str(size), kind],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = range(processes)
    states = [torch.load(folder / f"state-{rank}.pt") for rank in ranks]
    return states, [json.loads((folder / f"about-{rank}.json").read_text()) for rank in ranks], folder


@pytest.mark.slow
def test_two_processes(tmp_path):
    (single,), (about,), _ = launch(tmp_path, 1, 4)
    states, abouts, folder = launch(tmp_path, 2, 2)
    assert largest_difference(*states) == 0.0
    pilot = [{name: value for name, value in s.items() if name.startswith("pilot.")} for s in (single, states[0])]
    assert largest_difference(*pilot) < 1e-5
    assert abouts[0]["pilot_loss"] == pytest.approx(about["pilot_loss"], abs=2e-4)
    assert [a["rounds"] for a in abouts] == [4, 4]
    assert abouts[0]["metrics"]["eval_pilot_mistake_size"] == abouts[1]["metrics"]["eval_pilot_mistake_size"]
    logs = [
        MistakeLog.load(folder / "checkpoint-4" / name)
        for name in ("mistake_log.safetensors", "mistake_log-00001.safetensors")
    ]
    assert [len(log) for log in logs] == [4, 4]
    assert not torch.equal(logs[0][0].token_ids, logs[1][0].token_ids)


@pytest.mark.slow
def test_two_processes_where_one_has_nothing_to_learn_from(tmp_path):
    states, abouts, _ = launch(tmp_path, 2, 2, "empty")
    assert largest_difference(*states) == 0.0
    assert [a["skipped"] for a in abouts] == [4, 0]
    assert all(tensor.isfinite().all() for tensor in states[0].values())
