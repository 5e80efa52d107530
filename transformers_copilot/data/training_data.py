"""`load_training_data`: any data as people have it, made into the items that a Trainer takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info
from transformers.utils import logging

from .chat import check_template, questions, render, use_template
from .formats import Columns, Format, NoAssistantTurn, PlainText, PromptTarget, RowError, Text, format_of
from .items import end_token, item_length, training_items
from .reading import RawRow, open_source


logger = logging.get_logger(__name__)

MAX_LENGTH = 1024
_BAD, _SILENT, _LONG = "bad", "without an assistant's turn", "too long"


@dataclass
class Account:
    """What became of the rows.

    Attributes:
        skipped (`Counter`): how many rows or items were left out, by reason.
        first_bad (`str`, *optional*): what is wrong with the first broken row.
        joined (`int`): rows whose prompt and target run together.
        first_joined (`str`, *optional*): where that is first.
    """

    skipped: Counter[str] = field(default_factory=Counter)
    first_bad: str | None = None
    joined: int = 0
    first_joined: str | None = None

    def lines(self) -> list[str]:
        """What a user should know, a line each.

        Returns:
            list of `str`
        """
        said = []
        if self.skipped[_BAD]:
            said.append(f"left out: {self.skipped[_BAD]:,} broken rows; the first: {self.first_bad}")
        if self.skipped[_SILENT]:
            said.append(
                f"left out: {self.skipped[_SILENT]:,} conversations without a turn of the assistant to learn from"
            )
        if self.skipped[_LONG]:
            said.append(f"left out: {self.skipped[_LONG]:,} texts that are too long")
        if self.joined:
            said.append(
                f"warning: prompt and target run together in {self.joined:,} rows; the first: {self.first_joined}. "
                "Begin the targets with a space, or put one between: `--separator ' '` (`separator=\" \"` in Python)"
            )
        return said


@dataclass
class TextRows:
    """Rows that were read and understood, not yet tokenized.

    Attributes:
        name (`str`): what they are.
        layout ([`Format`]): how they were laid out.
        texts (list of `tuple`): each row's place and its [`Text`].
        account ([`Account`]): what was left out.
        skip_bad_rows (`bool`, *optional*, defaults to `False`): leave rows out that the chat template refuses.
    """

    name: str
    layout: Format
    texts: list[tuple[str, Text]]
    account: Account
    skip_bad_rows: bool = False

    def __len__(self) -> int:
        return len(self.texts)

    def chosen(self, places: Iterable[int]) -> TextRows:
        """Some of the rows.

        Args:
            places (iterable of `int`): their numbers, from 0.

        Returns:
            [`TextRows`]
        """
        return TextRows(
            self.name, self.layout, [self.texts[place] for place in places], self.account, self.skip_bad_rows
        )

    def describe(self) -> str:
        """The layout in one line.

        Returns:
            `str`
        """
        return f"{self.name}: {self.layout.name}; learnt is {self.layout.supervised}"


class TrainingData(Sequence[dict[str, list[int]]]):
    """Tokenized items for a Trainer, with what is known of them.

    Args:
        items (list of `dict`): each with `input_ids` and `labels` (-100 where nothing is supervised).
        description (`str`): which layout was recognised, and what is supervised.
        notes (list of `str`): what was left out, and warnings.
        too_long (`int`, *optional*, defaults to 0): how many items were left out as too long.
    """

    def __init__(
        self, items: list[dict[str, list[int]]], description: str, notes: list[str], too_long: int = 0
    ) -> None:
        self.items, self.description, self.notes, self.too_long = items, description, notes, too_long

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: Any) -> Any:
        return self.items[place]


class StreamedTrainingData(IterableDataset):
    """Tokenized items, made as rows come. With several loading processes each takes its share of the rows.

    Args:
        rows (callable): begins the rows anew.
        reader ([`RowReader`]): understands them.
        encoder ([`Encoder`]): tokenizes them.
    """

    def __init__(self, rows: Any, reader: RowReader, encoder: Encoder) -> None:
        self.rows, self.reader, self.encoder = rows, reader, encoder

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for place, text in self.reader.read(islice(self.rows(), start, None, step)):
            yield from self.encoder.items(place, text)


class RowReader:
    """Understands rows: the first one's layout is everyone's.

    Args:
        columns ([`Columns`]): columns that the user named.
        skip_bad_rows (`bool`): leave broken rows out and count them, where they would be an error.
        account ([`Account`]): where they are counted.
    """

    def __init__(self, columns: Columns, skip_bad_rows: bool, account: Account) -> None:
        self.columns, self.skip_bad_rows, self.account = columns, skip_bad_rows, account
        self.layout: Format | None = None

    def read(self, rows: Iterable[RawRow]) -> Iterator[tuple[str, Text]]:
        """Each row's place and what it is.

        Args:
            rows (iterable of [`RawRow`]): what was read.

        Yields:
            `tuple`

        Raises:
            ValueError: a row is broken.
        """
        for row in rows:
            try:
                yield row.place, self._understood(row)
            except RowError as error:
                count_or_raise(row.place, error, self.skip_bad_rows, self.account)

    def _understood(self, row: RawRow) -> Text:
        if row.values is None:
            raise RowError(row.fault)
        if self.layout is None:
            self.layout = format_of(row.values, self.columns)
        missing = [name for name in self.layout.columns if row.values.get(name) is None]
        if not missing:
            return self.layout.make(row.values)
        empty = [name for name in missing if name in row.values]
        if empty:
            raise RowError(f"{empty[0]} is None; give some text")
        other = format_of(row.values, Columns() if self.columns.prompt is None else self.columns)
        raise RowError(f"is laid out as {other.name}, the rows before as {self.layout.name}; give a file of one layout")


def count_or_raise(place: str, error: RowError, skip_bad_rows: bool, account: Account) -> None:
    """Count a row that can't be used, or make an error of it.

    Args:
        place (`str`): where the row stands.
        error ([`RowError`]): what is wrong.
        skip_bad_rows (`bool`): whether it is only counted.
        account ([`Account`]): where.

    Raises:
        ValueError: it isn't to be left out.
    """
    if isinstance(error, NoAssistantTurn):
        account.skipped[_SILENT] += 1
        return
    if not skip_bad_rows:
        raise ValueError(
            f"{place}: {error}. Mend the row, or leave broken rows out with `--skip_bad_rows` (`skip_bad_rows=True` in "
            "Python)."
        ) from error
    account.skipped[_BAD] += 1
    account.first_bad = account.first_bad or f"{place}: {error}"


def read_texts(name: str, rows: Iterable[RawRow], columns: Columns, skip_bad_rows: bool = False) -> TextRows:
    """Understand all rows.

    Args:
        name (`str`): what they are called.
        rows (iterable of [`RawRow`]): what was read.
        columns ([`Columns`]): columns that the user named.
        skip_bad_rows (`bool`, *optional*, defaults to `False`): leave broken rows out.

    Returns:
        [`TextRows`]

    Raises:
        ValueError: a row is broken, or there is none that can be used.
    """
    reader = RowReader(columns, skip_bad_rows, Account())
    texts = list(reader.read(rows))
    if not texts or reader.layout is None:
        raise ValueError(f"{name} has no row that can be used. {' '.join(reader.account.lines())}".rstrip())
    return TextRows(name, reader.layout, texts, reader.account, skip_bad_rows)


class Encoder:
    """Makes texts into items.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        max_length (`int`): longest item in tokens. Longer ones are left out; plain text is cut into pieces.
        is_encoder_decoder (`bool`): whether prompts go to an encoder.
        skip_bad_rows (`bool`): leave out rows that the chat template refuses.
        account ([`Account`]): where it is counted what was left out.
    """

    def __init__(
        self, tokenizer: Any, max_length: int, is_encoder_decoder: bool, skip_bad_rows: bool, account: Account
    ) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.is_encoder_decoder, self.skip_bad_rows, self.account = is_encoder_decoder, skip_bad_rows, account

    def items(self, place: str, text: Text) -> list[dict[str, list[int]]]:
        """A row's items.

        Args:
            place (`str`): where the row stands.
            text ([`Text`]): what it holds.

        Returns:
            list of `dict`; none if it is left out.

        Raises:
            ValueError: the chat template refuses the row, or there is none.
        """
        try:
            made = self._made(place, text)
        except RowError as error:
            count_or_raise(place, error, self.skip_bad_rows, self.account)
            return []
        kept = [item for item in made if item_length(item) <= self.max_length]
        self.account.skipped[_LONG] += len(made) - len(kept)
        return kept

    def _made(self, place: str, text: Text) -> list[dict[str, list[int]]]:
        if isinstance(text, PromptTarget):
            if _run_together(text):
                self._joined(place, f"{text.prompt[-20:]}{text.target[:20]}")
            return [self._pair_of(text)]
        if isinstance(text, PlainText):
            return self._pieces(text.text)
        check_template(self.tokenizer)
        if self.is_encoder_decoder:
            return [self._pair_of(question) for question in questions(self.tokenizer, text)]
        items = []
        for rendered in render(self.tokenizer, text):
            if rendered.joined is not None:
                self._joined(place, rendered.joined)
            pairs = zip(rendered.input_ids, rendered.supervised, strict=True)
            items.append({"input_ids": rendered.input_ids, "labels": [token if on else -100 for token, on in pairs]})
        return items

    def _joined(self, place: str, around: str) -> None:
        self.account.joined += 1
        self.account.first_joined = self.account.first_joined or f"{place}: …{around}…"

    def _pair_of(self, text: PromptTarget) -> dict[str, list[int]]:
        (item,) = training_items(self.tokenizer, [(text.prompt, text.target)], self.is_encoder_decoder)
        return item

    def _pieces(self, text: str) -> list[dict[str, list[int]]]:
        if self.is_encoder_decoder:
            raise ValueError(
                "the data are plain texts, and the model has an encoder, which needs something to read; give `prompt` "
                "and `target`."
            )
        ids = [*self.tokenizer(text).input_ids, end_token(self.tokenizer)]
        pieces = [ids[start : start + self.max_length] for start in range(0, len(ids), self.max_length)]
        return [{"input_ids": piece, "labels": list(piece)} for piece in pieces if len(piece) > 1]


def _run_together(text: PromptTarget) -> bool:
    """Whether a word of the target stands right behind a word or a sentence of the prompt; "2+3=" may be meant so."""
    last, first = text.prompt[-1], text.target[0]
    spaced = first.isascii() or first.lower() != first.upper()  # Chinese, for one, puts nothing between words
    return spaced and first.isalnum() and (last.isalnum() or last in ".?!:;,")


def encode_texts(tokenizer: Any, rows: TextRows, max_length: int, is_encoder_decoder: bool) -> TrainingData:
    """Tokenize rows.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        rows ([`TextRows`]): what was read.
        max_length (`int`): longest item in tokens.
        is_encoder_decoder (`bool`): whether prompts go to an encoder.

    Returns:
        [`TrainingData`]

    Raises:
        ValueError: a row is refused, or none is left.
    """
    account = Account(Counter(rows.account.skipped), rows.account.first_bad)
    encoder = Encoder(tokenizer, max_length, is_encoder_decoder, rows.skip_bad_rows, account)
    items = [item for place, text in rows.texts for item in encoder.items(place, text)]
    if not items:
        hint = " Give a larger `--max_length`." if account.skipped[_LONG] else ""
        raise ValueError(f"none of {len(rows):,} rows is left. {'; '.join(account.lines())}.{hint}")
    return TrainingData(items, rows.describe(), account.lines(), account.skipped[_LONG])


def load_training_data(
    data: Any,
    tokenizer: Any,
    *,
    split: str = "train",
    config: str | None = None,
    prompt_column: str | None = None,
    target_column: str | None = None,
    separator: str | None = None,
    chat_template: str | None = None,
    max_length: int = MAX_LENGTH,
    max_rows: int | None = None,
    is_encoder_decoder: bool = False,
    skip_bad_rows: bool = False,
    streaming: bool = False,
) -> Any:
    """Read data of any usual kind and layout, and make the items that [`CopilotTrainer`] takes.

    Files may be JSON lines, JSON, CSV, TSV, Parquet or text (one a line), compressed ones too; a folder of such files,
    a `save_to_disk` folder, a data set on the Hub. The layout is recognised by its columns:

    - `messages` (TRL's, and OpenAI's fine-tuning form, with `weight` and tools) or ShareGPT's `conversations`: written
      by the tokenizer's chat template; only the assistant's turns are supervised;
    - `prompt` and `completion`, `prompt` and `target`, `question` and `answer`: only the second is supervised; both may
      be lists of messages;
    - `instruction`, `input` and `output`: written as Alpaca's prompt; only the output is supervised;
    - `text`: all of it is supervised.

    Args:
        data: a file, a folder, an id on the Hub, a `datasets` object, or a sequence of `dict`.
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        split (`str`, *optional*, defaults to `"train"`): `"train"`, `"dev"` or `"test"`. Files and splits are told
            apart by the words of their names; where no name says so, all rows are read.
        config (`str`, *optional*): which configuration of a data set on the Hub.
        prompt_column (`str`, *optional*): the column with what the model is given, if it isn't recognised.
        target_column (`str`, *optional*): the column with what it is to write.
        separator (`str`, *optional*): stands between prompt and target. Without one, nothing does, but a space before a
            target that is a number.
        chat_template (`str`, *optional*): a file with a chat template, or `"plain"`, for a tokenizer that has none; it
            stays with the tokenizer.
        max_length (`int`, *optional*, defaults to 1024): longest item in tokens. Longer ones are left out, as cutting
            them would cut off the answer; plain text is cut into pieces.
        max_rows (`int`, *optional*): read only the first so many rows.
        is_encoder_decoder (`bool`, *optional*, defaults to `False`): prompts go to an encoder.
        skip_bad_rows (`bool`, *optional*, defaults to `False`): leave broken rows out, where one is an error.
        streaming (`bool`, *optional*, defaults to `False`): read rows as training asks for them; the Trainer then needs
            `max_steps`.

    Returns:
        [`TrainingData`], a sequence of items with `input_ids` and `labels`; take `DataCollatorForSeq2Seq` with it. With
        `streaming` a `torch.utils.data.IterableDataset`.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a row is broken, the layout is unknown, nothing is left, or the tokenizer has no chat template or no
            end-of-text token, where the data needs one.
    """
    use_template(tokenizer, chat_template)
    source = open_source(data, config, streaming)
    columns = Columns(prompt_column, target_column, None, separator)
    if streaming:
        account = Account()
        reader = RowReader(columns, skip_bad_rows, account)
        encoder = Encoder(tokenizer, max_length, is_encoder_decoder, skip_bad_rows, account)
        return StreamedTrainingData(lambda: islice(source.rows(split), max_rows), reader, encoder)
    rows = read_texts(source.name, islice(source.rows(split), max_rows), columns, skip_bad_rows)
    made = encode_texts(tokenizer, rows, max_length, is_encoder_decoder)
    for note in made.notes:
        logger.warning(f"{source.name}: {note}")
    return made


def marked(tokenizer: Any, item: dict[str, list[int]], colour: bool = False) -> str:
    """An item as text, with what is supervised marked.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the Pilot's.
        item (`dict`): `input_ids` and `labels`.
        colour (`bool`, *optional*, defaults to `False`): mark by colour; else as `⟦so⟧`.

    Returns:
        `str`
    """
    before, after = ("\033[1;32m", "\033[0m") if colour else ("⟦", "⟧")
    ids, labels = item["input_ids"], item["labels"]
    if len(ids) != len(labels) or any(label not in (-100, token) for token, label in zip(ids, labels, strict=True)):
        return f"{tokenizer.decode(ids)} → {before}{tokenizer.decode(labels)}{after}"
    parts, start = [], 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or (labels[place] == -100) != (labels[start] == -100):
            text = tokenizer.decode(ids[start:place])
            parts.append(text if labels[start] == -100 else f"{before}{text}{after}")
            start = place
    return "".join(parts)


__all__ = ["MAX_LENGTH", "Account", "Encoder", "RowReader", "StreamedTrainingData", "TextRows", "TrainingData"]
__all__ += ["count_or_raise", "encode_texts", "load_training_data", "marked", "read_texts"]
