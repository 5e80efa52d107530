"""Checks that a record can teach a pair's Copilot. An error names what stands in the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from ..hub.pilot_fingerprint import differences, pair_fingerprint, pilot_digests, tokenizer_hash
from ..pair.correction import feedback_kind, reads_mistakes
from ..pair.options import chosen


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel
    from .recorded_mistakes import RecordedMistakes

_BELIEF_FIELDS = ("belief_ids", "belief_probabilities", "next_probabilities")
_QUESTION_FIELDS = ("question", "question_lengths")


def record_for_pair(
    record: RecordedMistakes, pair: PilotCopilotPreTrainedModel, tokenizer: Any = None
) -> RecordedMistakes:
    """A record as a pair's Copilot is to be taught from it: of what is stored, only what it reads.

    Args:
        tokenizer (*optional*): the trainer's; compared where it is one.

    Raises:
        ValueError: it is of another Pilot, or lacks something; all of it is named.
    """
    problems = [*_other_pilot(record, pair, tokenizer), *_missing(record, pair)]
    if problems:
        raise ValueError(
            f"the record in {record.folder} can't teach this Copilot: {'; '.join(problems)}. Record the data with this "
            "pair: `record_mistakes(pair, dataset, ANOTHER_FOLDER)`, or `transformers-copilot record --pilot … "
            "--output_dir ANOTHER_FOLDER` with the Copilot's options."
        )
    left_out = () if reads_mistakes(pair) else _BELIEF_FIELDS
    if _reads_nothing_else(pair):
        left_out = (*left_out, *_QUESTION_FIELDS)
    return record.reading(columns_read(pair), left_out)


def columns_read(pair: PilotCopilotPreTrainedModel) -> tuple[int | str, ...]:
    """What a pair's Copilot reads of the Pilot's layers.

    Returns:
        `tuple`: numbers of layers, or `"mean"`; empty where it reads nothing.
    """
    read = pair.copilot.layers_read(pair.recorder.num_layers)
    return () if read is None else (read,) if isinstance(read, str) else tuple(read)


def _reads_nothing_else(pair: PilotCopilotPreTrainedModel) -> bool:
    return chosen("form", pair.copilot.config.form) == "linear"


def _other_pilot(record: RecordedMistakes, pair: PilotCopilotPreTrainedModel, tokenizer: Any) -> list[str]:
    header, found = record.header, {**pair_fingerprint(pair), **pilot_digests(pair)}
    digests = ("weights", "head")
    shape = {name: value for name, value in header.pilot.items() if name not in digests}
    problems = [f"the Pilot's {difference}" for difference in differences(shape, found)]
    other = {name for name in digests if differences({name: header.pilot.get(name)}, found)}
    if other and not problems:
        what = "head among them" if "head" in other else "though not of its head: it has learnt since"
        dtype = str(pair.pilot.dtype).removeprefix("torch.")
        hint = "" if dtype == header.pilot_dtype else f" (they are {dtype} here and were {header.pilot_dtype})"
        problems.append(f"the Pilot's weights are other ones, {what}{hint}")
    if header.tokenizer_hash is not None and isinstance(tokenizer, PreTrainedTokenizerBase):
        spelling = tokenizer_hash(tokenizer)
        if spelling != header.tokenizer_hash:
            problems.append(f"the tokenizer gives other ids to tokens (hash {spelling}, was {header.tokenizer_hash})")
    return problems


def _missing(record: RecordedMistakes, pair: PilotCopilotPreTrainedModel) -> list[str]:
    header, config, wanted = record.header, pair.config, columns_read(pair)
    problems = []
    if lacking := [column for column in wanted if column not in header.rationale]:
        problems.append(
            f"the Copilot (form={pair.copilot.config.form!r}, rationale={pair.copilot.config.rationale!r}) reads "
            f"{_listed(lacking)} of the Pilot's layers, and it holds {_listed(header.rationale) or 'none'}; "
            f"`layers={tuple(lacking)}` keeps that too"
        )
    if reads_mistakes(pair):
        if not header.mistakes_everywhere:
            problems.append(
                f"error_feedback={feedback_kind(pair)!r} reads mistakes at every position, and it holds those of "
                "lessons (error_feedback='token' reads none)"
            )
        elif header.mistake_top_k != config.mistake_top_k:
            problems.append(f"mistake_top_k is {config.mistake_top_k} and was {header.mistake_top_k}")
    if chosen("mistakes_from", config.mistakes_from) == "all" and header.mistakes_from != "all":
        problems.append(f"mistakes_from is 'all' and was {header.mistakes_from!r}")
    if config.is_encoder_decoder and not header.question and not _reads_nothing_else(pair):
        problems.append("the Copilot reads the encoder's output, which it does not hold")
    return problems


def _listed(columns: Any) -> str:
    return ", ".join("the mean" if column == "mean" else f"number {column}" for column in columns)


__all__ = ["columns_read", "record_for_pair"]
