"""What a trainer's arguments and methods do to both parts: schedules, optimisers, new models, λ of one evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, SchedulerType, TrainerCallback
from transformers.trainer import ALL_HYPERPARAMETER_SEARCH_BACKENDS
from transformers.trainer_utils import BestRun, HPSearchBackend
from transformers.training_args import OptimizerNames

from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import largest_difference, logged, make_pair, make_trainer, reversal_rows, state
from tests.training.test_trainer_settings import Case, OutOfMemory, assert_same, trained_alone, trained_in_a_pair
from tests.training.test_trainer_settings import make_trainer as make_either
from transformers_copilot import MistakeLog


pytestmark = pytest.mark.usefixtures("little_to_collect")

# ---- schedules ----

SCHEDULES: dict[str, list[dict[str, Any] | None]] = {
    "linear": [None],
    "cosine": [None, {"num_cycles": 1.5}],
    "cosine_with_restarts": [{"num_cycles": 2}],
    "polynomial": [None, {"lr_end": 1e-3, "power": 2.0}],
    "constant": [None],
    "constant_with_warmup": [None],
    "inverse_sqrt": [None, {"timescale": 2}],
    "cosine_with_min_lr": [{"min_lr": 1e-3}, {"min_lr_rate": 0.3}],
    "cosine_warmup_with_min_lr": [{"min_lr": 1e-3, "warmup_lr_rate": 0.2}],
    "warmup_stable_decay": [{"num_decay_steps": 2, "min_lr_ratio": 0.1}],
}
BY_METRIC: dict[str, dict[str, Any]] = {
    "reduce_lr_on_plateau": {"patience": 0, "factor": 0.5, "mode": "max", "min_lr": 1e-3},
    "greedy": {"patience": 0, "factor": 0.5, "mode": "max", "min_lr": 1e-3},
}
OWN = [{}, {"copilot_learning_rate": 0.05}, {"copilot_warmup_steps": 1, "copilot_learning_rate": 0.004}]


def test_every_schedule_is_tried():
    assert {*SCHEDULES, *BY_METRIC} == {kind.value for kind in SchedulerType}


def rates(folder: Path, settings: dict[str, Any], pair: bool) -> tuple[list[float], list[float]]:
    """Each part's learning rates before each of six steps, as the trainer's optimiser and schedule make them."""
    trainer = make_either(folder, Case(settings, family="llama"), pair)
    trainer.create_optimizer_and_scheduler(6)
    return take_rates(trainer, 6)


def take_rates(trainer: Any, steps: int) -> tuple[list[float], list[float]]:
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        for group in trainer.optimizer.param_groups:
            found[group.get("part") == "copilot"].append(float(group["lr"]))
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return found


ALL_SCHEDULES = [(kind, kwargs) for kind, several in SCHEDULES.items() for kwargs in several]


@pytest.mark.parametrize(("kind", "kwargs"), ALL_SCHEDULES)
def test_the_pilots_rate_is_what_it_is_alone(tmp_path, kind, kwargs):
    given = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": kwargs, "warmup_steps": 0.3}
    alone, _ = rates(tmp_path, given, False)
    for own in OWN:
        pilot, copilot = rates(tmp_path, {**given, **own}, True)
        assert pilot == alone
        # The Copilot's is what a model's would be alone with the Copilot's arguments, absolute rates too.
        as_alone = {
            "learning_rate": own.get("copilot_learning_rate", 0.1),
            "warmup_steps": own.get("copilot_warmup_steps", 0.3),
        }
        assert copilot == rates(tmp_path, {**given, **as_alone}, False)[0]


def test_a_resumed_run_goes_on_with_both_schedules(tmp_path):
    given = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-3}}
    given = {**given, "copilot_learning_rate": 0.004, "copilot_warmup_steps": 2, "save_strategy": "steps"}
    ends = []
    for steps in (None, 2):
        folder = tmp_path / str(steps)
        trainer = make_either(folder, Case({**given, "save_steps": 2}), True)
        trainer.train()
        if steps is not None:
            trainer = make_either(folder, Case({**given, "save_steps": 2}), True)
            trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        ends.append(take_rates(trainer, 1))
    assert ends[0] == ends[1]


class Rates(TrainerCallback):
    """Notes the Pilot's learning rate before each optimiser step of a training."""

    def __init__(self) -> None:
        self.pilot: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.pilot += [g["lr"] for g in optimizer.param_groups if g.get("part", "pilot") == "pilot"]


