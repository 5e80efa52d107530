"""Models on the same questions: their answers marked, and the lines that are printed of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from transformers_copilot.metrics import Accuracy, Gain, accuracy_of, same_answer


@dataclass
class Contestant:
    """A model and its answers.

    Args:
        name: What it is called in the table.
        weights: Number of parameters.
        answers: The answer read out of each reply, `None` for none.
        correct: Whether each is right.
        seconds: Time that it took to write the replies.
    """

    name: str
    weights: int
    answers: list[str | None]
    correct: list[bool]
    seconds: float

    @property
    def accuracy(self) -> Accuracy:
        """Share of right answers, with its interval."""
        return accuracy_of(self.correct)


def make_contestant(
    name: str, weights: int, answers: Sequence[str | None], expected: Sequence[str], seconds: float
) -> Contestant:
    """Mark a model's answers.

    Args:
        name: What it is called in the table.
        weights: Number of parameters.
        answers: Its answers, `None` for none.
        expected: The right answers, in the same order.
        seconds: Time that it took to write the replies.

    Returns:
        The contestant.
    """
    correct = [same_answer(answer, right) for answer, right in zip(answers, expected, strict=True)]
    return Contestant(name, weights, list(answers), correct, seconds)


def accuracy_table(contestants: Sequence[Contestant]) -> str:
    """A line for each model: weights, right answers, accuracy with its 95 % interval, time.

    Args:
        contestants: The models.

    Returns:
        The table.
    """
    width = max(len(contestant.name) for contestant in contestants)
    lines = [f"{'':{width}}  {'weights':>13}  {'right':>11}  accuracy  95% interval     answering"]
    for contestant in contestants:
        score = contestant.accuracy
        lines.append(
            f"{contestant.name:{width}}  {contestant.weights:>13,}  {score.correct:>5}/{score.total:<5}  "
            f"{score.share:>7.1%}  {score.low:>6.1%} to {score.high:<6.1%}  {contestant.seconds:>7.1f} s"
        )
    return "\n".join(lines)


def gain_line(before: Contestant, after: Contestant, gain: Gain) -> str:
    """One sentence: the gain of one model over another, in percentage points, and whether it is more than chance.

    Args:
        before: The model gained over.
        after: The model that gains.
        gain: The paired gain.

    Returns:
        The sentence.
    """
    if gain.low > 0:
        verdict = "a gain"
    elif gain.high < 0:
        verdict = "a loss"
    else:
        verdict = "no difference that these questions could show"
    return (
        f"{after.name} over {before.name}: {100 * gain.difference:+.1f} points, 95% paired interval "
        f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f} ({gain.fixed} mended, {gain.broken} spoilt): {verdict}"
    )


def changed_questions(before: Contestant, after: Contestant) -> list[int]:
    """Which questions two models answer differently; two ways of writing the right number are no difference.

    Args:
        before: The first model.
        after: The second model.

    Returns:
        The questions' places.
    """
    return [
        index
        for index, (old, new) in enumerate(zip(before.answers, after.answers, strict=True))
        if old != new and not (before.correct[index] and after.correct[index])
    ]


def changed_answers(
    questions: Sequence[str],
    expected: Sequence[str],
    before: Contestant,
    after: Contestant,
    count: int = 10,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Pick questions at random among those where a second model's answer differs, right or wrong: as many mended as
    spoilt and as still wrong ones, as far as there are.

    Args:
        questions: The questions' texts.
        expected: The right answers.
        before: The first model.
        after: The second model.
        count: How many to pick at most.
        seed: Seed of the choice.

    Returns:
        For each its question, the three answers and a verdict.
    """
    differing = changed_questions(before, after)
    random.Random(seed).shuffle(differing)
    verdicts = {(False, True): "mended", (True, False): "spoilt", (False, False): "still wrong"}
    of_verdict: dict[str, list[int]] = {verdict: [] for verdict in verdicts.values()}
    for index in differing:
        of_verdict[verdicts[before.correct[index], after.correct[index]]].append(index)
    # The first of each verdict, the second of each, and so on.
    in_turn = chain.from_iterable(zip_longest(*of_verdict.values()))
    picked = sorted([index for index in in_turn if index is not None][:count])
    return [
        {
            "question": questions[index],
            "expected": expected[index],
            "before": before.answers[index],
            "after": after.answers[index],
            "verdict": verdicts[before.correct[index], after.correct[index]],
        }
        for index in picked
    ]


def changed_table(changed: Sequence[dict[str, Any]], before: Contestant, after: Contestant) -> str:
    """The picked questions as text.

    Args:
        changed: What [`changed_answers`] gave.
        before: The first model.
        after: The second model.

    Returns:
        Lines of text.
    """
    total = len(changed_questions(before, after))
    lines = [f"{len(changed)} of the {total} questions where {after.name} answers otherwise than {before.name}:"]
    for item in changed:
        question = " ".join(item["question"].split())
        question = question if len(question) <= 160 else f"{question[:157]}..."
        lines.append(f"  {question}")
        lines.append(f"    right {item['expected']} | {item['before']} -> {item['after']} | {item['verdict']}")
    return "\n".join(lines)
