"""Scores, gains and their intervals, from the lines of results alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest


DRAWS = 4_000


@dataclass(frozen=True)
class Gain:
    """How much better one model is than another on the same questions.

    Args:
        mean: Mean difference of scores over questions and seeds.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_value: Of the exact paired (McNemar) test over all seeds' questions; `None` where scores are not 0 or 1.
    """

    mean: float
    low: float
    high: float
    p_value: float | None


def scores_of(measure: str, questions: Any, cutoff: int = 10) -> np.ndarray:
    """One score a question.

    Args:
        measure: The experiment's.
        questions: As a line of results holds them.
        cutoff: K of Hit@K, for `ranking`.

    Returns:
        Numbers of shape `(questions,)`: right or wrong, hit or not, mean log-likelihood of the target's tokens.
    """
    values = np.array([float(value) for value in questions])
    return (values <= cutoff).astype(float) if measure == "ranking" else values


def gain_of(before: list[np.ndarray], after: list[np.ndarray], seed: int = 0) -> Gain:
    """The gain over seeds, with an interval that draws seeds and questions with replacement.

    Args:
        before: For each seed the first model's scores.
        after: The same of the second model, on the same questions.
        seed: Seed of the draws.

    Returns:
        The gain.

    Raises:
        ValueError: The questions of a seed differ in number.
    """
    if any(len(old) != len(new) for old, new in zip(before, after, strict=True)):
        raise ValueError("a paired gain needs both models' scores on the same questions.")
    differences = [new - old for old, new in zip(before, after, strict=True)]
    generator = np.random.default_rng(seed)
    chosen = generator.integers(len(differences), size=(DRAWS, len(differences)))
    means = np.empty(chosen.shape)
    for index, values in enumerate(differences):
        drawn = generator.integers(len(values), size=(int((chosen == index).sum()), len(values)))
        means[chosen == index] = values[drawn].mean(axis=1)
    low, high = np.percentile(means.mean(axis=1), [2.5, 97.5])
    mean = float(np.mean([values.mean() for values in differences]))
    return Gain(mean, float(low), float(high), mcnemar(np.concatenate(differences)))


def mcnemar(differences: np.ndarray) -> float | None:
    """Exact two-sided p-value that as many questions are mended as spoilt.

    Args:
        differences: 1 for mended, -1 for spoilt, 0 for neither.

    Returns:
        The p-value, or `None` where the differences are not of this kind.
    """
    if not set(np.unique(differences)) <= {-1.0, 0.0, 1.0}:
        return None
    mended, spoilt = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(mended, mended + spoilt).pvalue) if mended + spoilt else 1.0


@dataclass(frozen=True)
class Comparison:
    """A variant of an experiment beside its Pilot and the rivals, over all seeds that were run.

    Args:
        lines: The variant's lines of results, a seed each.
        controls: For each rival its lines, in the same seeds' order; seeds without one are left out.
    """

    lines: list[dict[str, Any]]
    controls: dict[str, list[dict[str, Any]]]

    def scores(self, model: str, cutoff: int = 10) -> list[np.ndarray]:
        """The scores of `pilot` or `pair`, a seed each."""
        return [scores_of(line["measure"], line["results"][model]["questions"], cutoff) for line in self.lines]

    def mean(self, model: str, cutoff: int = 10) -> float:
        """The mean score of `pilot` or `pair`."""
        return float(np.mean([values.mean() for values in self.scores(model, cutoff)]))

    def gain(self, cutoff: int = 10) -> Gain:
        """The pair over the Pilot alone."""
        return gain_of(self.scores("pilot", cutoff), self.scores("pair", cutoff))

    def control_scores(self, name: str, cutoff: int = 10) -> list[np.ndarray]:
        """A rival's scores, a seed each."""
        lines = self.controls[name]
        return [scores_of(line["measure"], line["results"]["control"]["questions"], cutoff) for line in lines]

    def gain_over(self, name: str, cutoff: int = 10) -> Gain:
        """The pair over a rival, on the seeds that both have."""
        seeds = [line["seed"] for line in self.controls[name]]
        pair = [
            scores_of(line["measure"], line["results"]["pair"]["questions"], cutoff)
            for line in self.lines
            if line["seed"] in seeds
        ]
        return gain_of(self.control_scores(name, cutoff), pair)

    def tokens(self, model: str, name: str) -> float:
        """Mean over seeds of a number over tokens: `loss`, `mistake_size`, `top1`."""
        return float(np.mean([line["results"][model]["tokens"][name] for line in self.lines]))

    def ratio(self, above: str, below: str) -> float:
        """Ratio of two of the variant's times, over all seeds."""
        return sum(line["seconds"][above] for line in self.lines) / sum(line["seconds"][below] for line in self.lines)


def compare(lines: list[dict[str, Any]], name: str) -> Comparison:
    """Gather a variant and its rivals.

    Args:
        lines: All results of one experiment.
        name: The variant.

    Returns:
        The comparison.

    Raises:
        ValueError: The variant has not been run.
    """
    own = sorted((line for line in lines if line["name"] == name), key=lambda line: line["seed"])
    if not own:
        raise ValueError(f"no run of {name!r} among {sorted({line['name'] for line in lines})}.")
    seeds = {line["seed"] for line in own}
    controls: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: line["seed"]):
        if line["name"].startswith("control:") and line["seed"] in seeds:
            controls.setdefault(line["name"].partition(":")[2], []).append(line)
    return Comparison(own, controls)


def with_likelihoods(lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The results, and, where answers were marked, the same as likelihoods of the right ones.

    Args:
        lines: All results of one experiment.

    Returns:
        Them, and, if every one of them holds likelihoods beside marks, them with those for their scores.
    """
    if all("likelihoods" in made for line in lines for made in line["results"].values()):
        return [lines, [_as_tokens(line) for line in lines]]
    return [lines]


def _as_tokens(line: dict[str, Any]) -> dict[str, Any]:
    results = {model: {**made, "questions": made["likelihoods"]} for model, made in line["results"].items()}
    return {**line, "measure": "tokens", "results": results}
