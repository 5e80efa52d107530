"""The report of a run: one HTML file that holds everything, and asks nothing of a network."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..mistake_log.token_text import TokenTexts, printable
from .mistake_analysis import MistakeAnalysis, analyse_mistakes
from .mistake_examples import LogExamples, collect_examples
from .pair_inspection import LayerView, PairInspection, inspect_pair, layer_view
from .picture_style import check_matplotlib
from .report_pictures import pictures_of_inspection, pictures_of_log
from .report_tables import changed_replies, changed_tokens, confusion_rows, findings, models_table, plain
from .run_folder import RunFolder


logger = logging.get_logger(__name__)


@dataclass
class LookAt:
    """Texts on which the report shows what the Copilot changes.

    Args:
        name (`str`): what they are, in words.
        items (list of `dict`): tokenised texts with `input_ids` and `labels`.
    """

    name: str
    items: list[dict[str, list[int]]]


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
    analysis = analyse_mistakes(run.source, tokens)
    examples = collect_examples(run.source, analysis.confusions, sequences=max(12, most_texts))
    work = _pair_work(run, tokens, examples, look_at, most_texts, progress) if with_pair else "it was left out."
    examples.first, examples.last = examples.first[:12], examples.last[:12]
    text = page.render(**_contents(run, analysis, examples, tokens, work))
    partial = output.with_name(output.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, output)
    return output


@dataclass
class _PairWork:
    """What the pair did on those texts."""

    texts: str
    items: list[dict[str, list[int]]]
    inspection: PairInspection
    view: LayerView | None
    weight: float


def _pair_work(
    run: RunFolder,
    tokens: TokenTexts,
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
    name, items = "sequences of the log's last rounds, which training has read", []
    if look_at is not None:
        name, items = look_at.name, look_at.items[:most_texts]
    else:
        items = [sequence.item() for sequence in examples.last[:most_texts]]
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    pair = (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(run.model)
    inspection = inspect_pair(pair, items, _collator(pair), batch_size=2, progress=progress)
    frame = inspection.tokens
    mended = (frame["pair_token_id"] == frame["true_token_id"]) & (frame["pilot_token_id"] != frame["true_token_id"])
    gain = frame["pair_probability"] - frame["pilot_probability"]
    best = frame.loc[(gain[mended] if mended.any() else gain).idxmax()]
    item = items[int(best["item"])]
    view = None if seq2seq else layer_view(pair, item, int(best["position"]), inspection.weight)
    return _PairWork(name, items, inspection, view, float(pair.config.copilot_weight))


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
    inspection, pictures, changed = None, pictures_of_log(analysis, examples, tokens), None
    if isinstance(work, _PairWork):
        inspection = work.inspection
        pictures += pictures_of_inspection(inspection, work.view, tokens, work.weight)
        changed = changed_tokens(inspection, work.items, tokens)
    confusions = confusion_rows(analysis, examples, tokens)
    figures = {
        "analysis": plain(asdict(analysis)),
        "pair": None if inspection is None else plain({"weight": inspection.weight, "by_weight": inspection.by_weight}),
    }
    return {
        "name": printable(run.path.resolve().name),
        "kept_rounds": run.kept_rounds,
        "totals": analysis.totals,
        "recurrence": analysis.recurrence,
        "findings": findings(analysis, inspection, tokens),
        "pictures": pictures,
        "confusions": confusions,
        "by_class": plain(analysis.by_class),
        "without_text": tokens.tokenizer is None,
        "without_pair": work if isinstance(work, str) else None,
        "texts": work.texts if isinstance(work, _PairWork) else "",
        "texts_count": len(work.items) if isinstance(work, _PairWork) else 0,
        "inspection": inspection,
        "changed_tokens": changed,
        "weight": run.config.get("copilot_weight"),
        "models": models_table(run.results),
        "task": printable(str(run.results.get("task", ""))),
        "replies": changed_replies(run.results),
        "figures": figures,
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


__all__ = ["LookAt", "write_report"]
