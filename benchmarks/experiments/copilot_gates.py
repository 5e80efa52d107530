"""Is one λ for all positions enough? λ by kind of token, and a gate that is learnt for each position, against one λ.

    python -m benchmarks.experiments.copilot_gates benchmarks/experiments/descriptions/finish_mawps.yaml \
        --data_dir ../shared/data

A pair of an experiment is taught as the runner teaches it; a finished Pilot and a record that the runner left are
taken. Every way to choose λ is fitted on four fifths of the dev questions and scored on the fifth left out, five times,
so that each question is scored by what has not seen it. What gains on dev is then fitted on all of dev and scored on
the test questions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.experiments.data import ExperimentData, load_data
from benchmarks.experiments.finish import teach
from benchmarks.experiments.measure import at_targets, batches
from benchmarks.experiments.spec import Experiment, read_experiment
from benchmarks.experiments.statistics import gain_of
from benchmarks.experiments.train import Workplace


FOLDS = 5
GRID = tuple(round(0.1 * step, 1) for step in range(21))  # so fine that a gate gains nothing by being finer
KINDS = ("digit", "word", "other")
STEPS, DECAY = 40, 1e-2
LARGEST = 2.0


@dataclass
class Tokens:
    """The supervised tokens of some questions.

    Args:
        logits: The Pilot's, `(tokens, vocab)`.
        correction: The Copilot's, `(tokens, vocab)`.
        true: The tokens to predict, `(tokens,)`.
        question: Of each its question's number, `(tokens,)`.
        kind: Of the token that the Pilot finds likeliest an index into `KINDS`, `(tokens,)`.
        features: What the gate reads, `(tokens, 4)`: how sure Pilot and pair are, and how far apart they are.
    """

    logits: Tensor
    correction: Tensor
    true: Tensor
    question: Tensor
    kind: Tensor
    features: Tensor

    def part(self, kept: Tensor) -> Tokens:
        """Some of the tokens."""
        return Tokens(**{name: value[kept] for name, value in vars(self).items()})

    def losses(self, weight: Tensor) -> Tensor:
        """The loss of every token at its own λ, `(tokens,)`: that of z + λf, as the fusion of logits has it."""
        corrected = self.logits + weight.unsqueeze(-1) * self.correction
        return nn.functional.cross_entropy(corrected, self.true, reduction="none")


@torch.no_grad()
def tokens_of(spec: Experiment, data: ExperimentData, pair: PreTrainedModel) -> Tokens:
    """What a pair says of the test questions of `data`.

    Args:
        spec: The experiment.
        data: Its data, with the questions in `test`.
        pair: The pair.

    Returns:
        Their supervised tokens.
    """
    found: dict[str, list[Tensor]] = {"logits": [], "correction": [], "true": [], "question": []}
    pair.eval()
    asked = 0
    for batch in batches(spec, data, pair.device):
        inputs, targets = at_targets(pair, batch)
        outputs = pair(**inputs, use_cache=False, copilot_weight=1.0, return_correction=True)
        kept = targets >= 0
        rows = torch.arange(asked, asked + len(targets)).unsqueeze(-1).expand_as(targets)
        asked += len(targets)
        values = (outputs.pilot_logits, outputs.correction, targets, rows)
        for name, value in zip(found, values, strict=True):
            found[name].append(value[kept])
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    logits, correction = joined["logits"].float(), joined["correction"].float()
    likeliest = [data.tokenizer.decode([index]).strip() for index in logits.argmax(dim=-1).tolist()]
    kind = torch.tensor([0 if text.isdigit() else 1 if text.isalpha() else 2 for text in likeliest])
    pilot, both = logits.log_softmax(-1), (logits + correction).log_softmax(-1)
    features = torch.stack(
        [
            -(pilot.exp() * pilot).sum(-1),
            pilot.amax(-1),
            -(both.exp() * both).sum(-1),
            (both.exp() * (both - pilot)).sum(-1),
        ],
        dim=-1,
    )
    return Tokens(logits, correction, joined["true"], joined["question"], kind, features)


@torch.no_grad()
def one_weight(tokens: Tokens) -> Callable[[Tokens], Tensor]:
    """One λ for all: that of the grid with the smallest loss."""
    totals = [float(tokens.losses(torch.full_like(tokens.true, weight, dtype=torch.float32)).sum()) for weight in GRID]
    best = GRID[int(np.argmin(totals))]
    return lambda other: torch.full(other.true.shape, best)


@torch.no_grad()
def by_kind(tokens: Tokens) -> Callable[[Tokens], Tensor]:
    """One λ for each kind of token."""
    best = torch.ones(len(KINDS))
    for kind in range(len(KINDS)):
        kept = tokens.kind == kind
        if kept.any():
            best[kind] = one_weight(tokens.part(kept))(tokens.part(kept))[0]
    return lambda other: best[other.kind]


def gate(tokens: Tokens) -> Callable[[Tokens], Tensor]:
    """λ of a position from what Pilot and pair say there: a logistic function, fitted by its loss."""
    mean, spread = tokens.features.mean(0), tokens.features.std(0) + 1e-6
    start = float(one_weight(tokens)(tokens)[0]) if len(tokens.true) else 1.0
    share = min(max(start / LARGEST, 0.05), 0.95)
    slope = torch.zeros(tokens.features.shape[1], requires_grad=True)
    bias = torch.tensor(float(np.log(share / (1 - share))), requires_grad=True)

    def weights(other: Tokens) -> Tensor:
        """λ of every token."""
        return LARGEST * torch.sigmoid(((other.features - mean) / spread) @ slope + bias)

    optimizer = torch.optim.LBFGS([slope, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        """The loss to be made small."""
        optimizer.zero_grad()
        loss = tokens.losses(weights(tokens)).mean() + DECAY * slope.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda other: weights(other).detach()


WAYS: dict[str, Callable[[Tokens], Callable[[Tokens], Tensor]]] = {
    "one λ": one_weight,
    "λ by kind of token": by_kind,
    "a gate": gate,
}


def left_out_losses(tokens: Tokens, way: Callable[[Tokens], Callable[[Tokens], Tensor]]) -> Tensor:
    """The loss of every token, λ chosen without its question's fold, `(tokens,)`."""
    losses = torch.zeros(len(tokens.true))
    for fold in range(FOLDS):
        out = tokens.question % FOLDS == fold
        losses[out] = tokens.part(out).losses(way(tokens.part(~out))(tokens.part(out))).detach()
    return losses


