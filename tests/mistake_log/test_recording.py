"""Record once, teach often: what is written, what a Copilot learns from it, and what is refused."""

import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import transformers_copilot.mistake_log.record_header as record_header
import transformers_copilot.mistake_log.record_shards as record_shards
import transformers_copilot.mistake_log.recorded_mistakes as recorded_mistakes
import transformers_copilot.pair.saved_files as saved_files
from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.paths import ROOT
from tests.helpers.recordings import ROWS, command, contents, equal, record
from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    logged,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
)
from tests.helpers.training_helpers import state as weights
from transformers_copilot import MistakeLog, MistakeRecord, PilotCopilotForCausalLM, RecordedMistakes, record_mistakes


FORMS = {
    "decoder": {},
    "token": {"error_feedback": "token"},
    "depths": {"copilot": {"num_hidden_layers": 2, "rationale": "depths"}},
    "pilot-head": {"head": "pilot", "copilot": {"num_hidden_layers": 2, "rationale": "last"}},
    "branch": {"copilot": {"form": "branch", "num_hidden_layers": 1}},
    "linear": {"copilot": {"form": "linear"}},
}


def teacher(folder, recorded, pair=None, **arguments):
    given = {"freeze_pilot": True, "mistake_log_draw": "newest", "max_steps": 6, **arguments}
    return make_trainer(folder, make_pair() if pair is None else pair, rows=recorded, **given)


def taught(folder, recorded, pair=None, resume=None, **arguments):
    trainer = teacher(folder, recorded, pair, **arguments)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def joint_round(pair, rows):
    """What a joint training would log of these rows."""
    mistakes = pair.train()(**collate(rows), return_mistakes=True).mistakes
    made = MistakeRecord.from_batch(mistakes, torch.float32, keep_question=False)
    for sequence in made.sequences():
        if sequence.next_probabilities is not None:
            sequence.next_probabilities[-1] = 0.0  # of what follows the last token, which nothing reads
    return made


# ---- what is written ----


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_what_is_stored_is_a_joint_rounds_record(tmp_path, family, form):
    pair = make_pair(family, **FORMS[form])
    rows = reversal_rows(ROWS, seq2seq=family == "t5")
    found = MistakeRecord.join(list(record(tmp_path, pair, rows)))
    expected = joint_round(pair, rows)
    if form == "linear":  # an encoder's output is of no use to it
        expected.question = expected.question_lengths = None
    equal(found, expected, 2e-6)
    assert (found.rationale is None) == (form == "linear")
    assert (found.belief_ids is None) == (form in ("token", "branch", "linear"))


def test_the_order_is_the_data_sets_and_the_batch_size_is_none_of_its_business(tmp_path):
    rows = reversal_rows(ROWS)
    one, many = (record(tmp_path / str(size), rows=rows, batch_size=size) for size in (1, 7))
    assert len(one) == len(many) == ROWS
    for index, (left, right) in enumerate(zip(one, many, strict=True)):
        equal(left, right, 2e-6)
        assert left.token_ids.tolist() == rows[index]["input_ids"]
    assert one[-1].token_ids.tolist() == rows[-1]["input_ids"]
    with pytest.raises(IndexError):
        one[ROWS]


def test_the_header_says_what_it_is(tmp_path):
    pair, tokenizer = make_pair(), byte_tokenizer()
    record(tmp_path, pair, tokenizer=tokenizer, data_collator=collate)
    header = json.loads((tmp_path / "record.json").read_text())
    assert header["format"] == "transformers_copilot.record.v1" and header["rationale"] == ["mean"]
    assert header["pilot"]["architecture"] == "LlamaForCausalLM" and len(header["pilot"]["head"]) == 16
    assert (header["sequences"], header["sequences_per_shard"], header["dtype"]) == (ROWS, 8, "float32")
    names = [f"record-0000{number}-of-00003.safetensors" for number in range(3)]
    assert sorted(contents(tmp_path)) == ["record.json", *names][1:] + ["record.json"]


def test_the_pair_is_put_back(tmp_path):
    pair = make_pair().train()
    pair.copilot.eval()
    before = weights(pair)
    record(tmp_path, pair)
    assert pair.training and pair.pilot.training and not pair.copilot.training and torch.is_grad_enabled()
    assert largest_difference(before, weights(pair)) == 0.0
    assert all(parameter.grad is None for parameter in pair.parameters())


