"""`transformers-copilot evaluate`: the pair against its Pilot alone, on the same questions."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq

from ..data.items import encode_items
from ..metrics import accuracy_of, paired_gain
from ..metrics.intervals import side_of_zero
from ..metrics.likelihoods import item_losses, loss_gain, model_losses
from ..mistake_log.device_memory import memory_explained, weight_bytes
from ..pair.fusion import weight_of_call
from ..report.run_folder import EVALUATION_NAME
from ..tasks.answering import write_replies
from .arguments import make_parser, parse
from .baseline import baseline_folder
from .data import DataArguments, TextData, load_test_data
from .models import DTYPES, default_device, load_pair
from .terminal import quiet_libraries, say, table
from .train_options import BASELINES


EPILOG = """\
examples:
  transformers-copilot evaluate runs/mawps --task mawps --data_dir data
  transformers-copilot evaluate runs/own --dataset test.jsonl --answer_column answer --max_new_tokens 32

Every question is answered twice: by the Pilot alone (λ = 0) and by the pair. The table gives each one's share of right
answers with its 95 % interval, and the pair's gain with the interval of the same questions drawn anew. Below it stands
how likely the right answers are held, which tells more where there are few questions. All of it, with every reply, goes
into a JSON file that `transformers-copilot report` reads."""
PILOT, PAIR = "Pilot alone", "Pilot + Copilot"
_MAX_LENGTH = 1024  # of a text whose likelihood is measured
_LOWER = "Lower `--batch_size` or `--max_new_tokens`, or say `--dtype bfloat16` or another `--device`."


@dataclass
class EvaluateArguments:
    """What is answered with."""

    output: str | None = field(
        default=None, metadata={"aliases": ["-o"], "help": f"JSON file; {EVALUATION_NAME} in the pair's folder."}
    )
    weight: float | None = field(default=None, metadata={"help": "λ; the pair's own by default."})
    batch_size: int = field(default=16, metadata={"help": "Questions at a time."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Longest reply in tokens; the task's own."})
    baseline: str | None = field(
        default=None, metadata={"choices": list(BASELINES), "help": "Ask the rival, too, that `train --baseline` made."}
    )
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
    rival_folder = None if options.baseline is None else _rival_folder(other.pair, options.baseline)
    data, tokenizer = load_test_data(data_options, other.pair)
    output = Path(options.output or (Path(other.pair) if Path(other.pair).is_dir() else Path()) / EVALUATION_NAME)
    output.parent.mkdir(parents=True, exist_ok=True)
    rival = None if rival_folder is None else _load_rival(rival_folder, options)
    pair = load_pair(other.pair, options.dtype, options.device)
    weight = weight_of_call(pair, None, options.weight)
    weights = [*pair.parameters(), *(() if rival is None else rival.parameters())]
    with memory_explained(pair.device, "Answering", lambda: {"weights": weight_bytes(weights)}, _LOWER):
        results = compare(pair, tokenizer, data, options, weight, rival)
    output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    say(*describe(results), f"replies and figures: {output}")
    return 0


def _rival_folder(pair: str, kind: str) -> Path:
    """Where `train --baseline` left a model beside the pair."""
    folder = baseline_folder(pair, kind)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: `transformers-copilot train` makes it, with `--baseline {kind}`."
        )
    return folder


def _load_rival(folder: Path, options: EvaluateArguments) -> Any:
    auto = AutoModelForSeq2SeqLM if AutoConfig.from_pretrained(folder).is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype="auto" if options.dtype == "auto" else getattr(torch, options.dtype))
    return model.to(options.device or default_device()).eval()


def compare(
    pair: Any, tokenizer: Any, data: TextData, options: EvaluateArguments, weight: float, rival: Any = None
) -> dict[str, Any]:
    """Let both answer, and mark the answers.

    Args:
        data ([`TextData`]): the questions.
        options ([`EvaluateArguments`]): how to answer.
        weight (`float`): the pair's λ.
        rival (`PreTrainedModel`, *optional*): a model without a Copilot that answers, too.

    Returns:
        `dict`: `task`, `copilot_weight`, `models`, `gain`, `loss`, with a rival `baseline`, and `rows`
    """
    test: Any = data.test
    texts = list(zip(test["prompt"][:], test["target"][:], strict=True))
    items, too_long = encode_items(tokenizer, texts, _MAX_LENGTH, bool(pair.config.is_encoder_decoder))
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    given = {"pilot": (PILOT, pair, {"copilot_weight": 0.0}), "pair": (PAIR, pair, {"copilot_weight": weight})}
    if rival is not None:
        given["baseline"] = (BASELINES[str(options.baseline)], rival, {})
    marked = {short: _answered(*one, tokenizer, data, options) for short, one in given.items()}
    marked["pilot"].about["weights"] = pair.pilot.num_parameters()
    rows = [
        {
            "id": row["id"],
            "question": row["question"],
            "expected": row["answer"],
            **{f"{short}_reply": answered.replies[place] for short, answered in marked.items()},
            **{f"{short}_answer": answered.answers[place] for short, answered in marked.items()},
            **{f"{short}_correct": answered.correct[place] for short, answered in marked.items()},
        }
        for place, row in enumerate(test)
    ]
    before, after, tokens = item_losses(pair, items, collator, weight, options.batch_size)
    results = {
        "task": data.name,
        "copilot_weight": weight,
        "models": {marked[short].name: marked[short].about for short in ("pilot", "pair")},
        "gain": paired_gain(marked["pilot"].correct, marked["pair"].correct).as_dict(),
        "loss": {**loss_gain(before, after, tokens).as_dict(), "left_out": too_long},
    }
    if rival is not None:
        losses = model_losses(rival, items, collator, options.batch_size)
        results["baseline"] = {
            "name": marked["baseline"].name,
            **marked["baseline"].about,
            "gain": paired_gain(marked["baseline"].correct, marked["pair"].correct).as_dict(),
            "loss": loss_gain(losses, after, tokens).as_dict(),
        }
    return {**results, "rows": rows}


@dataclass
class _Answered:
    """A model's replies, the answers in them, and whether these are right."""

    name: str
    replies: list[str]
    answers: list[str | None]
    correct: list[bool]
    about: dict[str, Any]


