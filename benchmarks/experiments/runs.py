"""One run of an experiment: a pair or a rival, trained and measured, as a line of results."""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from transformers import PreTrainedModel

from benchmarks.experiments.clock import seconds_now
from benchmarks.experiments.controls import train_control
from benchmarks.experiments.data import ExperimentData, load_data
from benchmarks.experiments.finish import teach
from benchmarks.experiments.measure import Measured, measure
from benchmarks.experiments.models import alone_as_in_pair, build_pair, build_pilot
from benchmarks.experiments.pieces import Deadline, check_same, kept
from benchmarks.experiments.precision import uses_bfloat16
from benchmarks.experiments.replay import Recorder, is_recorded, recording_of, replay
from benchmarks.experiments.spec import Experiment, Variant
from benchmarks.experiments.store import LOSS, ResultStore
from benchmarks.experiments.train import Cost, Workplace, pilot_step_seconds, train
from transformers_copilot import CopilotTrainer, fit_copilot_weight


class Runner:
    """Makes the runs of an experiment.

    Args:
        spec: The experiment.
        store: Where results go.
        build: Folder for checkpoints; a run's own is removed when its result is written.
        data_dir: Folder with the tasks' files; the Hub where none is given.
        device: `cpu` or `cuda`.
        gain_only: Leave out what a gain does not need: the time of the Pilot alone (given as 0).
        deadline: When it has to end: a run then leaves what a later runner needs to go on with it. `None`: it has the
            time that it needs.
    """

    def __init__(
        self,
        spec: Experiment,
        store: ResultStore,
        build: Path,
        data_dir: str | None,
        device: str = "cpu",
        gain_only: bool = False,
        deadline: Deadline | None = None,
    ) -> None:
        self.spec, self.store, self.build, self.data_dir, self.device = spec, store, build, data_dir, device
        self.gain_only, self.deadline = gain_only, deadline

    def run(self, seed: int, name: str) -> dict[str, Any]:
        """Make one run and write its result.

        Args:
            seed: Its seed.
            name: A variant's name, or `control:` and a control's.

        Returns:
            The result.

        Raises:
            OutOfTime: The time is over; what is done of the run is kept.
        """
        data = load_data(self.spec, self.data_dir, seed)
        place = Workplace(self.spec, data, self.folder(seed, name), seed, self.device, self.deadline)
        if self.deadline is not None:
            check_same(place.folder, about_run(self.spec, name))
        started = time.perf_counter()
        made = self._control(place, name.partition(":")[2]) if name.startswith("control:") else self._pair(place, name)
        result = {
            "experiment": self.spec.experiment,
            "section": self.spec.section,
            "task": self.spec.task,
            "measure": self.spec.measure,
            "seed": seed,
            "name": name,
            "loss": LOSS,
            **made,
            "data": data.facts,
            "total_seconds": round(time.perf_counter() - started, 1),
            "precision": "bfloat16" if uses_bfloat16(self.spec, self.device) else "float32",
            "machine": about_machine(self.device),
        }
        self.store.append(result)
        shutil.rmtree(place.folder, ignore_errors=True)
        return result

    def folder(self, seed: int, name: str) -> Path:
        """A run's folder for checkpoints."""
        return self.build / self.spec.experiment / f"{name.replace(':', '-').replace('/', '-')}-{seed}"

    def _pair(self, place: Workplace, name: str) -> dict[str, Any]:
        variant = self.spec.variant(name)
        if variant.everything:
            rows = place.data.train + place.data.read
            place = replace(place, data=replace(place.data, train=rows, read=rows))
        if variant.finish:
            return self._finished_pair(place, variant)
        pair = build_pair(self.spec, variant, place.data, place.seed)
        recording = recording_of(place)
        first = name == self.spec.variants[0].name
        replayed = self.spec.replay and not first and not self.spec.needs_own_log(variant)
        if replayed:
            recorded = self.store.find(place.seed, self.spec.variants[0].name)
            if recorded is None:
                raise ValueError(f"{name} needs the run {self.spec.variants[0].name} of seed {place.seed} first.")
            self._make_sure_of(recording, place)
            steps, cost = replay(place, variant, pair, recording)
            step_seconds = recorded["seconds"]["pilot_alone"] / recorded["steps"]
            # Together the two would take this long: the Copilot's own time comes on top of its Pilot's. The memory is
            # that of the Copilot's training alone.
            cost += Cost(step_seconds * steps, 0)
        else:
            step_seconds = 0.0
            if not self.gain_only:
                step_seconds = self._kept(place, "step_seconds", lambda: self._step_seconds(place))
            steps, cost = self._train_pair(place, variant, pair, recording if self.spec.replay and first else None)
        if variant.settle:
            cost += self._settle(place, variant, pair)
        seconds = {"training": cost.seconds, "pilot_alone": step_seconds * steps}
        made = self._measured(place, pair, seconds, cost)
        return {**made, "steps": steps, "replayed": replayed}

    def _finished_pair(self, place: Workplace, variant: Variant) -> dict[str, Any]:
        """A pair whose Copilot learns when its Pilot is finished; the memory is that of recording and teaching."""
        pair, costs, steps = teach(place, variant)
        seconds = {name: cost.seconds for name, cost in costs.items()}
        seconds = {"training": sum(seconds.values()), "pilot_alone": seconds["finishing"], **seconds}
        cost = costs["recording"] + costs["teaching"]
        made = self._measured(place, pair, seconds, cost, alone=self._finished_alone(place.seed, variant))
        return {**made, "steps": steps, "replayed": False}

    def _finished_alone(self, seed: int, variant: Variant) -> dict[str, Any] | None:
        """What the same finished Pilot did alone, in the line of another variant. `None`: not measured yet."""
        others = [each for each in self.spec.variants if each.finish and each.everything == variant.everything]
        made = [line for each in others if (line := self.store.find(seed, each.name)) is not None]
        return made[0] if made and not self.spec.also_test else None

    def _measured(
        self,
        place: Workplace,
        pair: PreTrainedModel,
        seconds: dict[str, float],
        cost: Cost,
        alone: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Choose λ on dev, and measure a trained pair and its Pilot alone on the test questions.

        Args:
            place: Where.
            pair: The pair.
            seconds: What its training took, by part.
            cost: The same with its memory.
            alone: A line that has what the Pilot did alone; measured where none is given.

        Returns:
            What a line of results has of them.
        """
        fit = self._kept(place, "copilot_weight", lambda: self._fit(place, pair))
        pair.config.copilot_weight = fit["weight"]
        if alone is None:
            pilot = self._measure(place, "pilot", pair, 0.0)
        else:
            pilot = {"results": alone["results"]["pilot"], "seconds": alone["seconds"]["pilot_answers"]}
        together = self._measure(place, "pair", pair)
        others = self._other_tests(place, pair, {"pilot": 0.0, "pair": None})
        seconds = {**seconds, "fitting": fit["seconds"]}
        seconds |= {"pilot_answers": pilot["seconds"], "pair_answers": together["seconds"]}
        return {
            "weights": {"pilot": pair.pilot.num_parameters(), "pair": pair.num_parameters()},
            "copilot_weight": fit["weight"],
            "weight_fit": fit["scores"],
            "training_memory_bytes": cost.memory_bytes,
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            "results": {"pilot": pilot["results"], "pair": together["results"]},
            "other_tests": others,
        }

    def _step_seconds(self, place: Workplace) -> float:
        """What a step of the Pilot alone takes; it is gone again before the pair needs the memory."""
        pilot = build_pilot(self.spec, place.data, place.seed)
        return pilot_step_seconds(place, alone_as_in_pair(self.spec, pilot))

    def _kept(self, place: Workplace, name: str, make: Callable[[], Any]) -> Any:
        """A part of a run, which an earlier piece of it may have made."""
        return kept(place.folder, self.deadline, name, make)

    def _measure(
        self, place: Workplace, name: str, model: PreTrainedModel, weight: float | None = None
    ) -> dict[str, Any]:
        """What a model does on the test questions, as [`as_timed`] has it."""
        return self._kept(place, name, lambda: as_timed(measure(self.spec, place.data, model, weight)))

    def _other_tests(
        self, place: Workplace, model: PreTrainedModel, weights: dict[str, float | None]
    ) -> dict[str, Any]:
        """What a model does on further tasks, at each of some λ."""
        others = {}
        for task, data in place.data.others.items():
            there = replace(place, data=data)
            made = {name: self._measure(there, f"{name}_{task}", model, weight) for name, weight in weights.items()}
            others[task] = as_other_test(data, made)
        return others

    def _fit(self, place: Workplace, pair: PreTrainedModel) -> dict[str, Any]:
        """Choose λ on dev."""
        started = seconds_now(self.device)
        grid: dict[str, Any] = {"method": "grid", "grid": self.spec.weight_grid} if self.spec.weight_grid else {}
        fit = fit_copilot_weight(
            pair,
            place.items(place.data.dev),
            data_collator=place.collator(),
            set_name=f"{self.spec.task} dev",
            progress=False,
            **grid,
        )
        return {"weight": fit.weight, "scores": fit.scores, "seconds": seconds_now(self.device) - started}

    def _train_pair(
        self, place: Workplace, variant: Variant, pair: PreTrainedModel, recording: Path | None
    ) -> tuple[int, Cost]:
        """Train both parts; steps and cost. With a `recording`, every round is kept there."""
        trainer = place.trainer(CopilotTrainer, pair, {**self.spec.training, **variant.training})
        recorder = None if recording is None else Recorder(trainer, recording)
        if recorder is not None:
            trainer.add_callback(recorder)
        # What others replay is recorded in one go: a part of it would not do.
        cost = train(trainer, self.deadline if recorder is None else None)
        if recorder is not None:
            recorder.save(pair)
        return trainer.state.global_step, cost

    def _settle(self, place: Workplace, variant: Variant, pair: PreTrainedModel) -> Cost:
        """Train the Copilot on, beside the Pilot as it is now; its cost."""
        rows = place.data.read or place.data.train
        place = replace(place, data=replace(place.data, train=rows), folder=place.folder / "settling")
        training = {**self.spec.training, **variant.training, **variant.settle, "freeze_pilot": True}
        cost = train(place.trainer(CopilotTrainer, pair, training), self.deadline)
        pair.pilot.requires_grad_(True)
        return cost

    def _make_sure_of(self, recording: Path, place: Workplace) -> None:
        """Make a recording again that was lost with the machine it was made on: the same seed gives the same one."""
        if is_recorded(recording):
            return
        with FileLock(f"{recording}.lock"):
            if not is_recorded(recording):
                first = self.spec.variants[0]
                again = replace(place, folder=self.folder(place.seed, "recorded-again"))
                self._train_pair(again, first, build_pair(self.spec, first, place.data, place.seed), recording)
                shutil.rmtree(again.folder, ignore_errors=True)

    def _rate_of_first_seed(self, seed: int, name: str) -> float | None:
        """The learning rate that dev took for a rival with the first seed: it is tuned once. `None`: not yet."""
        first = self.store.find(self.spec.seeds[0], f"control:{name}") if seed != self.spec.seeds[0] else None
        tried = {} if first is None else first.get("dev_by_rate", {})
        return float(min(tried, key=tried.__getitem__)) if tried else None

    def _control(self, place: Workplace, name: str) -> dict[str, Any]:
        same = self.spec.on_the_same if name == "everything_longer" else None
        pair = self.store.find(place.seed, (same or self.spec.variants[0]).name)
        if pair is None:
            raise ValueError(f"control {name} needs the pair's own run of seed {place.seed} first.")
        model, cost, more = train_control(place, name, pair, self._rate_of_first_seed(place.seed, name))
        measured = self._measure(place, "control", model)
        others = self._other_tests(place, model, {"control": None})
        return {
            "weights": {"control": model.num_parameters()},
            "training_memory_bytes": cost.memory_bytes,
            "seconds": {"training": round(cost.seconds, 4), "answers": round(measured["seconds"], 4)},
            "results": {"control": measured["results"]},
            "other_tests": others,
            **more,
        }


def about_run(spec: Experiment, name: str) -> str:
    """What a run depends on of its experiment's description, in words to compare."""
    own = [variant for variant in spec.variants if variant.name == name or name.startswith("control:")]
    return repr(replace(spec, seeds=[0], controls=[], variants=own, title="", reported={}))


def as_json(measured: Measured) -> dict[str, Any]:
    """A measurement as a line of results holds it; right and wrong answers as a string of 1 and 0."""
    questions: Any = [round(value, 5) for value in measured.questions]
    if set(questions) <= {0.0, 1.0}:
        questions = "".join(str(int(value)) for value in questions)
    made = {"questions": questions, "tokens": {name: round(value, 6) for name, value in measured.tokens.items()}}
    if measured.likelihoods is not None:
        made["likelihoods"] = [round(value, 4) for value in measured.likelihoods]
    return made


def as_timed(measured: Measured) -> dict[str, Any]:
    """A measurement as [`as_json`] has it, and the time that it took."""
    return {"results": as_json(measured), "seconds": measured.seconds}


def as_other_test(data: ExperimentData, made: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What models did on another task's test questions, as a line of results holds it."""
    return {
        "data": data.facts,
        "seconds": {f"{model}_answers": round(each["seconds"], 4) for model, each in made.items()},
        "results": {model: each["results"] for model, each in made.items()},
    }


def about_machine(device: str) -> dict[str, Any]:
    """What the run ran on."""
    gpu = {}
    if device == "cuda":
        gpu = {"gpu": torch.cuda.get_device_name(), "peak_gpu_memory_bytes": torch.cuda.max_memory_allocated()}
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **gpu,
    }