def test_the_copilot_does_not_run_while_recording(tmp_path):
    pair, calls = make_pair(), []
    pair.copilot.register_forward_hook(lambda *_: calls.append(1))
    record(tmp_path, pair)
    assert not calls


def test_a_family_whose_head_is_not_understood_keeps_logits(tmp_path):
    pair, other = make_pair(), make_pair()
    pair._head_map = None
    opened = record(tmp_path / "record", pair)
    assert opened[0].head_states is None and opened[0].lesson_logits.shape[1] == pair.config.vocab_size
    taught(tmp_path / "logits", opened, other, max_steps=3)
    third = make_pair()
    taught(tmp_path / "states", record(tmp_path / "other"), third, max_steps=3)
    assert largest_difference(weights(other), weights(third)) < 1e-5


def test_sixteen_bits_are_the_default(tmp_path):
    record_mistakes(make_pair(), reversal_rows(4), tmp_path, progress=False)
    opened = MistakeLog.open(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # others may read shards as the header
    assert opened.header.dtype == "bfloat16"  # of which states within its range are kept in the finer float16
    assert opened[0].rationale.dtype == opened[0].head_states.dtype == torch.float16


def test_documents_of_a_batch_without_padding_come_apart(tmp_path):
    def joined(rows):
        positions = torch.cat([torch.arange(len(row["input_ids"])) for row in rows])
        batch = {name: torch.tensor([sum((row[name] for row in rows), [])]) for name in ("input_ids", "labels")}
        return {**batch, "position_ids": positions.unsqueeze(0)}

    rows = reversal_rows(6)
    free, padded = record(tmp_path / "free", rows=rows, data_collator=joined), record(tmp_path / "padded", rows=rows)
    for left, right in zip(free, padded, strict=True):
        equal(left, right, 2e-6)
    packed = [{"input_ids": [3, 4, 5, 6], "labels": [-100, 4, -100, 6], "position_ids": [0, 1, 0, 1]}]
    with pytest.raises(ValueError, match="packed rows can't be recorded"):
        record(
            tmp_path / "packed",
            rows=packed,
            data_collator=lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0]},
        )


def test_rows_are_told_from_columns_that_a_trainer_leaves_out(tmp_path):
    from datasets import Dataset

    rows = [{**row, "text": "unused", "number": 3} for row in reversal_rows(ROWS)]
    plain, columns = record(tmp_path / "a"), record(tmp_path / "b", rows=Dataset.from_list(rows))
    equal(MistakeRecord.join(list(plain)), MistakeRecord.join(list(columns)))
    assert json.loads((tmp_path / "a" / "record.json").read_text()) == json.loads(
        (tmp_path / "b" / "record.json").read_text()
    )