@pytest.mark.parametrize("kind", BY_METRIC)
@pytest.mark.parametrize("bounds", [1e-3, [1e-3, 0.05]])
def test_a_schedule_that_follows_the_loss_follows_the_pilots_own(tmp_path, kind, bounds):
    kwargs = {**BY_METRIC[kind], "min_lr": bounds}
    settings = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": kwargs, "eval_strategy": "steps", "eval_steps": 1}
    watches = Rates(), Rates()
    for watch, pair in zip(watches, (False, True), strict=True):
        case = Case({"max_steps": 5, **settings}, trainer=lambda model, watch=watch: {"callbacks": [watch]})
        trainer = make_either(tmp_path, case, pair)
        if pair:
            trainer.pair.config.copilot_weight = 20.0  # the pair's loss goes another way
        trainer.train()
    alone, together = watches
    assert alone.pilot == together.pilot and len(set(alone.pilot)) > 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"lr_scheduler_type": "greedy", "copilot_warmup_steps": 2}, "`copilot_warmup_steps`"),
        ({"lr_scheduler_type": "greedy", "copilot_learning_rate": 1e-3}, "`copilot_learning_rate`"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "copilot_lr_scheduler_type": "cosine"}, "reduce_lr_on_plateau"),
        ({"copilot_lr_scheduler_type": "greedy"}, "`copilot_lr_scheduler_type`"),
        ({"copilot_warmup_steps": -1}, "`copilot_warmup_steps` is -1"),
        ({"copilot_learning_rate": float("nan")}, "`copilot_learning_rate` is nan"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_the_arguments(tmp_path, settings, named):
    with pytest.raises(ValueError, match=named):
        make_trainer(tmp_path, eval_strategy="steps", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"copilot_lr_scheduler_kwargs": {"min_lr": 1.0}}, "the Copilot's schedule 'linear' does not take"),
        (
            {"lr_scheduler_type": "polynomial", "copilot_learning_rate": 1e-9},
            "the Copilot's schedule, from a peak of 1e-09",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused_before_the_first_step(tmp_path, settings, message):
    pair = make_pair()
    before = state(pair)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, pair, **settings).train()
    assert largest_difference(before, state(pair)) == 0.0


def test_the_copilot_has_the_arguments_of_its_own_schedule(tmp_path):
    given = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0.02}}
    own = {"copilot_lr_scheduler_type": "polynomial", "copilot_lr_scheduler_kwargs": '{"lr_end": 0.01}'}
    pilot, copilot = rates(tmp_path, {**given, **own}, True)
    assert pilot == rates(tmp_path, given, False)[0]
    alone = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.01}}
    assert copilot == rates(tmp_path, alone, False)[0]
    _, copilot = rates(tmp_path, {**given, "copilot_lr_scheduler_type": "linear"}, True)  # which takes no `min_lr`
    assert copilot == rates(tmp_path, {}, False)[0]


# ---- optimisers ----


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"])
@pytest.mark.parametrize("own", [{}, {"copilot_learning_rate": 0.5, "copilot_steps_per_round": 2}])
def test_an_optimizer_does_to_the_pilot_what_it_does_alone(tmp_path, optim, own):
    settings = {"optim": optim, "learning_rate": 0.01, "weight_decay": 0.1}
    assert_same(trained_alone(tmp_path, Case(settings)), trained_in_a_pair(tmp_path, Case({**settings, **own})), 0.0)