def _answered(
    name: str, model: Any, used: dict[str, float], tokenizer: Any, data: TextData, options: EvaluateArguments
) -> _Answered:
    test: Any = data.test
    started, limit = time.perf_counter(), options.max_new_tokens or data.max_new_tokens
    replies = write_replies(
        model, tokenizer, test["prompt"][:], limit, options.batch_size, num_beams=options.num_beams, **used
    )
    seconds = time.perf_counter() - started
    answers = [data.extract_answer(reply) for reply in replies]
    correct = [bool(data.is_right(answer, right)) for answer, right in zip(answers, test["answer"][:], strict=True)]
    about = {"weights": model.num_parameters(), "seconds": seconds, **accuracy_of(correct).as_dict()}
    return _Answered(name, replies, answers, correct, about)


def describe(results: dict[str, Any]) -> list[str]:
    """The results as lines.

    Args:
        results (`dict`): what [`compare`] gave.

    Returns:
        list of `str`
    """
    models = dict(results["models"])
    rival = results.get("baseline")
    if rival is not None:
        models[rival["name"]] = rival
    rows = [
        [
            name,
            f"{model['weights']:,}",
            f"{model['correct']} of {model['total']}",
            f"{100 * model['share']:.1f} %",
            f"{100 * model['low']:.1f} to {100 * model['high']:.1f} %",
            f"{model['seconds']:.1f} s",
        ]
        for name, model in models.items()
    ]
    lines = [
        table([results["task"], "weights", "right", "share", "95 % interval", "time"], rows),
        _points(f"gain at λ = {results['copilot_weight']:g}", results["gain"]),
        _likelihood("Pilot", results["loss"]),
    ]
    if left_out := results["loss"].get("left_out"):
        lines.append(f"{left_out:,} of them are longer than {_MAX_LENGTH:,} tokens and not in this loss")
    if rival is not None:
        lines += [_points(f"the pair against {rival['name']}", rival["gain"]), _likelihood("that", rival["loss"])]
    return lines


def _points(what: str, gain: dict[str, Any]) -> str:
    return (
        f"{what}: {100 * gain['difference']:+.1f} points, 95 % interval {100 * gain['low']:+.1f} to "
        f"{100 * gain['high']:+.1f} ({gain['fixed']} mended, {gain['broken']} spoilt): {_judged(gain)}"
    )


def _likelihood(other: str, loss: dict[str, Any]) -> str:
    change = "better" if loss["difference"] >= 0 else "worse"
    interval = f"95 % interval {loss['low']:+.4f} to {loss['high']:+.4f}: {_judged(loss)}"
    if loss["low"] == loss["high"]:
        interval = "without an interval: the questions are too few, or all alike"
    return (
        f"loss of the right answers in nats a token ({loss['tokens']:,} tokens): {other} {loss['before']:.4f}, pair "
        f"{loss['after']:.4f}, {change} by {abs(loss['difference']):.4f}, {interval}"
    )


def _judged(gain: dict[str, Any]) -> str:
    return {1: "a gain", -1: "a loss", 0: "we saw no gain"}[side_of_zero(gain["low"], gain["high"])]


__all__ = ["EvaluateArguments", "compare", "describe", "run"]
