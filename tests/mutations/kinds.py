"""Each kind of thing that the package saves or reads, tiny, and what is to be the same when it is read again."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from benchmarks.experiments.spec import read_experiment
from tests.conftest import TINY, build_pair, build_pilot, make_tokenizer, some_ids
from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import collate, make_pair, make_trainer, reversal_rows
from transformers_copilot import (
    CopilotTrainingArguments,
    MistakeLog,
    PilotCopilotForCausalLM,
    join_records,
    record_mistakes,
)
from transformers_copilot.commands.arguments import make_parser, parse
from transformers_copilot.commands.train_options import DataArguments, PairArguments, TrainArguments
from transformers_copilot.data.training_data import load_training_data
from transformers_copilot.mistake_log.export import row_streams, row_tables
from transformers_copilot.mistake_log.table import FEATURES

from .mutating import Mutation
from .trying import Kind


IDS = some_ids(2, 7)
DESCRIPTIONS = ROOT / "benchmarks" / "experiments" / "descriptions"


def digest(tensors: dict[str, Tensor]) -> str:
    """A short text for some tensors, another one where a bit is."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def logits_of(pair: Any) -> str:
    """The pair's logits at λ = 1, and the Pilot's own."""
    given: dict[str, Any] = {"input_ids": IDS}
    if pair.config.is_encoder_decoder:
        given["decoder_input_ids"] = IDS
    with torch.no_grad():
        outputs = pair.eval()(**given, copilot_weight=1.0)
    return digest({"logits": outputs.logits, "pilot": outputs.pilot_logits})


def pair_reader(kind: Any = PilotCopilotForCausalLM) -> Callable[[Path], str]:
    """Reads what `save_pretrained` wrote."""
    return lambda folder: logits_of(kind.from_pretrained(folder))


def in_pilots_numbers(mutation: Mutation) -> bool:
    """A byte of the Pilot's weights: they are as good as the file system and the Hub keep them."""
    return " in pilot." in mutation.what


def any_change(mutation: Mutation) -> bool:
    """A file that users write: what it says after a change is what they mean, if it says something that can be used."""
    return True


def make_kinds(root: Path) -> list[Kind]:
    """All kinds, saved under a folder.

    Args:
        root: The folder.
    """
    return [*_pairs(root), *_copilots_alone(root), *_logs(root), *_of_users(root)]


def _pairs(root: Path) -> list[Kind]:
    pilot, t5 = build_pilot(*TINY["llama"]), build_pilot(*TINY["t5"])
    made: dict[str, Any] = {
        "linear": build_pair(pilot, copilot={"form": "linear"}),
        "decoder": build_pair(pilot, copilot={"num_hidden_layers": 2}),
        "branch": build_pair(pilot, copilot={"form": "branch", "num_hidden_layers": 1}),
        "seq2seq": build_pair(t5, copilot={"num_hidden_layers": 2}),
        "shards": build_pair(pilot, copilot={"form": "linear"}),
        "adapters": _with_adapters(build_pair(pilot, copilot={"form": "linear"})),
    }
    kinds = []
    for name, pair in made.items():
        pair.save_pretrained(root / name, **({"max_shard_size": "16KB"} if name == "shards" else {}))
        reader = pair_reader(type(pair))
        kinds.append(Kind(f"a pair, {name}", root / name, reader, in_pilots_numbers))
    kinds.append(Kind("generation_config.json", root / "linear", _writes, any_change, "generation_config.json"))
    plain = root / "no fingerprint"
    shutil.copytree(root / "decoder", plain)
    values = json.loads((plain / "config.json").read_text())
    kept = {name: value for name, value in values.items() if name not in ("fingerprint", "checksums")}
    (plain / "config.json").write_text(json.dumps(kept))
    kinds.append(Kind("a configuration without fingerprint", plain, pair_reader(), any_change, "config.json", False))
    return kinds


