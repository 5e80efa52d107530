"""What a folder of recorded rounds says of itself, in `record.json`: whose mistakes they are, and what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub.pilot_fingerprint import pair_fingerprint, pilot_digests, round_contents, tokenizer_hash
from ..pair.pilot_head import HeadMap
from ..pair.provenance import FIELDS_FINGERPRINT, check_unchanged, fields_fingerprint
from ..pair.saved_files import READING_ERRORS, read_json
from ..pair.version import __version__


if TYPE_CHECKING:
    from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel

RECORD_FILE = "record.json"
RECORD_FORMAT = "transformers_copilot.record.v1"
# What may differ between two calls that write into one folder, or may be unknown to one of them.
_NOT_COMPARED = ("transformers_copilot_version", "head_map", "joined_from")
_MAY_BE_UNKNOWN = ("tokenizer_hash", "data", "weights", "head")


@dataclass(frozen=True)
class RecordHeader:
    """What `record.json` holds.

    Attributes:
        sequences (`int`): sequences of the data set.
        sequences_per_shard (`int`): sequences of each shard but the last.
        dtype (`str`): type of the states.
        rationale (`tuple`): what is kept of the Pilot's layers at each position: `"mean"` over them, or numbers of
            layers, from 0.
        question (`bool`): whether an encoder's output is kept.
        mistakes_everywhere (`bool`): whether mistakes are kept at every position, prompts included.
        mistakes_from (`str`): which positions are lessons.
        mistake_top_k (`int`, *optional*): how many tokens of p̂ a mistake keeps.
        pilot (`dict`): the Pilot's fingerprint, and digests of its `weights` and of its `head` alone.
        pilot_dtype (`str`): type of its weights.
        head_map (`dict`, *optional*): what its family does after its head; `None`: logits are kept instead of states.
        transformers_copilot_version (`str`): of the package that wrote it.
        tokenizer_hash (`str`, *optional*): of its tokenizer, where one was given.
        data (`str`, *optional*): digest of some of the rows.
        joined_from (`tuple` of `str`, *optional*): other folders in which its shards lie, seen from its own.
    """

    sequences: int
    sequences_per_shard: int
    dtype: str
    rationale: tuple[int | str, ...]
    question: bool
    mistakes_everywhere: bool
    mistakes_from: str
    mistake_top_k: int | None
    pilot: dict[str, Any]
    pilot_dtype: str
    head_map: dict[str, Any] | None
    transformers_copilot_version: str
    tokenizer_hash: str | None = None
    data: str | None = None
    joined_from: tuple[str, ...] = ()

    @classmethod
    def of_pair(
        cls,
        pair: PilotCopilotPreTrainedModel,
        layers: Iterable[int | str] = (),
        tokenizer: Any = None,
        **stored: Any,
    ) -> RecordHeader:
        """What a record of a pair is to hold.

        Args:
            layers (iterable): layers that are kept beside those that its Copilot reads.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): the Pilot's, whose hash is noted; `None` notes none.
            **stored: `sequences`, `sequences_per_shard`, `dtype` and `data`.

        Raises:
            ValueError: the Pilot has no such layer.
        """
        contents = round_contents(pair)
        read = contents["rationale"]
        own: list[int | str] = [] if read is None else [read] if isinstance(read, str) else list(read)
        count = pair.recorder.num_layers
        for layer in layers:
            if layer != "mean" and not (isinstance(layer, int) and 0 <= layer < count):
                raise ValueError(
                    f"`layers` has {layer!r}; give numbers of the Pilot's decoder layers, 0 to {count - 1}, or 'mean'."
                )
            if layer not in own:
                own.append(layer)
        found = pair.head_map
        return cls(
            rationale=tuple(own),
            question=bool(pair.config.is_encoder_decoder) and bool(own),
            mistakes_everywhere=contents["mistakes_everywhere"],
            mistakes_from=contents["mistakes_from"],
            mistake_top_k=pair.config.mistake_top_k,
            pilot={**pair_fingerprint(pair), **pilot_digests(pair)},
            pilot_dtype=str(pair.pilot.dtype).removeprefix("torch."),
            head_map=None if found is None else asdict(found),
            transformers_copilot_version=__version__,
            tokenizer_hash=None if tokenizer is None else tokenizer_hash(tokenizer),
            **stored,
        )

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> RecordHeader:
        """Read a folder's header.

        Raises:
            ValueError: there is none, or it is another file.
        """
        path = Path(folder) / RECORD_FILE
        mend = (
            "Give the folder that `record_mistakes(pair, dataset, folder)` or `transformers-copilot record "
            "--output_dir FOLDER` wrote."
        )
        if not path.is_file():
            raise ValueError(f"{folder} holds no {RECORD_FILE}, so it is no record of mistakes. {mend}")
        try:
            values = read_json(path, str(path))
        except ValueError as error:
            raise ValueError(f"{error} {mend}") from error
        if values.get("format") != RECORD_FORMAT:
            raise ValueError(f"{path} has the format {str(values.get('format'))[:60]!r}, not {RECORD_FORMAT!r}. {mend}")
        values = check_unchanged(values, str(path), FIELDS_FINGERPRINT)
        known = {field.name for field in fields(cls)}
        try:
            header = cls(**{name: value for name, value in values.items() if name in known})
            object.__setattr__(header, "rationale", tuple(header.rationale))
            object.__setattr__(header, "joined_from", tuple(os.fspath(place) for place in header.joined_from))
            header.known_head_map()
        except READING_ERRORS as error:
            raise ValueError(f"{path} lacks something, or can't be used ({error}). {mend}") from error
        for name in ("sequences", "sequences_per_shard"):
            count = getattr(header, name)
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"`{name}` in {path} is {str(count)[:60]}; expected a number from 1. {mend}")
        return header

    def begin(self, folder: str | os.PathLike[str]) -> RecordHeader:
        """Write it where none is yet, whole or not at all. Of several calls that begin at once one writes its own.

        Returns:
            [`RecordHeader`]: what the folder says.

        Raises:
            ValueError: the folder holds a record that was begun with other options.
        """
        path = Path(folder) / RECORD_FILE
        if not path.is_file():
            partial = self._partial(path)
            try:
                os.link(partial, path)  # where another call has been faster, its file stays
            except FileExistsError:
                pass
            except OSError:  # a file system without links
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        found = RecordHeader.read(folder)
        self.check_same(found, folder)
        return found

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write it in the place of what is there, whole or not at all."""
        path = Path(folder) / RECORD_FILE
        os.replace(self._partial(path), path)

    def _partial(self, path: Path) -> Path:
        """It in a file that no other call writes to, on this machine or another."""
        partial = path.with_name(f"{RECORD_FILE}.{secrets.token_hex(8)}.partial")
        values = {"format": RECORD_FORMAT, **asdict(self)}
        if not self.joined_from:
            del values["joined_from"]
        values[FIELDS_FINGERPRINT] = fields_fingerprint(values)
        text = json.dumps(values, indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
        return partial

    def differences(self, other: RecordHeader) -> dict[str, tuple[Any, Any]]:
        """What two calls have to agree on, and don't.

        Args:
            other ([`RecordHeader`]): the other call's.

        Returns:
            `dict`: name to the value here and the value there.
        """
        return _differences(_flat(self), _flat(other))

    def check_same(self, recorded: RecordHeader, folder: str | os.PathLike[str]) -> None:
        """Refuse to go on with a record that was begun with other options.

        Args:
            recorded ([`RecordHeader`]): what the folder says.

        Raises:
            ValueError: they differ; every option is named with both values.
        """
        _refuse(self.differences(recorded), folder)

    @property
    def shards(self) -> int:
        """How many shards it is to have."""
        return -(-self.sequences // self.sequences_per_shard)

    @property
    def identity(self) -> str:
        """A short number that each shard repeats, so that one of another record is noticed."""
        values = {name: value for name, value in asdict(self).items() if name not in (*_NOT_COMPARED, "tokenizer_hash")}
        text = json.dumps({**values, "data": None}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def known_head_map(self) -> HeadMap | None:
        """What the Pilot's family does after its head.

        Returns:
            [`HeadMap`], or `None` where logits were kept.
        """
        return None if self.head_map is None else HeadMap(**self.head_map)


def check_begun(folder: str | os.PathLike[str], known: Mapping[str, Any]) -> None:
    """Refuse to go on with a record that was begun with other options, by what is known without the Pilot.

    Args:
        folder (`str` or `Path`): the record's; one that holds none yet is taken.
        known (mapping): some of a [`RecordHeader`]'s fields.

    Raises:
        ValueError: they differ; every option is named with both values.
    """
    if (Path(folder) / RECORD_FILE).is_file():
        _refuse(_differences(known, _flat(RecordHeader.read(folder))), folder)


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = {}
    for name, value in ours.items():
        other = theirs.get(name)
        unknown = name in _MAY_BE_UNKNOWN and (value is None or other is None)
        if not unknown and value != other:
            found[name] = (value, other)
    return found


def _refuse(differences: Mapping[str, tuple[Any, Any]], folder: str | os.PathLike[str]) -> None:
    if differences:
        named = "; ".join(f"{name} is {now!r} and was {before!r}" for name, (now, before) in differences.items())
        raise ValueError(
            f"{folder} holds a record that was begun otherwise: {named}. Give the same options to go on with it, give "
            "another folder, or delete this one."
        )


def _flat(header: RecordHeader) -> dict[str, Any]:
    """What two calls have to agree on, by name."""
    values = {name: value for name, value in asdict(header).items() if name not in _NOT_COMPARED}
    return {**values, **values.pop("pilot")}


__all__ = ["RECORD_FILE", "RECORD_FORMAT", "RecordHeader", "check_begun"]