def test_data_that_cannot_be_recorded(tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(reversal_rows(3))

    with pytest.raises(ValueError, match=r"`dataset` is a Endless.* `list\(dataset\)`"):
        record(tmp_path, rows=Endless())
    with pytest.raises(ValueError, match="no example"):
        record(tmp_path, rows=[])
    with pytest.raises(ValueError, match="a batch has no `labels`, only"):
        record(tmp_path, rows=[{"input_ids": [3, 4]}])
    broken = make_pair()
    with torch.no_grad():
        broken.pilot.lm_head.weight[3] = torch.nan
    with pytest.raises(ValueError, match=r"sequences \d+.* of the data set, in this order: .*NaN or inf in rows"):
        record(tmp_path, broken)
    with pytest.raises(ValueError, match=r"`dtype` is 'float8'"):
        record(tmp_path, dtype="float8")
    with pytest.raises(ValueError, match=r"`layers` has 2; give numbers .* 0 to 1"):
        record(tmp_path, layers=(2,))
    with pytest.raises(ValueError, match=r"`shard` is \(2, 2\)"):
        record(tmp_path, shard=(2, 2))


# ---- stopped and gone on with ----


class Killed(BaseException):
    pass


def types_of(recorded):
    joined = MistakeRecord.join([recorded[index] for index in range(ROWS)])
    return {name: tensor.dtype for name, tensor in joined.tensors().items()}


@pytest.mark.parametrize("kept", ["bfloat16", "float32"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_under_autocast_what_is_kept_keeps_its_type(tmp_path, family, form, kept):
    rows, pairs = reversal_rows(ROWS, seq2seq=family == "t5"), [make_pair(family, **FORMS[form]) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        recorded = record(tmp_path / "record", pairs[0], rows, dtype=kept)
    plain = record(tmp_path / "plain", pairs[1], rows, dtype=kept)
    assert types_of(recorded) == types_of(plain)
    trainer = teacher(tmp_path / "alone", recorded, pairs[2], bf16=True, gradient_accumulation_steps=2)
    before = weights(trainer.model.copilot)
    assert trainer.train().training_loss < float("inf")
    assert largest_difference(before, weights(trainer.model.copilot)) > 0.0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_rounds_under_autocast_are_joined_as_they_were_kept(tmp_path, family, form):
    pair = make_pair(family, **FORMS[form])
    trainer = make_trainer(
        tmp_path, pair, rows=reversal_rows(ROWS), bf16=True, gradient_accumulation_steps=2, max_steps=4
    )
    trainer.train()
    assert len(logged(trainer, "copilot_loss")) > 0


@pytest.mark.parametrize("point", ["before the header", "after the header", "mid-shard", "before a rename"])
@pytest.mark.parametrize("times", [1, 2])
def test_killed_and_gone_on_with_is_unbroken(tmp_path, monkeypatch, point, times):
    record(tmp_path / "whole")
    calls = []

    def killing(function):
        def called(*args, **kwargs):
            calls.append(1)
            if len(calls) > times:
                raise Killed
            return function(*args, **kwargs)

        return called

    pair = make_pair()
    with monkeypatch.context() as patch:
        if point == "mid-shard":

            def torn(tensors, path, *args, **kwargs):
                record_shards_save(tensors, path, *args, **kwargs)
                content = Path(path).read_bytes()
                Path(path).write_bytes(content[: len(content) // 2])
                Path(path).with_name(".tmp").write_bytes(content)
                raise Killed

            record_shards_save = record_shards.save_file
            patch.setattr(record_shards, "save_file", torn)
        elif point == "before a rename":
            patch.setattr(record_shards.os, "replace", killing(os.replace))
        elif point == "before the header":
            times = 0
            patch.setattr(record_header.os, "link", killing(os.link))
        else:
            patch.setattr(pair, "_round_under_way", killing(pair._round_under_way))
        if point == "mid-shard":  # as SIGKILL: nothing is tidied up
            patch.setattr(record_shards.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            record(tmp_path / "broken", pair)
    record(tmp_path / "broken")
    whole, broken = contents(tmp_path / "whole"), contents(tmp_path / "broken")
    left = {name for name in broken if name.startswith("record.json.")}
    assert {name: content for name, content in broken.items() if name not in left} == whole


def test_whole_shards_are_not_read_again_and_broken_ones_are(tmp_path):
    record(tmp_path)
    before = contents(tmp_path)
    name = "record-00001-of-00003.safetensors"
    (tmp_path / name).write_bytes(before[name][:-40])
    pair, calls = make_pair(), []
    pair.pilot.register_forward_hook(lambda *_: calls.append(1))
    pair.head_map  # noqa: B018 - found out by a pass of its own
    calls.clear()
    record(tmp_path, pair)
    assert len(calls) == 2 and contents(tmp_path) == before  # eight sequences in two batches


def test_shared_out(tmp_path, caplog):
    record(tmp_path / "whole")
    part = record(tmp_path / "parts", shard=(1, 2))
    assert len(part) == 8 and "holds 1 of 3 shards" in caplog.text and "goes on with it" in caplog.text
    assert part[0].token_ids.tolist() == reversal_rows(ROWS)[8]["input_ids"]
    record(tmp_path / "parts", shard=(0, 2))
    assert contents(tmp_path / "whole") == contents(tmp_path / "parts")


def test_other_options_are_refused(tmp_path):
    record(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(
        ValueError, match=r"dtype is 'bfloat16' and was 'float32'\. .*another folder, or delete this one"
    ):
        record(tmp_path, dtype="bfloat16")
    with pytest.raises(ValueError, match=r"sequences_per_shard is 4 and was 8"):
        record(tmp_path, sequences_per_shard=4)
    with pytest.raises(ValueError, match=r"sequences is 12 and was 20"):
        record(tmp_path, rows=reversal_rows(12))
    with pytest.raises(ValueError, match=r"data is '\w+' and was '\w+'"):
        record(tmp_path, rows=reversal_rows(ROWS, seed=3))
    with pytest.raises(ValueError, match=r"weights is '\w+' and was '\w+'; head is"):
        record(tmp_path, make_pair(pilot=make_pilot(seed=5)))
    with pytest.raises(ValueError, match=r"rationale is \('mean', 1\) and was \('mean',\)"):
        record(tmp_path, layers=(1,))
    assert contents(tmp_path) == before


def test_a_full_disk(tmp_path):
    """A bound on the size of files stands for the end of the disk."""
    record(tmp_path / "whole")
    size = max(len(content) for name, content in contents(tmp_path / "whole").items() if "record-" in name)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = reversal_rows(ROWS)
    longer = [*rows[:8], *[{name: row[name] * 4 for name in row} for row in rows[8:16]], *rows[16:]]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, before[1]))
        with pytest.raises(OSError, match=r"1 of 3 shards in .* are whole and stay usable: .*MistakeLog.open.*again"):
            record(tmp_path / "full", rows=longer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(contents(tmp_path / "full")) == ["record-00000-of-00003.safetensors", "record.json"]
    assert len(MistakeLog.open(tmp_path / "full")) == 8
    assert len(record(tmp_path / "full", rows=longer)) == ROWS


def test_what_does_not_fit_is_refused_before_work(tmp_path, monkeypatch):
    import transformers_copilot.mistake_log.record_size as record_size

    monkeypatch.setattr(record_size.shutil, "disk_usage", lambda _: os.terminal_size((0, 0)) and _Usage())
    with pytest.raises(OSError, match=r"takes about 175 tokens, 64 of them lessons: .* a token, .* 0.0 MB are free"):
        record(tmp_path / "new")
    assert not (tmp_path / "new").exists()


class _Usage:
    free = 1000


def test_what_it_takes_is_told(tmp_path, capsys):
    pair = make_pair(copilot={"num_hidden_layers": 2, "rationale": "depths"})
    record(tmp_path, pair, progress=True)
    told = capsys.readouterr().err
    estimated = int(told.split("lessons: ")[1].split(" bytes")[0].replace(",", ""))
    opened = MistakeLog.open(tmp_path)
    taken = sum(one.nbytes for one in opened) / sum(len(one.token_ids) for one in opened)
    assert estimated == pytest.approx(taken, rel=0.05) and "free" in told


# ---- reading it ----


def test_opening_reads_no_states(tmp_path, monkeypatch):
    record(tmp_path)
    read = []
    real = recorded_mistakes.safe_open

    class Watched:
        def __init__(self, *args, **kwargs):
            self.file = real(*args, **kwargs)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *args):
            return self.file.__exit__(*args)

        def __getattr__(self, name):
            if name == "get_tensor":
                return lambda key: read.append(key) or self.file.get_tensor(key)
            if name == "get_slice":
                return lambda key: WatchedSlice(key, self.file.get_slice(key))
            return getattr(self.file, name)

    class WatchedSlice:
        def __init__(self, key, part):
            self.key, self.part = key, part

        def __getitem__(self, place):
            read.append(self.key)
            return self.part[place]

    for module in (saved_files, recorded_mistakes):
        monkeypatch.setattr(module, "safe_open", Watched)
    opened = MistakeLog.open(tmp_path)
    assert {name for name in read if not name.startswith("sum.")} == {"lengths", "lesson_counts"}
    read.clear()
    opened.to_dataset()
    assert not {"head_states", "rationale.mean"}.intersection(read)
    read.clear()
    assert opened.reading(())[3].rationale is None and "rationale.mean" not in read


def test_it_travels_to_workers(tmp_path):
    opened = record(tmp_path)
    opened[0]
    copied = pickle.loads(pickle.dumps(opened))
    equal(opened[5], copied[5])
    loader = DataLoader(opened, batch_size=4, num_workers=2, collate_fn=MistakeRecord.join)
    equal(MistakeRecord.join(list(loader)), MistakeRecord.join(list(opened)))


def test_rows_of_a_record_are_those_of_a_log(tmp_path):
    pair, rows = make_pair(), reversal_rows(8)
    opened, log = record(tmp_path, pair, rows), MistakeLog()
    log.append(joint_round(pair, rows))
    ours, theirs = opened.to_dataset(), log.to_dataset()
    assert len(ours) == len(theirs) == sum(len(row["input_ids"]) - 1 for row in rows)
    for name in ("token_id", "true_token_id", "position", "sequence", "supervised"):
        assert ours[name][:] == theirs[name][:]
    assert ours["true_probability"][:] == pytest.approx(theirs["true_probability"][:], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("record.json", None, r"holds no record.json.*record_mistakes\(pair, dataset, folder\)"),
        ("record.json", b"{", "record.json is no whole JSON file"),
        ("record.json", b'{"format": "other"}', "has the format 'other', not"),
        ("record.json", b'{"format": "transformers_copilot.record.v1"}', "record.json lacks something"),
        ("record-00001-of-00003.safetensors", b"", r"record-00001-of-00003.safetensors cannot be used .*again"),
        ("record-00001-of-00003.safetensors", b"cut", r"cut off or broken.*transformers-copilot record"),
    ],
)
def test_broken_folders_are_named(tmp_path, name, content, message):
    record(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-10] if content == b"cut" else content)
    with pytest.raises(ValueError, match=message):
        MistakeLog.open(tmp_path)


def test_a_shard_of_another_record_is_noticed(tmp_path):
    record(tmp_path / "one"), record(tmp_path / "two", make_pair(pilot=make_pilot(seed=5)))
    name = "record-00001-of-00003.safetensors"
    (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
    with pytest.raises(ValueError, match=f"{name} cannot be used .it belongs to another record"):
        MistakeLog.open(tmp_path / "one")


def test_a_folder_without_shards(tmp_path):
    record(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match="holds none of its 3 shards yet"):
        MistakeLog.open(tmp_path)


# ---- teaching from it ----


def by_hand(pair, recorded, order, size, rate):
    """Teach from rounds without a Trainer: plain gradient steps on `copilot_loss` over the same sequences."""
    pair.freeze_pilot()
    optimizer = torch.optim.SGD(pair.copilot.parameters(), lr=rate)
    for start in range(0, len(order), size):
        batch = MistakeRecord.join([recorded[place] for place in order[start : start + size]]).to_batch()
        pair.train()
        optimizer.zero_grad()
        pair.copilot_loss(batch).backward()
        optimizer.step()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_teaching_from_it_is_teaching_by_hand(tmp_path, family, form):
    pair, other = make_pair(family, **FORMS[form]), make_pair(family, **FORMS[form])
    opened = record(tmp_path / "record", pair)
    given = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.1, "max_grad_norm": 0.0}
    trainer = taught(tmp_path / "run", opened, pair, train_sampling_strategy="sequential", max_steps=5, **given)
    by_hand(other, opened, range(ROWS), 4, 0.1)
    assert largest_difference(weights(pair), weights(other)) < 1e-6
    assert largest_difference(weights(pair.copilot), weights(make_pair(family, **FORMS[form]).copilot)) > 1e-4
    assert len(logged(trainer, "copilot_loss")) == 5 and not logged(trainer, "pilot_loss")
    assert not logged(trainer, "mistake_log_rounds")
    assert trainer.evaluate()["eval_pilot_loss"] > 0  # on text, as ever


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_pilots_layers_do_not_run(tmp_path, family):
    opened = record(tmp_path / "record", make_pair(family))
    pair, calls = make_pair(family), []
    for module in pair.pilot.modules():
        if "Attention" in type(module).__name__:
            module.register_forward_hook(lambda *_: calls.append(1))
    trainer = teacher(tmp_path / "run", opened, pair)
    before = weights(pair.pilot)
    calls.clear()
    trainer.train()
    assert not calls
    assert largest_difference(before, weights(pair.pilot)) == 0.0
    trainer.evaluate()
    assert calls


def test_other_copilots_learn_from_the_same_record(tmp_path):
    opened = record(tmp_path / "record", layers=(0, 1))  # a decoder that reads all mistakes, and the mean
    for form, options in FORMS.items():
        trainer = taught(tmp_path / form, opened, make_pair(**options), max_steps=2)
        assert len(logged(trainer, "copilot_loss")) == 2
    assert trainer.train_dataset[0].belief_ids is None and trainer.train_dataset[0].rationale is None
    branch = teacher(tmp_path / "branch", opened, make_pair(**FORMS["branch"])).train_dataset
    equal(branch[2], opened.reading((0,), ("belief_ids", "belief_probabilities", "next_probabilities"))[2])


@pytest.mark.parametrize("objective", ["cross_entropy", "mse"])
def test_accumulation_is_a_larger_batch(tmp_path, objective):
    opened = record(tmp_path / "record", make_pair(objective=objective))
    given = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1, "train_sampling_strategy": "sequential"}
    made = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        pair = make_pair(objective=objective)
        trainer = taught(
            tmp_path / str(size),
            opened,
            pair,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=-1,
            num_train_epochs=2,
            **given,
        )
        made.append((weights(pair), logged(trainer, "copilot_loss")))
    for found, losses in made[1:]:
        assert largest_difference(made[0][0], found) < 1e-6
        assert losses == pytest.approx(made[0][1], abs=2e-4)


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}])
def test_a_resumed_teaching_is_an_unbroken_one(tmp_path, arguments):
    """Stopped in the middle of the second epoch; bit by bit."""
    opened = record(tmp_path / "record")
    given = {"max_steps": -1, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 7, **arguments}
    options = {"copilot": {"num_hidden_layers": 2, "dropout": 0.1}}
    whole = taught(tmp_path / "run", opened, make_pair(**options), **given)
    assert not (tmp_path / "run" / "checkpoint-7" / "mistake_log.safetensors").exists()
    fresh = MistakeLog.open(tmp_path / "record")
    again = taught(tmp_path / "run", fresh, make_pair(**options), str(tmp_path / "run" / "checkpoint-7"), **given)
    assert again.state.global_step == whole.state.global_step == 15
    assert largest_difference(weights(whole.pair), weights(again.pair)) == 0.0
    assert logged(again, "copilot_loss") == logged(whole, "copilot_loss")


