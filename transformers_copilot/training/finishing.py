"""Finish, then record: fine-tune the Pilot, stop, read it once more, and teach the Copilot what it then gets wrong.

A Pilot that still learns makes mistakes that it soon no longer makes. One that is finished makes those that it will
make in use: on text that is new to it, and, where it has read its texts once or twice, on those as well.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import IterableDataset, Subset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.utils import logging

from ..mistake_log.export import ROWS_FOLDER, MistakeRowsWriter, set_rows_aside
from ..mistake_log.log import MistakeLog
from ..mistake_log.record_processes import processes
from ..mistake_log.recorded_mistakes import RecordedMistakes
from ..mistake_log.recording import data_digest, record_mistakes
from ..mistake_log.run_lock import own_folder
from ..pair.modeling_pair_base import PilotCopilotPreTrainedModel
from ..pair.modeling_pilot_copilot import PilotCopilotForCausalLM
from ..pair.modeling_pilot_copilot_seq2seq import PilotCopilotForSeq2SeqLM
from ..pair.options import chosen
from ..pair.pilot import has_adapter
from .argument_checks import check_arguments
from .checkpoints import last_whole_checkpoint
from .copilot_weight import fit_copilot_weight
from .trainer import CopilotTrainer


logger = logging.get_logger(__name__)

# What each form learns well with from a record, where the arguments don't say; see docs/results.md.
COPILOT_RATES = {"linear": 3e-4, "branch": 2e-4, "decoder": 5e-4}
COPILOT_EPOCHS = 4.0
COPILOT_SHARE = 0.5
# Folders and the file of a run.
PILOT_FOLDER, RECORD_FOLDER, COPILOT_FOLDER = "pilot", "record", "copilot"
FINISHED_FILE = "finished.json"
RECORD_MARK = "record.txt"  # beside exported rows: the record that they are of


def finish_then_record(
    pilot: PreTrainedModel,
    args: Any,
    train_dataset: Any = None,
    *,
    copilot: Any = None,
    copilot_share: float = COPILOT_SHARE,
    copilot_dataset: Any = None,
    copilot_epochs: float = COPILOT_EPOCHS,
    eval_dataset: Any = None,
    data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
    processing_class: Any = None,
    trainer_class: type[Trainer] = Trainer,
    on_trainer: Callable[[Trainer], None] | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    **options: Any,
) -> PilotCopilotPreTrainedModel:
    """Fine-tune a Pilot on a part of the data, record its mistakes on the rest, and teach a Copilot from the record.

    Each step has a folder in `args.output_dir`: `pilot` (its checkpoints and the finished Pilot), `record`, and
    `copilot` (checkpoints of the pair). A call that was stopped, even killed, is made again to go on from there.

    Args:
        pilot (`PreTrainedModel`): the model to fine-tune; changed in place.
        args ([`CopilotTrainingArguments`]): of both trainings; the Copilot's by `copilot_learning_rate` and the like.
            `num_train_epochs` and `max_steps` are the Pilot's.
        train_dataset (map-style dataset, *optional*): as a Trainer takes it. `None`: the Pilot is finished already, and
            `copilot_dataset` is given.
        copilot: as `from_pilot` takes it: a configuration, or fields of one.
        copilot_share (`float`, *optional*, defaults to 0.5): share of `train_dataset` that the Pilot does not train on
            and the Copilot learns from, chosen by `args.seed`. Not used with `copilot_dataset`.
        copilot_dataset (map-style dataset, *optional*): what the Copilot learns from, in the place of a share: texts
            that are new to the Pilot, or `train_dataset` once more.
        copilot_epochs (`float`, *optional*, defaults to 4.0): how often the Copilot reads the record.
        eval_dataset (map-style dataset, *optional*): λ is chosen on it. Without, it stays as it is.
        data_collator (callable, *optional*): as a Trainer takes it.
        processing_class (*optional*): the Pilot's tokenizer; saved with it, and a record of another one is refused.
        trainer_class (`type`, *optional*, defaults to `Trainer`): trains the Pilot alone.
        on_trainer (callable, *optional*): is given each of the two trainers before it trains, to add callbacks, for
            one.
        progress (`bool` or callable, *optional*): how recording and the choice of λ show how far they are, as of
            [`record_mistakes`]; a bar by default, unless `args.disable_tqdm` is set.
        **options: the pair's, as `from_pilot` takes them.

    Returns:
        The pair, its Pilot frozen.

    Raises:
        TypeError: `args` lack the Copilot's.
        ValueError: there is nothing for one of the two to learn from, an argument can't be honoured, or the folder
            holds a run of other data.
        RuntimeError: another run owns the folder.
    """
    check_arguments(args)
    _check(args, pilot, train_dataset, copilot_share, copilot_dataset)
    folder = Path(args.output_dir)
    prepare = on_trainer or (lambda trainer: None)
    shown = not args.disable_tqdm if progress is None else progress
    with own_folder(folder, processes().is_main_process):
        common = {"data_collator": data_collator, "processing_class": processing_class}
        if train_dataset is not None:
            if copilot_dataset is None:
                train_dataset, copilot_dataset = split(train_dataset, copilot_share, args.seed)
            own = _arguments(args, folder / PILOT_FOLDER)
            _finish(pilot, own, train_dataset, eval_dataset, trainer_class, common, prepare)
        kind: Any = PilotCopilotForSeq2SeqLM if pilot.config.is_encoder_decoder else PilotCopilotForCausalLM
        pair = kind.from_pilot(pilot, copilot, **options)
        pair.freeze_pilot()
        record_mistakes(
            pair,
            copilot_dataset,
            folder / RECORD_FOLDER,
            data_collator=data_collator,
            batch_size=args.per_device_eval_batch_size,
            tokenizer=processing_class if isinstance(processing_class, PreTrainedTokenizerBase) else None,
            progress=shown,
        )
        _teach(pair, args, folder, copilot_epochs, eval_dataset, common, prepare)
        if eval_dataset is not None:
            sizes = {"batch_size": args.per_device_eval_batch_size, "progress": shown is True}
            fit_copilot_weight(pair, eval_dataset, data_collator=data_collator, **sizes)
        return pair


def split(dataset: Any, share: float, seed: int) -> tuple[Any, Any]:
    """A data set in two, by chance.

    Args:
        dataset (map-style dataset): what is split; a `datasets.Dataset` and a list stay what they are.
        share (`float`): of the second part, above 0 and below 1.
        seed (`int`): the same seed gives the same parts.

    Returns:
        Two data sets, at least one example in each, in the whole's order.
    """
    count = min(max(1, round(share * len(dataset))), len(dataset) - 1)
    generator = torch.Generator().manual_seed((seed * 1_000_003 + 29) % 2**63)
    order = torch.randperm(len(dataset), generator=generator)
    first, second = order[count:].sort().values.tolist(), order[:count].sort().values.tolist()
    return _select(dataset, first), _select(dataset, second)


def _select(dataset: Any, rows: list[int]) -> Any:
    if isinstance(dataset, datasets.Dataset):
        return dataset.select(rows)
    return [dataset[row] for row in rows] if isinstance(dataset, list) else Subset(dataset, rows)


def _check(args: Any, pilot: Any, train_dataset: Any, share: float, copilot_dataset: Any) -> None:
    if has_adapter(pilot):
        raise ValueError(
            "the Pilot has an adapter: train it as you are used to, merge the adapter (`merge_and_unload`), and give "
            "the merged Pilot with `copilot_dataset` and without `train_dataset`."
        )
    if train_dataset is None and copilot_dataset is None:
        raise ValueError(
            "there is no data: give `train_dataset`, or `copilot_dataset` beside a Pilot that is finished."
        )
    given = [one for one in (train_dataset, copilot_dataset) if one is not None]
    if any(isinstance(one, (datasets.IterableDataset, IterableDataset)) for one in given):
        raise ValueError("the data is streamed, but it is split and recorded by number: load it without streaming.")
    if copilot_dataset is None and not 0.0 < share < 1.0:
        raise ValueError(
            f"`copilot_share` is {share}; it is the share of the data that the Copilot learns from, above 0 and below "
            "1."
        )
    if copilot_dataset is None and len(train_dataset) < 2:
        raise ValueError(f"`train_dataset` has {len(train_dataset)} examples, and each part needs one at least.")
    senseless = {
        **{"held_out_mistakes": 0.0, "copilot_steps_per_round": 1, "freeze_pilot": False},
        **{"mistake_log_draw": "newest", "mistake_log_layers": 0, "mistake_picture_steps": 0},
    }
    wrong = [name for name, value in senseless.items() if getattr(args, name) != value]
    if wrong:
        raise ValueError(
            f"{', '.join(f'`{name}={getattr(args, name)!r}`' for name in wrong)}: this is about a Copilot that learns "
            "beside its Pilot. Here the Copilot learns after it; leave it out, or use `CopilotTrainer`."
        )


def _arguments(args: Any, folder: Path, **changes: Any) -> Any:
    """The same arguments for one of the steps, whose files are in a folder of their own."""
    own = copy.deepcopy(args)
    for name, value in {"output_dir": str(folder), **changes}.items():
        setattr(own, name, value)
    return own


def _finish(
    pilot: PreTrainedModel,
    args: Any,
    rows: Any,
    eval_rows: Any,
    trainer_class: type[Trainer],
    common: dict[str, Any],
    prepare: Callable[[Trainer], None],
) -> None:
    """Train the Pilot alone, or take up the one that was finished before."""
    folder = Path(args.output_dir)
    mark, about = folder / FINISHED_FILE, {"examples": len(rows), "seed": args.seed, "data": data_digest(rows)}
    if mark.is_file():
        found = json.loads(mark.read_text(encoding="utf-8"))
        if found != about:
            raise ValueError(
                f"{folder} holds a Pilot that was finished on {found}, and this run's data is {about}. Give another "
                "`output_dir`, or delete that folder."
            )
        logger.warning(f"The Pilot in {folder} is finished; it is taken as it is.")
        loaded = type(pilot).from_pretrained(folder, dtype=pilot.dtype)
        pilot.load_state_dict(loaded.state_dict())
        return
    trainer = trainer_class(model=pilot, args=args, train_dataset=rows, eval_dataset=eval_rows, **common)
    prepare(trainer)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(str(folder)))
    trainer.save_model()
    if trainer.is_world_process_zero():
        partial = mark.with_suffix(".partial")
        partial.write_text(json.dumps(about), encoding="utf-8")
        os.replace(partial, mark)
    trainer.accelerator.wait_for_everyone()


def _teach(
    pair: Any,
    args: Any,
    folder: Path,
    epochs: float,
    eval_rows: Any,
    common: dict[str, Any],
    prepare: Callable[[Trainer], None],
) -> None:
    """Teach the Copilot from the record."""
    rate = args.copilot_learning_rate
    own = _arguments(
        args,
        folder / COPILOT_FOLDER,
        freeze_pilot=True,
        num_train_epochs=epochs,
        max_steps=-1,
        copilot_learning_rate=COPILOT_RATES[chosen("form", pair.copilot.config.form)] if rate is None else rate,
        mistake_log_export_rows=0,
    )
    record = MistakeLog.open(folder / RECORD_FOLDER)
    if args.mistake_log_export_rows and args.process_index == 0:
        _export(record, folder, args.mistake_log_export_rows)
    trainer = CopilotTrainer(model=pair, args=own, train_dataset=record, eval_dataset=eval_rows, **common)
    prepare(trainer)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(own.output_dir))


def _export(record: RecordedMistakes, folder: Path, max_rows: int) -> None:
    """Write a record as the rows that reports read. A call that was stopped begins with them anew; those of another run
    are put aside."""
    mark = folder / ROWS_FOLDER / RECORD_MARK
    identity = str(record.header.identity)
    if not mark.is_file() or mark.read_text(encoding="utf-8") != identity:
        if (aside := set_rows_aside(folder)) is not None:
            logger.warning(f"{folder} holds exported rows that are not of this record; they are now in {aside}.")
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(identity, encoding="utf-8")
    writer = MistakeRowsWriter(folder, max_rows)
    writer.start(0)
    for number, shard in record.rounds():
        writer.add(number, shard)
    writer.flush()


__all__ = [
    "COPILOT_EPOCHS",
    "COPILOT_RATES",
    "COPILOT_FOLDER",
    "PILOT_FOLDER",
    "RECORD_FOLDER",
    "finish_then_record",
    "split",
]
