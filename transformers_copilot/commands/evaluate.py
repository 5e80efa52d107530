"""`transformers-copilot evaluate`: the pair against its Pilot alone, on the same questions."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..metrics import accuracy_of, paired_gain
from ..metrics.likelihoods import loss_gain, target_losses
from ..pair.fusion import weight_of_call
from ..report.run_folder import EVALUATION_NAME
from ..tasks.answering import write_replies
from .arguments import make_parser, parse
from .data import DataArguments, TextData, load_test_data
from .models import DTYPES, load_pair
from .terminal import quiet_libraries, say, table


EPILOG = """\
examples:
  transformers-copilot evaluate runs/mawps --task mawps --data_dir data
  transformers-copilot evaluate runs/own --dataset test.jsonl --answer_column answer --max_new_tokens 32

Every question is answered twice: by the Pilot alone (λ = 0) and by the pair. The table gives each one's share of right
answers with its 95 % interval, and the pair's gain with the interval of the same questions drawn anew. Below it stands
how likely the right answers are held, which tells more where there are few questions. All of it, with every reply, goes
into a JSON file that `transformers-copilot report` reads."""
PILOT, PAIR = "Pilot alone", "Pilot + Copilot"


@dataclass
class EvaluateArguments:
    """What is answered with."""

    output: str | None = field(
        default=None, metadata={"aliases": ["-o"], "help": f"JSON file; {EVALUATION_NAME} in the pair's folder."}
    )
    weight: float | None = field(default=None, metadata={"help": "λ; the pair's own by default."})
    batch_size: int = field(default=16, metadata={"help": "Questions at a time."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Longest reply in tokens; the task's own."})
    num_beams: int = field(default=1, metadata={"help": "Beams; the paper takes 4."})
    dtype: str = field(default="auto", metadata={"choices": list(DTYPES), "help": "Of the Pilot's weights."})
    device: str | None = field(default=None, metadata={"help": "Where the pair goes; an accelerator if there is one."})


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `evaluate`.

    Returns:
        `int`: the exit code.
    """
    quiet_libraries()
    kinds = (EvaluateArguments, DataArguments)
    parser = make_parser("evaluate", kinds, "Compare a pair with its Pilot alone on test questions.", EPILOG)
    parser.add_argument("pair", help="Id or folder of the pair.")
    options, data_options, other = parse(parser, arguments)
    data, tokenizer = load_test_data(data_options, other.pair)
    output = Path(options.output or (Path(other.pair) if Path(other.pair).is_dir() else Path()) / EVALUATION_NAME)
    output.parent.mkdir(parents=True, exist_ok=True)
    pair = load_pair(other.pair, options.dtype, options.device)
    weight = weight_of_call(pair, None, options.weight)
    results = compare(pair, tokenizer, data, options, weight)
    output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(*describe(results), f"replies and figures: {output}")
    return 0


def compare(pair: Any, tokenizer: Any, data: TextData, options: EvaluateArguments, weight: float) -> dict[str, Any]:
    """Let both answer, and mark the answers.

    Args:
        data ([`TextData`]): the questions.
        options ([`EvaluateArguments`]): how to answer.
        weight (`float`): the pair's λ.

    Returns:
        `dict`: `task`, `copilot_weight`, `models`, `gain`, `loss` and `rows`
    """
    test: Any = data.test
    limit = options.max_new_tokens or data.max_new_tokens
    replies, answers, correct, models = {}, {}, {}, {}
    sizes = {PILOT: pair.pilot.num_parameters(), PAIR: pair.num_parameters()}
    for name, used in ((PILOT, 0.0), (PAIR, weight)):
        started = time.perf_counter()
        replies[name] = write_replies(
            pair,
            tokenizer,
            test["prompt"][:],
            limit,
            options.batch_size,
            num_beams=options.num_beams,
            copilot_weight=used,
        )
        seconds = time.perf_counter() - started
        answers[name] = [data.extract_answer(reply) for reply in replies[name]]
        marks = zip(answers[name], test["answer"][:], strict=True)
        correct[name] = [bool(data.is_right(answer, expected)) for answer, expected in marks]
        models[name] = {"weights": sizes[name], "seconds": seconds, **accuracy_of(correct[name]).as_dict()}
    rows = [
        {
            "id": row["id"],
            "question": row["question"],
            "expected": row["answer"],
            **{f"{short}_reply": replies[name][place] for short, name in (("pilot", PILOT), ("pair", PAIR))},
            **{f"{short}_answer": answers[name][place] for short, name in (("pilot", PILOT), ("pair", PAIR))},
            **{f"{short}_correct": correct[name][place] for short, name in (("pilot", PILOT), ("pair", PAIR))},
        }
        for place, row in enumerate(test)
    ]
    gain = paired_gain(correct[PILOT], correct[PAIR]).as_dict()
    texts = list(zip(test["prompt"][:], test["target"][:], strict=True))
    loss = loss_gain(*target_losses(pair, tokenizer, texts, weight, options.batch_size)).as_dict()
    return {"task": data.name, "copilot_weight": weight, "models": models, "gain": gain, "loss": loss, "rows": rows}


def describe(results: dict[str, Any]) -> list[str]:
    """The results as lines.

    Args:
        results (`dict`): what [`compare`] gave.

    Returns:
        list of `str`
    """
    rows = [
        [
            name,
            f"{model['weights']:,}",
            f"{model['correct']} of {model['total']}",
            f"{100 * model['share']:.1f} %",
            f"{100 * model['low']:.1f} to {100 * model['high']:.1f} %",
            f"{model['seconds']:.1f} s",
        ]
        for name, model in results["models"].items()
    ]
    gain = results["gain"]
    verdict = "a gain" if gain["low"] > 0 else "a loss" if gain["high"] < 0 else "we saw no gain"
    return [
        table([results["task"], "weights", "right", "share", "95 % interval", "time"], rows),
        f"gain at λ = {results['copilot_weight']:g}: {100 * gain['difference']:+.1f} points, 95 % interval "
        f"{100 * gain['low']:+.1f} to {100 * gain['high']:+.1f} ({gain['fixed']} mended, {gain['broken']} spoilt): "
        f"{verdict}",
        _likelihood(results["loss"]),
    ]


def _likelihood(loss: dict[str, Any]) -> str:
    verdict = "a gain" if loss["low"] > 0 else "a loss" if loss["high"] < 0 else "we saw no gain"
    interval = f"95 % interval {loss['low']:+.4f} to {loss['high']:+.4f}: {verdict}"
    if loss["low"] == loss["high"]:
        interval = "without an interval: the questions are too few, or all alike"
    return (
        f"loss of the right answers in nats a token ({loss['tokens']:,} tokens): Pilot {loss['before']:.4f}, pair "
        f"{loss['after']:.4f}, better by {loss['difference']:+.4f}, {interval}"
    )


__all__ = ["EvaluateArguments", "compare", "describe", "run"]
