"""The report of a run: one HTML file that holds everything, and asks nothing of a network."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..mistake_log.token_text import TokenTexts, printable
from .mistake_analysis import MistakeAnalysis, analyse_mistakes
from .mistake_counters import FEWEST
from .mistake_examples import LogExamples, collect_examples
from .pair_inspection import LayerView, PairInspection, inspect_pair, layer_view
from .picture_style import check_matplotlib
from .report_pictures import pictures_of_inspection, pictures_of_log
from .report_tables import (
    changed_replies,
    changed_tokens,
    confusion_rows,
    findings,
    models_table,
    pair_sentences,
    plain,
    running_text,
)
from .run_folder import RunFolder
from .texts import LookAt, count_read, logged_items
from .token_cells import layer_lines, reply_lines
from .verdict import Verdict, evidence_of_evaluation, evidence_of_fit, evidence_of_inspection, judge


logger = logging.get_logger(__name__)


def write_report(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    tokenizer: Any | None = None,
    look_at: LookAt | None = None,
    most_texts: int = 16,
    with_pair: bool = True,
    progress: bool = True,
) -> Path:
    """Make the report of a run.

    Args:
        folder: the run's folder, or one of its checkpoints.
        output: the HTML file to write; an older one is replaced.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): defaults to the one in the folder; without one tokens are
            called by their ids.
        look_at ([`LookAt`], *optional*): texts to look at the pair's work on; defaults to the log's last sequences.
        most_texts (`int`, *optional*, defaults to 16): how many of these are read.
        with_pair (`bool`, *optional*, defaults to `True`): `False` leaves the pair out, which needs no model.
        progress (`bool`, *optional*, defaults to `True`): show a progress bar.

    Returns:
        `Path`: the file.

    Raises:
        FileNotFoundError: there is no run or no Mistake Log in the folder.
        ImportError: matplotlib is missing.
        OSError: the output cannot be written; this is found out first.
        ValueError: the log is empty or torn.
    """
    output = Path(output)
    check_matplotlib()
    page = _template()
    _check_output(output)
    run = RunFolder.read(folder)
    tokens = _token_texts(run, tokenizer)
    analysis = analyse_mistakes(run.source, tokens, round_bins=20)
    examples = collect_examples(run.source, analysis.confusions, sequences=max(8, most_texts))
    work = _pair_work(run, examples, look_at, most_texts, progress) if with_pair else "it was left out."
    examples.first, examples.last = examples.first[:8], examples.last[:8]
    text = page.render(**_contents(run, analysis, examples, tokens, work))
    partial = output.with_name(output.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, output)
    return output


@dataclass
class _PairWork:
    """What the pair did on those texts, of which training has read some, as far as is known."""

    texts: str
    read: int | None
    items: list[dict[str, list[int]]]
    inspection: PairInspection
    view: LayerView | None
    weight: float


def _pair_work(
    run: RunFolder,
    examples: LogExamples,
    look_at: LookAt | None,
    most_texts: int,
    progress: bool,
) -> _PairWork | str:
    """Read texts with the pair; a sentence says why where that is not possible."""
    if run.model is None:
        return "there are no weights of a pair in the run's folder."
    seq2seq = bool(run.config.get("is_encoder_decoder", False))
    if look_at is None and seq2seq:
        return "the log has no source texts of an encoder-decoder. Give a task's questions with `--task`."
    if look_at is not None:
        name, items = look_at.name, look_at.items[:most_texts]
        read = None if seq2seq else count_read(items, run.source, run.logs)
    else:
        name, items = "texts of the last rounds", logged_items(examples.last, run.logs)[:most_texts]
        read = len(items)
    if not items:
        return "the log's rows have the replies without their prompts. Give texts with `--task` or `--dataset`."
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    pair = (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(run.model)
    inspection = inspect_pair(pair, items, _collator(pair), batch_size=2, progress=progress)
    view = None if seq2seq else _view(pair, items, inspection)
    return _PairWork(name, read, items, inspection, view, float(pair.config.copilot_weight))


def _view(pair: Any, items: list[dict[str, list[int]]], inspection: PairInspection) -> LayerView:
    """The token that the Copilot mended most, or failing that made likelier by most."""
    frame = inspection.tokens
    mended = (frame["pair_token_id"] == frame["true_token_id"]) & (frame["pilot_token_id"] != frame["true_token_id"])
    gain = frame["pair_probability"] - frame["pilot_probability"]
    best = frame.loc[(gain[mended] if mended.any() else gain).idxmax()]
    return layer_view(pair, items[int(best["item"])], int(best["position"]), inspection.weight)


def _collator(pair: Any) -> Any:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    pad = pair.generation_config.pad_token_id or 0

    def collate(items: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """A batch, padded on the right."""
        ids, labels = ([torch.tensor(item[name]) for item in items] for name in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        }

    return collate


def _contents(
    run: RunFolder, analysis: MistakeAnalysis, examples: LogExamples, tokens: TokenTexts, work: _PairWork | str
) -> dict[str, Any]:
    measured = work if isinstance(work, _PairWork) else None
    inspection = None if measured is None else measured.inspection
    figures = {
        "analysis": plain(asdict(analysis)),
        "pair": None if inspection is None else plain({"weight": inspection.weight, "by_weight": inspection.by_weight}),
    }
    return {
        "name": printable(run.path.resolve().name),
        "verdict": _verdict(run, measured),
        "models": models_table(run.results),
        "task": printable(str(run.results.get("task", ""))),
        "kept_rounds": run.kept_rounds,
        "totals": analysis.totals,
        "recurrence": analysis.recurrence,
        "fewest": FEWEST,
        "findings": findings(analysis, tokens),
        "by_class": plain(analysis.by_class),
        "replies": [
            ("first-replies", f"in the first round ({analysis.totals['first_round'] + 1})", examples.first),
            ("last-replies", f"in the last rounds (up to {analysis.totals['last_round'] + 1})", examples.last),
        ],
        "reply_lines": partial(reply_lines, tokens=tokens),
        "pictures": pictures_of_log(analysis),
        "confusions": confusion_rows(analysis, examples, tokens),
        "whole_texts": all(sequence.whole for sequence in examples.last),
        "without_text": tokens.tokenizer is None,
        "weight": run.config.get("copilot_weight"),
        "without_pair": work if isinstance(work, str) else None,
        "pair": None if measured is None else _pair_contents(measured, tokens),
        "changed": changed_replies(run.results),
        "picked": bool(run.results.get("changed")),
        "figures": figures,
    }


def _verdict(run: RunFolder, work: _PairWork | None) -> Verdict:
    evidence = evidence_of_evaluation(run.results) + evidence_of_fit(run.config)
    if work is not None:
        evidence.append(evidence_of_inspection(work.inspection, work.texts, work.read))
    for one in evidence:
        one.texts = printable(one.texts)
    return judge(evidence, run.results, run.config.get("copilot_weight"))


def _pair_contents(work: _PairWork, tokens: TokenTexts) -> dict[str, Any]:
    return {
        "texts": printable(work.texts),
        "count": len(work.items),
        "read": work.read,
        "tokens": len(work.inspection.tokens),
        "weight": work.inspection.weight,
        "sentences": pair_sentences(work.inspection, work.weight),
        "pictures": pictures_of_inspection(work.inspection, tokens, work.weight),
        "view": work.view,
        "layers": [] if work.view is None else layer_lines(work.view, tokens),
        "view_text": "" if work.view is None else running_text(work.view.before[-48:], tokens),
        "view_true": "" if work.view is None else tokens.name(work.view.true),
        "changed": changed_tokens(work.inspection, work.items, tokens),
    }


def _token_texts(run: RunFolder, tokenizer: Any | None) -> TokenTexts:
    if tokenizer is None and run.tokenizer is not None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(run.tokenizer)
    ends = (run.config.get("pilot") or {}).get("eos_token_id")
    return TokenTexts(tokenizer, ends if isinstance(ends, list) else [] if ends is None else [ends])


def _template() -> Any:
    import jinja2

    # Everything that is put into the page is escaped; a name that is missing is an error and no gap.
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=loader)
    script = loader.get_source(environment, "report.js")[0]
    environment.globals.update(script=jinja2.utils.markupsafe.Markup(script), script_hash=_script_hash(script))
    return environment.get_template("report.html.j2")


def _script_hash(script: str) -> str:
    """What the page's security policy lets run: this one script, and nothing that a text might bring."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _check_output(output: Path) -> None:
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder; give a file to write, such as {output / 'report.html'}.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        probe = output.with_name(output.name + ".partial")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise type(error)(f"the report cannot be written to {output} ({error}); choose another `-o`.") from error


__all__ = ["write_report"]