def test_an_optimizer_that_is_not_installed_is_refused_by_transformers(tmp_path):
    runs = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    runs |= {"adamw_torch_4bit", "adamw_torch_8bit"}  # torchao's, which compile their step
    trainers = [make_either(tmp_path, Case({"optim_target_modules": "all-linear"}), pair) for pair in (False, True)]
    for kind in OptimizerNames:
        if kind.value in runs:
            continue
        errors = []
        for trainer in trainers:
            trainer.args.optim = kind
            with pytest.raises((ImportError, ValueError)) as error:
                trainer.create_optimizer()
            errors.append(str(error.value))
        assert errors[0] == errors[1], kind


class CountingSGD(torch.optim.SGD):
    """Keeps a count by group, as optimisers without a schedule do: each step is smaller than the one before."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            group["lr"] = 0.1 / group["steps"]
        return super().step(closure)


def test_further_steps_of_the_copilot_do_not_count_for_the_pilot(tmp_path):
    given = {"lr_scheduler_type": "constant"}
    trainer = lambda model: {"optimizer_cls_and_kwargs": (CountingSGD, {"lr": 0.1})}  # noqa: E731
    ours = Case({**given, "copilot_steps_per_round": 4}, trainer=trainer)
    assert_same(trained_alone(tmp_path, Case(given, trainer=trainer)), trained_in_a_pair(tmp_path, ours), 0.0)


def optimizer_of(pair: Any, groups: str) -> torch.optim.Optimizer:
    parts = {"pilot": list(pair.pilot.parameters()), "copilot": list(pair.copilot.parameters())}
    if groups == "one":
        return torch.optim.SGD(pair.parameters(), lr=0.1)
    if groups == "own":
        return torch.optim.SGD([{"params": parts["pilot"]}, {"params": parts["copilot"], "lr": 0.02}], lr=0.1)
    return torch.optim.SGD(parts["pilot"], lr=0.1)


@pytest.mark.parametrize(
    ("groups", "schedule", "settings", "named"),
    [
        ("one", False, {"copilot_learning_rate": 0.5}, "`copilot_learning_rate` can't be honoured"),
        ("own", False, {"copilot_weight_decay": 0.5}, "`copilot_weight_decay` can't be honoured"),
        ("one", False, {"copilot_lr_scheduler_type": "cosine"}, "`copilot_lr_scheduler_type` can't be honoured"),
        ("own", True, {"copilot_warmup_steps": 2}, "`copilot_warmup_steps` can't be honoured"),
        ("none", False, {}, "holds none of the Copilot's parameters"),
    ],
)
def test_what_an_optimizer_of_the_users_leaves_no_room_for_is_refused(tmp_path, groups, schedule, settings, named):
    pair = make_pair()
    optimizer = optimizer_of(pair, groups)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer) if schedule else None
    with pytest.raises(ValueError, match=named):
        make_trainer(tmp_path, pair, trainer_kwargs={"optimizers": (optimizer, scheduler)}, **settings)


def test_a_schedule_of_the_copilots_is_honoured_in_groups_of_its_own(tmp_path):
    pair = make_pair()
    optimizer = optimizer_of(pair, "own")
    trainer = make_trainer(
        tmp_path, pair, trainer_kwargs={"optimizers": (optimizer, None)}, copilot_lr_scheduler_type="constant"
    )
    trainer.train()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.02]


@pytest.mark.parametrize("tensor", [False, True])
def test_rates_of_an_optimizer_class_are_not_written_over(tmp_path, tensor):
    rate = torch.tensor(0.03) if tensor else 0.03
    for own, copilot in (({}, 0.03), ({"copilot_learning_rate": 0.5}, 0.5)):
        kwargs = {"optimizer_cls_and_kwargs": (torch.optim.Adam, {"lr": rate})}
        trainer = make_trainer(tmp_path, trainer_kwargs=kwargs, lr_scheduler_type="constant", **own)
        trainer.train()
        found = {group["part"]: float(group["lr"]) for group in trainer.optimizer.param_groups}
        assert found == {"pilot": pytest.approx(0.03), "copilot": pytest.approx(copilot)}


def test_an_optimizer_without_a_decay_refuses_the_copilots(tmp_path):
    kwargs = {"optimizer_cls_and_kwargs": (torch.optim.Rprop, {"lr": 0.03})}
    with pytest.raises(ValueError, match="`copilot_weight_decay` can't be honoured beside Rprop"):
        make_trainer(tmp_path, trainer_kwargs=kwargs, copilot_weight_decay=0.1).train()


def test_an_optimizer_made_by_a_factory_is_taken_as_it_is(tmp_path):
    class Factory:
        def __call__(self, model: Any, **kwargs: Any) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), **kwargs)

    kwargs = {"optimizer_cls_and_kwargs": (Factory, {"lr": 0.03})}
    trainer = make_trainer(tmp_path, trainer_kwargs=kwargs, lr_scheduler_type="constant")
    trainer.train()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.03]
    with pytest.raises(ValueError, match="`copilot_learning_rate` can't be honoured"):
        make_trainer(tmp_path, trainer_kwargs=kwargs, copilot_learning_rate=0.1).train()


# ---- new models: `model_init`, searches, smaller batches ----


class Trial(dict):
    """One set of hyperparameters."""

    number = 0
    params: dict[str, Any] = {}


def backend_of(trials: list[dict[str, Any]], seen: list[Any]) -> Any:
    """A search that tries what it is told, in order."""

    class Backend:
        def ensure_available(self) -> None:
            pass

        def default_hp_space(self, trial: Any) -> Any:
            return trial

        def run(self, trainer: Any, n_trials: int, direction: str, **kwargs: Any) -> BestRun:
            for number, values in enumerate(trials):
                trial = Trial(values)
                trial.number = number
                trainer.train(trial=trial)
                seen.append((trainer.evaluate(), trainer.mistake_log, trainer.pair, trainer.train_dataset))
            return BestRun("0", 0.0, {})

    return Backend


def search(folder: Path, monkeypatch: Any, trials: list[dict[str, Any]], **arguments: Any) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setitem(ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.OPTUNA, backend_of(trials, seen))
    # Its own asks which kinds of search are installed.
    monkeypatch.setattr("transformers.integrations.hp_params", dict)
    trainer = searching_trainer(folder, **arguments)
    trainer.hyperparameter_search(backend="optuna", n_trials=len(trials), hp_space=dict)
    return seen


def searching_trainer(folder: Path, **arguments: Any) -> Any:
    kwargs = {"model": None, "model_init": lambda: make_pair(random_head=True)}
    pair = make_pair()
    return make_trainer(folder, pair, max_steps=3, trainer_kwargs=kwargs, **arguments)


def test_identical_trials_have_identical_scores(tmp_path, monkeypatch):
    given = {"copilot_steps_per_round": 3, "mistake_log_export_rows": 1000, "mistake_picture_steps": 2}
    seen = search(tmp_path, monkeypatch, [{}, {}, {}], **given, freeze_pilot=True, mistakes_from="all")
    scores = [{k: v for k, v in metrics.items() if "time" not in k and "second" not in k} for metrics, *_ in seen]
    assert scores[0] == scores[1] == scores[2]
    assert all(log.round_numbers == [0, 1, 2] and log.total_rounds == 3 for _, log, *_ in seen)
    assert all(pair.pilot_is_frozen and pair.config.mistakes_from == "all" for _, _, pair, _ in seen)
    assert len({id(pair) for _, _, pair, _ in seen}) == 3
    written = [sorted(path.name for path in tmp_path.glob(f"run-{n}/mistake_rows/*/*.parquet")) for n in range(3)]
    assert written[0] == written[1] == written[2] != []


def test_a_trial_sets_the_copilots_arguments_too(tmp_path, monkeypatch):
    trials = [
        {"freeze_pilot": 1, "mistake_log_rounds": 2, "held_out_mistakes": 0.5},
        {"freeze_pilot": 0, "mistake_log_rounds": 3, "held_out_mistakes": 0.25, "copilot_steps_per_round": 2},
        {"held_out_mistakes": 0.0},
    ]
    seen = search(tmp_path, monkeypatch, trials)
    assert [pair.pilot_is_frozen for *_, pair, _ in seen] == [True, False, False]
    assert [len(log) for _, log, *_ in seen] == [2, 3, 3]
    assert [sum(row.get("held_out", False) for row in rows) for *_, rows in seen] == [16, 8, 0]
    with pytest.raises(ValueError, match="`mistake_log_rounds` is 0"):
        search(tmp_path, monkeypatch, [{"mistake_log_rounds": 0}])


def test_every_training_with_model_init_begins_anew(tmp_path):
    trainer = searching_trainer(tmp_path, freeze_pilot=True)
    assert trainer.pair.pilot_is_frozen
    for _ in range(2):
        trainer.train()
        assert trainer.pair.pilot_is_frozen and trainer.mistake_log.round_numbers == [0, 1, 2]
    assert trainer.mistake_log.total_rounds == 3
    with pytest.raises(ValueError, match="`mistake_log` is given beside `model_init`"):
        kwargs = {"model": None, "model_init": lambda: make_pair(), "mistake_log": MistakeLog()}
        make_trainer(tmp_path, make_pair(), trainer_kwargs=kwargs)


@pytest.mark.parametrize("given_log", [False, True])
def test_a_try_at_a_batch_size_that_failed_is_forgotten(tmp_path, given_log):
    log = None
    if given_log:  # what it held before is kept
        log = MistakeLog()
        make_trainer(tmp_path, trainer_kwargs={"mistake_log": log}, max_steps=1).train()
    out_of_memory = OutOfMemory()
    kwargs = {"callbacks": [out_of_memory], "mistake_log": log}
    trainer = make_trainer(tmp_path, trainer_kwargs=kwargs, auto_find_batch_size=True, max_steps=3, logging_steps=3)
    trainer.train()
    assert out_of_memory.tries == 2 and trainer._train_batch_size == 3
    assert trainer.mistake_log.round_numbers == [0, 0, 1, 2] if given_log else [0, 1, 2]
    assert trainer.mistake_log.total_rounds == 3 + given_log
    assert logged(trainer, "loss")[0] == pytest.approx(
        logged(trainer, "pilot_loss")[0] + logged(trainer, "copilot_loss")[0], abs=3e-4
    )


# ---- λ of one evaluation ----


def test_an_evaluation_has_a_weight_of_its_own(tmp_path):
    pair = make_pair(random_head=True)
    trainer = make_trainer(
        tmp_path, pair, trainer_kwargs={"compute_metrics": lambda p: {"sum": float(p.predictions.sum())}}
    )
    wanted = {}
    for weight in (0.0, 0.5, 1.0):
        pair.config.copilot_weight = weight
        wanted[weight] = trainer.evaluate()
    assert len({metrics["eval_loss"] for metrics in wanted.values()}) == 3
    for weight, expected in wanted.items():
        found = trainer.evaluate(copilot_weight=weight)
        predicted = trainer.predict(trainer.eval_dataset, copilot_weight=weight)
        for name in ("loss", "sum", "rectified_loss", "mistake_removed", "copilot_weight"):
            assert found[f"eval_{name}"] == predicted.metrics[f"test_{name}"] == expected[f"eval_{name}"], name
        assert found["eval_copilot_weight"] == weight
    sets = {"a": reversal_rows(3), "b": reversal_rows(3, 5)}
    assert {v for k, v in trainer.evaluate(sets, copilot_weight=0.25).items() if "copilot_weight" in k} == {0.25}
    with pytest.raises(ValueError, match="`copilot_weight`"):
        trainer.evaluate(copilot_weight=-1.0)
    assert trainer.evaluate()["eval_copilot_weight"] == pair.config.copilot_weight == 1.0


@pytest.mark.parametrize("way", ["call", "call_config", "arguments", "model"])
@pytest.mark.parametrize("weight", [0.0, 6.0])
def test_generated_text_and_losses_are_at_one_weight(tmp_path, way, weight):
    pair = make_pair("t5", random_head=True, copilot_weight=2.0)
    with torch.no_grad():
        pair.copilot.correction_head.weight.normal_(0.0, 1.0)
    plain = {"max_length": 6, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
    config = GenerationConfig(**plain, copilot_weight=weight)
    arguments: dict[str, Any] = {"predict_with_generate": True, "per_device_eval_batch_size": 10}
    given: dict[str, Any] = {}
    if way == "arguments":
        arguments["generation_config"] = config
    elif way == "model":
        pair.generation_config = config
    else:
        pair.generation_config = GenerationConfig(**plain)
        given = {"copilot_weight": weight} if way == "call" else {"generation_config": config}
    trainer = make_trainer(tmp_path, pair, **arguments)
    found = trainer.predict(trainer.eval_dataset, **given)
    assert found.metrics["test_copilot_weight"] == weight
    reference = make_trainer(tmp_path, pair, **{**arguments, "generation_config": GenerationConfig(**plain)})
    texts = {}
    for other in (0.0, 2.0, 6.0):
        pair.config.copilot_weight = other
        texts[other] = reference.predict(trainer.eval_dataset)
    assert texts[0.0].predictions.tolist() != texts[6.0].predictions.tolist()
    assert found.predictions.tolist() == texts[weight].predictions.tolist()
    assert found.metrics["test_loss"] == texts[weight].metrics["test_loss"]


# ---- a pair that is narrowed ----


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("narrow", ["to", "half", "bfloat16", "trainer"])
def test_a_copilot_keeps_its_digits_where_a_pair_is_narrowed(tmp_path, family, narrow):
    pair = make_pair(family, random_head=True)
    before = state(pair.copilot)
    if narrow == "to":
        pair.to(torch.bfloat16)
    elif narrow == "trainer":
        metrics = make_trainer(tmp_path, pair, bf16_full_eval=True).evaluate()
        assert metrics["eval_loss"] > 0.0
    else:
        getattr(pair, narrow)()
    kept = torch.float16 if narrow == "half" else torch.bfloat16
    assert {parameter.dtype for parameter in pair.pilot.parameters()} == {kept}
    assert {parameter.dtype for parameter in pair.copilot.parameters()} == {torch.float32}
    assert largest_difference(before, state(pair.copilot)) == 0.0
    loss = pair.eval()(**{k: torch.tensor([v]) for k, v in reversal_rows(1, seq2seq=family == "t5")[0].items()}).loss
    assert loss.isfinite()


def test_a_copilot_is_widened_and_moved_with_its_pair():
    pair = make_pair()
    assert {p.dtype for p in pair.double().parameters()} == {torch.float64}
    assert {p.dtype for p in pair.float().parameters()} == {torch.float32}
    pair.to("meta", torch.bfloat16)
    assert {(p.dtype, p.device.type) for p in pair.copilot.parameters()} == {(torch.float32, "meta")}


# ---- several processes ----

_EVALUATION = """
import json, sys
import torch
from tests.helpers.training_helpers import make_pair, make_trainer, reversal_rows
torch.set_num_threads(1)
pair = make_pair(random_head=True)
trainer = make_trainer(sys.argv[1], pair, eval_rows=reversal_rows(10, seed=1), per_device_eval_batch_size=3)
metrics = [trainer.evaluate(), trainer.evaluate({"a": reversal_rows(7, seed=2), "b": reversal_rows(1, seed=3)})]
metrics.append(trainer.predict(reversal_rows(5, seed=4), copilot_weight=0.5).metrics)
json.dump(metrics, open(f"{sys.argv[1]}/metrics-{trainer.args.process_index}.json", "w"))
"""


@pytest.mark.slow
def test_an_evaluation_on_two_processes_is_that_of_one(tmp_path):
    script = tmp_path / "evaluation.py"
    script.write_text(_EVALUATION)
    found = []
    for processes in (1, 2):
        folder = tmp_path / f"of-{processes}"
        folder.mkdir()
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*run, str(script), str(folder)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found += [json.loads((folder / f"metrics-{rank}.json").read_text()) for rank in range(processes)]
    measured = [
        {
            k: v
            for metrics in each
            for k, v in metrics.items()
            if k.endswith(("size", "removed", "pilot_loss", "ed_loss"))
        }
        for each in found
    ]
    assert len(measured[0]) == 20
    for other in measured[1:]:
        assert other == pytest.approx(measured[0], rel=1e-6)