def _with_adapters(pair: Any) -> Any:
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    pair.add_adapters(pilot=lora, copilot=LoraConfig(r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in pair.named_parameters():
            if ".lora_" in name:
                weight.normal_()
    return pair.eval()


def _writes(folder: Path) -> list[int]:
    """Some tokens by the pair's own generation configuration, two at most."""
    pair = PilotCopilotForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(0)
    return pair.generate(IDS[:1], max_new_tokens=2, max_length=None, min_length=None).tolist()


def _copilots_alone(root: Path) -> list[Kind]:
    pilot = build_pilot(*TINY["llama"])
    alone, adapted = root / "copilot alone", root / "copilot and adapters"
    build_pair(pilot, copilot={"num_hidden_layers": 2}).save_copilot(alone)
    _with_adapters(build_pair(pilot, copilot={"form": "linear"})).save_adapters(adapted)

    def read(folder: Path) -> str:
        return logits_of(PilotCopilotForCausalLM.from_pilot(copy.deepcopy(pilot), copilot=str(folder)))

    return [Kind("a Copilot alone", alone, read), Kind("a Copilot with adapters", adapted, read)]


def _logs(root: Path) -> list[Kind]:
    run, record = root / "run", root / "record"
    trainer = make_trainer(run, make_pair(), max_steps=6, mistake_log_export_rows=1_000)
    trainer.train()
    log = root / "log"
    trainer.mistake_log.save(log / "mistake_log.safetensors")
    rows = root / "rows"
    shutil.copytree(run / "mistake_rows", rows / "mistake_rows")
    pair = make_pair(copilot={"form": "decoder", "num_hidden_layers": 2}).eval()
    sizes = {"data_collator": collate, "progress": False, "sequences_per_shard": 4}
    record_mistakes(pair, reversal_rows(12), record, **sizes)
    folders = [root / "folders" / name for name in ("first", "second")]
    for number, folder in enumerate(folders):
        record_mistakes(pair, reversal_rows(12), folder, shard=(number, 2), **sizes)
    join_records(folders, root / "folders" / "joined", progress=False)

    def read_log(folder: Path) -> Any:
        read = MistakeLog.load(folder / "mistake_log.safetensors")
        states = [digest(one.tensors()) for one in read]
        return states, read.round_numbers, read.total_rounds, read.skipped_rounds, read.fingerprint

    def read_record(folder: Path) -> Any:
        read = MistakeLog.open(folder)
        header = replace(read.header, transformers_copilot_version="")
        return [digest(one.tensors()) for one in read], header, [digest(r.tensors()) for _, r in read.rounds()]

    def read_rows(folder: Path) -> Any:
        columns = list(FEATURES)
        return [[table.to_pydict() for table in row_tables(one, columns, 64)] for one in row_streams(folder)]

    return [
        Kind("a Mistake Log", log, read_log),
        Kind("a record", record, read_record, _leaves_a_shard_out),
        Kind("a joined record", root / "folders", lambda folder: read_record(folder / "joined"), _leaves_a_shard_out),
        Kind("exported rows", rows, read_rows),
    ]


def _leaves_a_shard_out(mutation: Mutation) -> bool:
    """A shard that isn't there: the others are read, with a warning, as a recording may be under way."""
    return mutation.what in ("removed", "a folder")


def _of_users(root: Path) -> list[Kind]:
    tokenizer = make_tokenizer()
    rows = root / "rows of a user"
    rows.mkdir()
    chat = [{"role": "user", "content": "w3 w4"}, {"role": "assistant", "content": "w5"}]
    lines = [{"prompt": f"w{number} w4", "completion": "w5 w6", "id": number} for number in range(4, 9)]
    (rows / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    chats = root / "chats of a user"
    chats.mkdir()
    (chats / "train.jsonl").write_text("".join(json.dumps({"messages": chat, "id": k}) + "\n" for k in range(4)))
    options, experiment = root / "options", root / "experiment"
    options.mkdir(), experiment.mkdir()
    (options / "options.yaml").write_text(_OPTIONS)
    source = DESCRIPTIONS / "finish_mawps.yaml"
    shutil.copyfile(source, experiment / source.name)

    def read_data(folder: Path) -> Any:
        tokenizer.chat_template = None
        return list(load_training_data(str(folder / "train.jsonl"), tokenizer))

    def read_chats(folder: Path) -> Any:
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
        return list(load_training_data(str(folder / "train.jsonl"), tokenizer))

    def read_options(folder: Path) -> str:
        said = io.StringIO()
        kinds = (PairArguments, TrainArguments, DataArguments, CopilotTrainingArguments)
        parser = make_parser("train", kinds, "")
        try:
            with redirect_stderr(said):
                return str(parse(parser, ["--config", str(folder / "options.yaml"), "--output_dir", "run"]))
        except SystemExit as error:
            raise ValueError(said.getvalue()) from error

    def read_description(folder: Path) -> str:
        return str(read_experiment(folder / source.name))

    return [
        Kind("JSON lines", rows, read_data, any_change),
        Kind("JSON lines of chats", chats, read_chats, any_change),
        Kind("a command's options", options, read_options, any_change),
        Kind("an experiment", experiment, read_description, any_change),
    ]


_OPTIONS = """\
pilot: some/pilot
task: mawps
learning_rate: 1.0e-4
copilot_learning_rate: 5.0e-4
num_train_epochs: 2
per_device_train_batch_size: 8
lr_scheduler_type: cosine
error_feedback: observed
copilot_weight: 1.5
bf16: false
logging_steps: 10
lr_scheduler_kwargs: {}
label_names: [labels]
"""


__all__ = ["make_kinds"]