def test_sequences_without_lessons(tmp_path):
    for family in ("llama", "t5"):
        rows = reversal_rows(8, seq2seq=family == "t5")
        for row in rows[:6]:
            row["labels"] = [-100] * len(row["labels"])
        for form, options in FORMS.items():
            pair = make_pair(family, **options)
            opened = record(tmp_path / family / form, pair, rows)
            given = {"per_device_train_batch_size": 2, "train_sampling_strategy": "sequential", "max_steps": 4}
            trainer = taught(tmp_path / "run", opened, pair, **given)
            losses = logged(trainer, "copilot_loss")
            assert losses[:3] == [0.0, 0.0, 0.0] and losses[3] > 0
            assert all(tensor.isfinite().all() for tensor in weights(pair).values())


def test_sft_arguments_of_rounds_are_refused(tmp_path):
    opened = record(tmp_path / "record")
    with pytest.raises(ValueError, match=r"must not learn meanwhile: set `freeze_pilot=True`"):
        teacher(tmp_path, opened, freeze_pilot=False)
    for name, value in {
        "held_out_mistakes": 0.2,
        "copilot_steps_per_round": 2,
        "mistake_log_draw": "uniform",
        "mistake_log_export_rows": 10,
        "mistake_log_layers": 1,
    }.items():
        with pytest.raises(ValueError, match=f"`{name}={value!r}`: these are about rounds"):
            teacher(tmp_path, opened, **{name: value})
    with pytest.raises(ValueError, match="`mistake_log`: these are"):
        teacher(tmp_path, opened, trainer_kwargs={"mistake_log": MistakeLog()})
    with pytest.raises(ValueError, match="`dispatch_batches=True`, which cuts batches into rows"):
        teacher(tmp_path, opened, accelerator_config={"dispatch_batches": True})
    pair = make_pair()
    pair.freeze_pilot()
    teacher(tmp_path, opened, pair, freeze_pilot=False)  # only read in any case
    with pytest.raises(ValueError, match="'group_by_length', but recorded sequences"):
        teacher(tmp_path, opened, train_sampling_strategy="group_by_length")
    with pytest.raises(ValueError, match="`eval_dataset` is a record"):
        teacher(tmp_path, opened, eval_rows=opened)


