"""Some mutations of everything that is saved or read, and thousands of them (slow): the outcomes are counted."""

import random
import sys
import zlib
from collections import Counter

import pytest

from .kinds import make_kinds
from .mutating import Mutation, mutations_of
from .trying import ALLOWED, Kind, Result, try_all


IN_SAMPLE, IN_RUN = 30, 1_500  # of each kind, at most


def seed_of(text: str) -> int:
    """The same number for a text in every run."""
    return zlib.crc32(text.encode())


def mutations(kind: Kind) -> list[Mutation]:
    """All mutations of a kind, each place in binary files drawn by its name."""
    found = mutations_of(kind.folder, seed_of)
    return [mutation for mutation in found if kind.only in (None, mutation.file)]


def drawn(kind: Kind, count: int) -> list[Mutation]:
    """As many of a kind's mutations, the same in every run."""
    found = mutations(kind)
    return found if len(found) <= count else random.Random(0).sample(found, count)


def report(results: list[Result]) -> str:
    """Counts by kind and outcome, and what must not be."""
    lines = []
    for name in dict.fromkeys(result.kind for result in results):
        counts = Counter(result.outcome for result in results if result.kind == name)
        lines.append(f"{name}: {sum(counts.values())}: {dict(sorted(counts.items()))}")
    counts = Counter(result.outcome for result in results)
    lines.append(f"all: {len(results)}: {dict(sorted(counts.items()))}")
    wrong = [result for result in results if result.outcome not in ALLOWED]
    return "\n".join([*lines, *(f"{one.outcome} | {one.kind} | {one.mutation} | {one.text}" for one in wrong)])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Kind]:
    """Everything, saved."""
    return make_kinds(tmp_path_factory.mktemp("saved"))


def test_some_of_each_kind(kinds: list[Kind]) -> None:
    results = [result for kind in kinds for result in try_all(kind, drawn(kind, IN_SAMPLE))]
    sys.stdout.write(report(results) + "\n")
    assert len(results) >= 400
    assert not [result for result in results if result.outcome not in ALLOWED], report(results)


@pytest.mark.slow
def test_thousands(kinds: list[Kind]) -> None:
    results = [result for kind in kinds for result in try_all(kind, drawn(kind, IN_RUN))]
    sys.stdout.write(report(results) + "\n")
    assert len(results) >= 10_000
    assert not [result for result in results if result.outcome not in ALLOWED], report(results)
