"""What an experiment is: one YAML file, read and checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from transformers_copilot import PilotCopilotConfig
from transformers_copilot.adapters.adapter_checks import PARTS
from transformers_copilot.building.pair_building import form_of


# Rivals of a Copilot that learns after its Pilot.
FURTHER_CONTROLS = (
    "everything",
    "everything_longer",
    "further",
    "further_in_time",
    "further_lora",
    "further_last_layers",
    "finished_temperature",
)
CONTROLS = ("longer", "blocks", "head", "temperature", "full", "lora", *FURTHER_CONTROLS)
MEASURES = ("answers", "choices", "ranking", "tokens")


@dataclass(frozen=True)
class Variant:
    """One way to build and train a pair, as what differs from the experiment's own.

    Args:
        name: What it is called.
        pair: Options of `from_pilot`, such as `fusion`; under `copilot`, fields of the Copilot's configuration, or
            `path`, id or folder of the checkpoint that its layers are made of, and its `dropout`.
        random_weights: Start the Copilot from fresh weights and not from copies of the Pilot's layers.
        training: Fields of `CopilotTrainingArguments`.
        settle: The same for a second training, in which the Pilot is frozen: its mistakes are those that it makes when
            it has learnt, on the questions that only the Copilot reads, where `limits` sets any aside. Empty: none.
        finish: The same for a Copilot that learns from a record alone: the Pilot is finished on the training questions,
            and then read once over those that `limits` sets aside. Empty: both learn together.
        everything: Whether both learn from the training questions and those that are set aside: together, or, with
            `finish`, the Pilot first and then the Copilot from its mistakes on the same questions.
    """

    name: str
    pair: dict[str, Any] = field(default_factory=dict)
    random_weights: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    settle: dict[str, Any] = field(default_factory=dict)
    finish: dict[str, Any] = field(default_factory=dict)
    everything: bool = False


@dataclass(frozen=True)
class Experiment:
    """One experiment: a task, a Pilot, seeds, and the models that are compared.

    Args:
        experiment: Its name, that of its results file.
        section: Which question of `docs/results.md` it answers, "A" to "F"; "paper" of a row of the paper's tables.
        task: The task, as `tasks.load` knows it, or `sums`, fresh questions that are made on the spot.
        measure: `answers`: replies are written and marked; `choices`: the likeliest label of a question's choices;
            `ranking`: valid items are ranked; `tokens`: likelihood.
        pilot: `path` of a checkpoint, with `dtype`, the type of its weights, if that is not float32; or `config` with
            `model_type` and the sizes, and then `tokenizer`: `words`, or the size of a byte-pair vocabulary that is
            learnt on the training texts.
        seeds: Seeds of weights, order and fresh questions.
        training: Fields of `CopilotTrainingArguments` that all runs share.
        pair: Options of `from_pilot` that all variants share.
        variants: The pairs.
        controls: Which rivals to train: `longer`, the Pilot alone for the pair's time on the same questions, those that
            a Copilot settles on among them; `blocks`, a Pilot with as many extra decoder blocks as the Copilot has
            weights; `head`, a linear correction of the last hidden state, as much of it as dev likes; `temperature`,
            the Pilot with its logits divided by what dev likes; beside a frozen Pilot, `full`, all of its weights
            trained, and `lora`, adapters. Of a Copilot that learns after its Pilot: `everything`, the Pilot trained on
            all questions; `everything_longer`, the same for the time of the variant that is finished on all of them;
            `further`, the finished one trained on with the Copilot's questions, `further_in_time` no longer than
            recording and teaching took, `further_lora` by adapters, `further_last_layers` in its last layers alone;
            `finished_temperature`, its logits divided.
        rival_training: What differs in the training of `full` and `lora`; and by their names in that of `further`,
            `further_lora` and `further_last_layers` (with `layers`, how many they are), with `rates`, the learning
            rates of which dev takes the best, with the first seed.
        task_options: More arguments of `tasks.load`, such as `train_tasks`.
        also_test: More tasks that the same models are tested on.
        limits: Most questions of `train`, `dev` and `test`; of several training tasks as many of each. `read`: so many
            of the training questions that are left serve a Copilot that settles or learns later. `train: 0` leaves a
            Pilot that comes from a checkpoint as it is.
        test_from_train: Questions that are taken out of train to test on, for a task without a test file.
        max_length: Longest training sequence in tokens.
        max_new_tokens: Longest reply; the task's own where none is given.
        generation: More options of `generate` where answers are written, such as `num_beams`; greedy without any. A
            ranking of items that take several tokens has `num_beams`, the beams over valid items.
        weight_grid: The λ that dev chooses among; none: as `fit_copilot_weight` does by itself.
        lora: By part, `pilot` and `copilot`, what its adapter has of PEFT's LoraConfig; all weights learn in a part
            that is not named. Of pairs that learn together only, without rivals.
        reported: What the paper reports of it in per cent, of the `pilot` and of variants: the average over the tests,
            or Hit@10.
        title: What a table calls its models.
        replay: Train the first variant with its Pilot, and the others from that run's log alone: the Pilot learns the
            same in all of them.
    """

    experiment: str
    section: str
    task: str
    measure: str
    pilot: dict[str, Any]
    seeds: list[int]
    training: dict[str, Any]
    pair: dict[str, Any]
    variants: list[Variant]
    controls: list[str] = field(default_factory=list)
    rival_training: dict[str, Any] = field(default_factory=dict)
    task_options: dict[str, Any] = field(default_factory=dict)
    also_test: list[str] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)
    test_from_train: int = 0
    max_length: int = 256
    max_new_tokens: int | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    weight_grid: list[float] = field(default_factory=list)
    lora: dict[str, Any] = field(default_factory=dict)
    reported: dict[str, float] = field(default_factory=dict)
    title: str = ""
    replay: bool = False

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"`measure` is {self.measure!r}; it must be one of {', '.join(MEASURES)}.")
        unknown = [str(name) for name in self.controls if name not in CONTROLS]
        if unknown:
            raise ValueError(f"`controls` names {', '.join(unknown)}; there are {', '.join(CONTROLS)}.")
        further = {"further": ("further", "further_in_time")}
        further |= {name: (name,) for name in ("further_lora", "further_last_layers")}
        for field_name, rivals in further.items():
            wanted = [name for name in rivals if name in self.controls]
            if wanted and not self.rival_training.get(field_name, {}).get("rates"):
                raise ValueError(
                    f"`{wanted[0]}` needs `rates`, learning rates, in `rival_training: {{{field_name}: …}}`."
                )
        if "everything_longer" in self.controls and self.on_the_same is None:
            raise ValueError(
                "`everything_longer` needs one of the `variants` with `everything` and `finish`, whose time it takes."
            )
        if not self.limits.get("read") and any(variant.finish or variant.everything for variant in self.variants):
            raise ValueError("a variant learns from questions of its own, and there are none: set `read` in `limits`.")
        if self.measure == "ranking" and self.generation and "num_beams" not in self.generation:
            raise ValueError("`generation` of a ranking needs `num_beams`, the beams over valid items.")
        if self.also_test and self.measure == "ranking":
            raise ValueError("`also_test` names more tasks; one that ranks its own items has no others.")
        if ("path" in self.pilot) == ("config" in self.pilot):
            raise ValueError("`pilot` needs either `path` or `config`, not both.")
        if self.lora and (self.controls or self.replay or any(each.finish or each.settle for each in self.variants)):
            raise ValueError(
                "`lora` is for pairs that learn together, without `controls`, `replay`, `finish`, `settle`."
            )
        if unknown := sorted(set(self.lora) - set(PARTS)):
            raise ValueError(f"`lora` names {', '.join(unknown)}; a pair has {' and '.join(PARTS)}.")
        for variant in self.variants:
            beside = sorted(set(self.copilot_of(variant)) - {"path", "dropout"})
            if "path" in self.copilot_of(variant) and beside:
                raise ValueError(
                    f"`copilot` has a `path`, which says all but its `dropout`; leave {', '.join(beside)} out."
                )
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) < len(names) or not self.seeds:
            raise ValueError(
                f"`variants` need different names and there must be a seed in `seeds`; got {names} and {self.seeds}."
            )

    @property
    def on_the_same(self) -> Variant | None:
        """The variant whose Pilot is finished on all questions, and whose Copilot learns from its mistakes there."""
        return next((variant for variant in self.variants if variant.everything and variant.finish), None)

    def runs(self) -> list[tuple[int, str]]:
        """All runs in the order in which they are made: for each seed the variants, then the controls."""
        names = [variant.name for variant in self.variants] + [f"control:{name}" for name in self.controls]
        return [(seed, name) for seed in self.seeds for name in names]

    def needs_own_log(self, variant: Variant) -> bool:
        """Whether a variant can't learn from the first one's log: its Pilot trains on less, or its rounds hold other
        lessons than the first one's or what that doesn't read, or it reads no log.

        Args:
            variant: The variant.

        Returns:
            Whether its Pilot has to be trained beside it.
        """
        recorded, own = self._read_of_rounds(self.variants[0]), self._read_of_rounds(variant)
        other = any(value is not None and value != recorded[name] for name, value in own.items())
        differs = {"held_out_mistakes", "freeze_pilot"} & set(variant.training)
        return other or bool(differs) or not variant.training.get("use_mistake_log", True)

    def _read_of_rounds(self, variant: Variant) -> dict[str, Any]:
        """What a variant's rounds hold because its Copilot reads it; `None`: nothing of the kind."""
        pair = {**self.pair, **variant.pair}
        copilot = self.copilot_of(variant)
        if "path" in copilot:  # layers of a checkpoint are a decoder's
            copilot = {"form": "decoder"}
        form, states, mistakes = form_of(copilot, pair.get("head"), pair), None, None
        if form == "branch":
            states = ("branch", copilot.get("num_hidden_layers"))
        if form == "decoder":
            # Those of the current position are kept in any case; what differs is which states they are made of.
            rationale = copilot.get("rationale", "preceding")
            states = ("decoder", "mean" if rationale in ("preceding", "current") else rationale)
            if pair.get("error_feedback", PilotCopilotConfig.error_feedback) in ("observed", "predicted"):
                mistakes = ("top_k", pair.get("mistake_top_k", 64))
        return {"states": states, "mistakes": mistakes, "lessons": pair.get("mistakes_from", "labels")}

    def copilot_of(self, variant: Variant) -> dict[str, Any]:
        """What a variant's Copilot is made of: fields of its configuration, or a checkpoint's `path`."""
        parts = {"pair": self.pair, f"variants.{variant.name}.pair": variant.pair}
        found = {where: pair.get("copilot", {}) for where, pair in parts.items()}
        for where, copilot in found.items():
            if not isinstance(copilot, dict):
                raise ValueError(f"`{where}.copilot` is {copilot!r}; expected fields of a Copilot's configuration.")
        return {name: value for copilot in found.values() for name, value in copilot.items()}

    def variant(self, name: str) -> Variant:
        """The variant of a name."""
        return next(variant for variant in self.variants if variant.name == name)