def test_what_does_not_fit_the_pair_is_named(tmp_path):
    pair = make_pair(error_feedback="token")
    opened = record(tmp_path / "record", pair, tokenizer=byte_tokenizer(), data_collator=collate)
    everywhere = record(tmp_path / "everywhere", make_pair(mistake_top_k=3))
    mend = r"\. Record the data with this pair: `record_mistakes\(pair, dataset, ANOTHER_FOLDER\)`, or `transformers-co"

    def refused(recorded, other, message, **trainer_kwargs):
        with pytest.raises(ValueError, match=message + ".*" + mend):
            teacher(tmp_path, recorded, other, trainer_kwargs=trainer_kwargs)

    refused(opened, make_pair(pilot=make_pilot(seed=5), error_feedback="token"), "weights are other ones, head among")
    learnt = make_pilot()
    with torch.no_grad():
        learnt.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    refused(opened, make_pair(pilot=learnt, error_feedback="token"), "not of its head: it has learnt since")
    narrow = make_pilot().bfloat16()
    refused(opened, make_pair(pilot=narrow, error_feedback="token"), r"they are bfloat16 here and were float32")
    refused(opened, make_pair("gpt2", error_feedback="token"), "architecture is 'GPT2LMHeadModel' and was 'LlamaForC")
    refused(opened, make_pair(), "error_feedback='observed' reads mistakes at every position")
    refused(opened, make_pair(**FORMS["branch"]), r"reads number 0 of the .*holds the mean; `layers=\(0,\)` keeps that")
    everything = make_pair(error_feedback="token", mistakes_from="all")
    refused(opened, everything, "mistakes_from is 'all' and was 'labels'")
    refused(everywhere, make_pair(), r"mistake_top_k is \d+ and was 3")
    other = byte_tokenizer()
    other.add_tokens(["<new>"])
    refused(opened, make_pair(error_feedback="token"), "the tokenizer gives other ids", processing_class=other)
    teacher(tmp_path, opened, pair, trainer_kwargs={"processing_class": byte_tokenizer()})
    teacher(tmp_path, everywhere, make_pair(error_feedback="token"))