def gain(losses: Tensor, over: Tensor, question: Tensor) -> dict[str, float]:
    """How much smaller losses are than others, nats a token, with a 95 % interval over questions."""
    counts = torch.bincount(question)
    means = [-(torch.bincount(question, weights=each.double()) / counts).numpy() for each in (over, losses)]
    found = gain_of([means[0]], [means[1]])
    return {"gain": found.mean, "low": found.low, "high": found.high}


def compare(dev: Tokens, test: Tokens) -> list[dict[str, Any]]:
    """Every way against one λ.

    Args:
        dev: What is chosen on.
        test: What is reported.

    Returns:
        A line for each.
    """
    lines = []
    ours = {name: left_out_losses(dev, way) for name, way in WAYS.items()}
    tested = {name: test.losses(way(dev)(test)).detach() for name, way in WAYS.items()}
    for name in list(WAYS)[1:]:
        lines.append(
            {
                "way": name,
                "dev": gain(ours[name], ours["one λ"], dev.question),
                "test": gain(tested[name], tested["one λ"], test.question),
                "loss": {"one λ": float(tested["one λ"].mean()), "this": float(tested[name].mean())},
            }
        )
    return lines


def main() -> None:
    """Compare, and add to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--variant", default="linear", help="of the experiment; one that learns from a record")
    parser.add_argument("--data_dir", help="folder with the tasks' files; the Hub where none is given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--build", type=Path, default=Path("build/experiments"), help="where the runner works")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/copilot_gates.jsonl"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec = read_experiment(options.experiment)
    data = load_data(spec, options.data_dir, options.seed)
    folder = options.build / spec.experiment / f"gates-{options.variant}-{options.seed}"
    pair = teach(Workplace(spec, data, folder, options.seed), spec.variant(options.variant))[0]
    on_dev = ExperimentData(data.train, data.dev, data.dev, data.tokenizer, data.task, data.facts)
    lines = compare(tokens_of(spec, on_dev, pair), tokens_of(spec, data, pair))
    facts = {"experiment": spec.experiment, "variant": options.variant, "seed": options.seed}
    with options.results.open("a", encoding="utf-8") as file:
        for line in lines:
            print(json.dumps({**facts, **line}))
            file.write(json.dumps({**facts, **line}) + "\n")


if __name__ == "__main__":
    main()