def read_experiment(path: Path) -> Experiment:
    """Read and check an experiment's YAML.

    Args:
        path: The file.

    Returns:
        The experiment.

    Raises:
        ValueError: The file has an unknown field, lacks one, or a value can't be used; the message names the file.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        known = {entry.name for entry in fields(Experiment)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown fields {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
        if not isinstance(values.get("variants"), dict):
            raise ValueError(f"`variants` is {values.get('variants')!r}; expected names of variants and their fields.")
        _check_types(Experiment, {**values, "variants": [*values["variants"]]})
        for name, given in values.get("rival_training", {}).items():
            if name in FURTHER_CONTROLS and not isinstance(given, dict):
                raise ValueError(f"`{name}` of `rival_training` is {given!r}; expected fields of a training.")
        for name, given in values["variants"].items():
            if given is not None and not isinstance(given, dict):
                raise ValueError(f"`{name}` of `variants` is {given!r}; expected fields of a variant.")
            if unknown := sorted(set(given or {}) - {entry.name for entry in fields(Variant)}):
                raise ValueError(f"`{name}` of `variants` has unknown fields {', '.join(map(str, unknown))}.")
            _check_types(Variant, given or {}, f"variants.{name}.")
        variants = [Variant(name, **(given or {})) for name, given in values.pop("variants").items()]
        return Experiment(variants=variants, **values)
    except (TypeError, KeyError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no experiment: {type(error).__name__}: {error}") from error


def _check_types(kind: type, values: dict[str, Any], prefix: str = "") -> None:
    """Refuse fields of another type than a dataclass says."""
    for name, hint in get_type_hints(kind).items():
        allowed = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        kinds = tuple(get_origin(one) or one for one in allowed)
        value = values.get(name)
        if name in values and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            expected = " or ".join(one.__name__ for one in kinds)
            raise ValueError(f"`{prefix}{name}` is {value!r}; expected {expected}.")