def test_the_card_says_how_it_was_taught(tmp_path):
    trainer = taught(tmp_path / "run", record(tmp_path / "record"), max_steps=1)
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| taught_from_a_record | True |" in card and "mistake_log" not in card


def test_lessons_at_all_positions_serve_labels_too(tmp_path):
    opened = record(tmp_path / "record", make_pair(mistakes_from="all"))
    assert isinstance(opened, RecordedMistakes)
    pair, other = make_pair(), make_pair()
    taught(tmp_path / "all", opened, pair, max_steps=3)
    taught(tmp_path / "labels", record(tmp_path / "labelled"), other, max_steps=3)
    assert largest_difference(weights(pair), weights(other)) < 1e-6


_DDP = """
import sys
import torch
from tests.helpers.training_helpers import make_pair, make_trainer, reversal_rows, state
from transformers_copilot import MistakeLog, record_mistakes
folder, size, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
pair = make_pair()
rows = reversal_rows(24)
for row in rows[::2][:6]:  # one process's first batches have less to learn from
    row["labels"] = [-100] * len(row["labels"])
record_mistakes(pair, rows, folder + "/record", sequences_per_shard=8, dtype="float32", progress=False)
trainer = make_trainer(folder, pair, rows=MistakeLog.open(folder + "/record"), per_device_train_batch_size=size,
                       train_sampling_strategy="sequential", optim="sgd", max_grad_norm=0.0, learning_rate=0.5,
                       gradient_accumulation_steps=steps, freeze_pilot=True, mistake_log_draw="newest", max_steps=6)
trainer.train()
torch.save((state(trainer.pair), trainer.state.log_history), f"{folder}/state-{trainer.args.process_index}.pt")
"""


