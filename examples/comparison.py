"""The pair against its rivals on one set of questions: printed, and written to JSON."""

import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import Contestant, accuracy_table, changed_answers, changed_table, gain_line

from transformers_copilot.metrics import paired_gain


def peak_memory_bytes() -> int:
    """The most memory that this process has held.

    Returns:
        Bytes.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


@dataclass
class Comparison:
    """The pair against its rivals on one set of questions.

    Args:
        questions: The questions' texts.
        expected: The right answers.
        pair: The pair.
        rivals: The models that it is compared with; the first is its Pilot alone.
        facts: Whatever else belongs in the JSON: set sizes, λ, times.
    """

    questions: list[str]
    expected: list[str]
    pair: Contestant
    rivals: list[Contestant]
    facts: dict[str, Any]

    def print_and_save(self, path: Path) -> None:
        """Print table, gains and ten changed answers, and write all of it to a JSON file.

        Args:
            path: The JSON file; its folder is made.
        """
        models = [self.rivals[0], self.pair, *self.rivals[1:]]
        gains = {rival.name: paired_gain(rival.correct, self.pair.correct) for rival in self.rivals}
        changed = changed_answers(self.questions, self.expected, self.rivals[0], self.pair)
        print(f"\n{accuracy_table(models)}\n")
        for rival in self.rivals:
            print(gain_line(rival, self.pair, gains[rival.name]))
        print(f"\n{changed_table(changed, self.rivals[0], self.pair)}\n")
        results = {
            **self.facts,
            "peak_memory_bytes": peak_memory_bytes(),
            "models": {
                model.name: {"weights": model.weights, "seconds": model.seconds, **model.accuracy.as_dict()}
                for model in models
            },
            "gains": {name: gain.as_dict() for name, gain in gains.items()},
            "changed": changed,
            "answers": {"expected": self.expected, **{model.name: model.answers for model in models}},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"peak memory {peak_memory_bytes() / 2**20:,.0f} MiB; results in {path}")