def launched(tmp_path, processes, size, steps):
    script, folder = tmp_path / "ddp.py", tmp_path / f"of-{processes}-{size}-{steps}"
    script.write_text(_DDP)
    folder.mkdir()
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = subprocess.run(
        [*run, str(script), str(folder), str(size), str(steps)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [torch.load(folder / f"state-{rank}.pt") for rank in range(processes)], contents(folder / "record")


@pytest.mark.slow
def test_the_command_in_two_processes(folder):
    """Where nobody says that it is on the CPU."""
    words = ["--pilot", "pilot", "--dataset", "train.jsonl", "--output_dir", "record", "--sequences_per_shard", "12"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*run, "-m", "transformers_copilot", "record", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("36 texts") == done.stdout.count("The record is in") == 1
    assert len(MistakeLog.open(folder / "record")) == 36
    assert command(folder, "record", "--output_dir", folder / "alone") == 0
    for path in (folder / "record").glob("*.safetensors"):
        assert path.read_bytes() == (folder / "alone" / path.name).read_bytes()


@pytest.mark.slow
def test_two_processes_record_and_teach_as_one(tmp_path):
    """Three shards, shared out; the same Copilot whatever a step's sequences are divided into."""
    ((single, history),), shards = launched(tmp_path, 1, 4, 1)
    for size, steps in ((2, 1), (1, 2)):
        made, others = launched(tmp_path, 2, size, steps)
        assert others == shards
        assert largest_difference(made[0][0], made[1][0]) == 0.0
        assert largest_difference(single, made[0][0]) < 1e-6
        losses = [[entry["copilot_loss"] for entry in one if "copilot_loss" in entry] for one in (history, made[0][1])]
        assert losses[0] == pytest.approx(losses[1], abs=2e-4)
    assert largest_difference(single, weights(make_pair())) > 1e-3


# ---- the commands ----


def test_record_then_train(folder, capsys):
    assert command(folder, "record", "--error_feedback", "token", "--layers", "0", "--shard", "1/2") == 0
    told = capsys.readouterr().out
    assert "36 texts; 0 were too long" in told and "bytes a token" in told and "are free" in told
    assert f"train --pilot {folder / 'pilot'} --record {folder / 'record'}" in told
    assert [path.name for path in (folder / "record").glob("*.safetensors")] == ["record-00001-of-00003.safetensors"]
    assert command(folder, "record", "--error_feedback", "token", "--layers", "0") == 0
    assert "2 of 3 shards are still to be written here" in capsys.readouterr().out
    header = json.loads((folder / "record" / "record.json").read_text())
    assert header["rationale"] == ["mean", 0] and not header["mistakes_everywhere"] and header["tokenizer_hash"]
    before = contents(folder / "record")
    recorded = ["--record", folder / "record"]
    branch = ["--form", "branch", "--copilot_layers", "1"]
    assert command(folder, "train", *recorded, *branch, "--dataset", folder / "train.jsonl") == 0
    told = capsys.readouterr().out
    assert "train: 36 recorded texts, 4 for λ" in told and "chosen on 4 texts" in told
    assert contents(folder / "record") == before
    state = json.loads((folder / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 4
    pair = PilotCopilotForCausalLM.from_pretrained(folder / "run")
    assert largest_difference(weights(pair.pilot), load_file(folder / "pilot" / "model.safetensors")) == 0.0
    assert command(folder, "train", *recorded, "--form", "linear") == 0
    told = capsys.readouterr().out
    assert "36 recorded texts, 0 for λ" in told and "λ = 1, as it was: there are no texts to choose it on" in told


def test_a_pairs_folder_keeps_its_own_choices(folder, capsys):
    data = ["--dataset", folder / "train.jsonl"]
    assert command(folder, "train", *data, "--error_feedback", "token", "--copilot_layers", 2) == 0
    assert command(folder, "record", "--pilot", folder / "run") == 0  # the later word counts
    header = json.loads((folder / "record" / "record.json").read_text())
    assert header["rationale"] == ["mean"] and not header["mistakes_everywhere"]
    words = ["--pilot", folder / "run", "--record", folder / "record", "--output_dir", folder / "again"]
    assert command(folder, "train", *words) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert command(folder, "train", "--record", folder / "record") == 1  # the Pilot before it learnt
    assert "the Pilot's weights are other ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("record", ["--shard", "two"], "--shard is 'two'; give i/n"),
        ("record", ["--shard", "2/2"], "give (i, n) with i from 0 to n - 1"),
        ("record", ["--layers", "first"], "--layers has 'first'"),
        ("record", ["--layers", "7"], "`layers` has 7; give numbers of the Pilot's decoder layers, 0 to 1"),
        ("train", ["--record", "nowhere"], "nowhere holds no record.json"),
        ("train", [], "no data: give `--task`"),
    ],
)
def test_wrong_command_lines(folder, name, words, message, capsys):
    assert command(folder, name, *words) == 1
    assert message in capsys.readouterr().err


def test_a_training_of_rounds_cannot_be_asked_of_a_record(folder, capsys):
    assert command(folder, "record") == 0
    assert command(folder, "train", "--record", folder / "record", "--copilot_steps_per_round", "2") == 1
    assert "`copilot_steps_per_round=2`: these are about rounds" in capsys.readouterr().err


def test_every_model_of_a_search_is_checked(tmp_path):
    opened, made = record(tmp_path / "record"), []

    def init():
        made.append(make_pair())
        return made[-1]

    trainer = teacher(tmp_path / "run", opened, trainer_kwargs={"model": None, "model_init": init}, max_steps=2)
    trainer.train()
    first = weights(trainer.pair)
    trainer.train()
    assert trainer.pair is made[-1] and largest_difference(first, weights(trainer.pair)) == 0.0
    assert len(trainer.train_dataset) == ROWS
