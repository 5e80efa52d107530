"""Several calls, processes and machines write one record: it is what one call writes; what doesn't belong is named."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from datasets import Dataset

import transformers_copilot.commands.record as record_command
import transformers_copilot.mistake_log.record_header as record_header
import transformers_copilot.mistake_log.record_shards as record_shards
from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.paths import ROOT
from tests.helpers.recordings import ROWS, command, contents, equal, record
from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
)
from tests.helpers.training_helpers import state as weights
from transformers_copilot import MistakeLog, join_records, record_mistakes
from transformers_copilot.commands.main import main
from transformers_copilot.mistake_log.record_processes import RecordingProcesses
from transformers_copilot.mistake_log.recording import Recording
from transformers_copilot.mistake_log.run_lock import own_folder


SECOND = "record-00001-of-00003.safetensors"
OPTIONS = {"sequences_per_shard": 8, "batch_size": 4, "dtype": "float32", "progress": False}


def parts(folder, count=2, pair=None, rows=None, **options):
    """Each share in a folder of its own, as machines with disks of their own write them."""
    pair = make_pair() if pair is None else pair
    rows = reversal_rows(ROWS, seq2seq=pair.config.is_encoder_decoder) if rows is None else rows
    folders = [folder / f"part-{index}" for index in range(count)]
    for index, part in enumerate(folders):
        record_mistakes(pair, rows, part, shard=(index, count), **{**OPTIONS, **options})
    return folders


def shards(folder):
    return {name: content for name, content in contents(folder).items() if name.endswith(".safetensors")}


def same_record(left, right):
    assert len(left) == len(right)
    for ours, theirs in zip(left, right, strict=True):
        equal(ours, theirs)


# ---- folders are joined ----


@pytest.mark.parametrize(("family", "count"), [("llama", 2), ("t5", 2), ("llama", 5)])
def test_joined_folders_are_what_one_call_writes(tmp_path, family, count):
    """Uneven shares; and more shares than shards, of which some have nothing to write."""
    pair = make_pair(family)
    whole = record(tmp_path / "whole", pair)
    folders = parts(tmp_path, count, pair)
    written = [shards(folder) for folder in folders]
    assert [len(part) for part in written] == ([2, 1] if count == 2 else [1, 1, 1, 0, 0])
    assert join_records(reversed(folders), tmp_path / "all", progress=False) == tmp_path / "all"
    assert list(contents(tmp_path / "all")) == ["record.json"]  # no number is copied
    assert {name: part[name] for part in written for name in part} == shards(tmp_path / "whole")
    opened = MistakeLog.open(tmp_path / "all")
    same_record(opened, whole)
    assert opened.to_dataset()[:] == whole.to_dataset()[:]


def test_a_joined_record_moves_with_its_folders_and_teaches_as_a_whole_one(tmp_path):
    (tmp_path / "here").mkdir()
    whole = record(tmp_path / "whole")
    join_records(parts(tmp_path / "here"), tmp_path / "here" / "all", progress=False)
    (tmp_path / "here").rename(tmp_path / "there")
    opened, taught = MistakeLog.open(tmp_path / "there" / "all"), []
    same_record(opened, whole)
    for number, recorded in enumerate((whole, opened)):
        given = {"freeze_pilot": True, "mistake_log_draw": "newest", "max_steps": 3}
        trainer = make_trainer(tmp_path / f"run-{number}", make_pair(), rows=recorded, **given)
        trainer.train()
        taught.append(weights(trainer.pair))
    assert largest_difference(*taught) == 0.0


def test_joined_again_further_and_into_one_of_the_folders(tmp_path):
    whole, folders = record(tmp_path / "whole"), parts(tmp_path, 3)
    join_records(folders[:2] + folders[2:], folders[1], progress=False)
    header = MistakeLog.open(folders[1]).header
    assert header.joined_from == ("../part-0", "../part-2")
    same_record(MistakeLog.open(folders[1]), whole)
    join_records([folders[1]], tmp_path / "all", progress=False)  # of a joined folder those that it names, too
    same_record(MistakeLog.open(tmp_path / "all"), whole)
    before = contents(tmp_path / "all")
    join_records([folders[0]], tmp_path / "all", progress=False)  # again: the folders of before are known
    assert contents(tmp_path / "all") == before
    for folder in folders:  # put into one folder by hand, it is one record too
        for name, content in shards(folder).items():
            (folders[0] / name).write_bytes(content)
    same_record(MistakeLog.open(folders[0]), whole)
    join_records(folders, folders[0], progress=False)
    assert contents(folders[0]) == contents(tmp_path / "whole")  # nothing lies elsewhere, so none is named


def test_what_was_said_of_one_folder_only_is_kept(tmp_path):
    tokenizer = byte_tokenizer()
    folders = parts(tmp_path)
    shutil.rmtree(folders[1])
    options = {**OPTIONS, "tokenizer": tokenizer, "data_collator": collate}
    record_mistakes(make_pair(), reversal_rows(ROWS), folders[1], shard=(1, 2), **options)
    join_records(folders, tmp_path / "all", progress=False)
    assert MistakeLog.open(tmp_path / "all").header.tokenizer_hash


def test_folders_of_two_records_are_not_joined(tmp_path):
    tokenizers = [byte_tokenizer(), byte_tokenizer()]
    tokenizers[1].add_tokens(["<new>"])
    first = parts(tmp_path / "first", tokenizer=tokenizers[0], data_collator=collate)[0]
    for place, (options, message) in enumerate(
        [
            ({"dtype": "bfloat16"}, "dtype is 'bfloat16' in {1} and 'float32' in {0}"),
            ({"sequences_per_shard": 4}, "sequences_per_shard is 4 in {1} and 8 in {0}"),
            ({"rows": reversal_rows(ROWS, seed=3)}, r"data is '\w+' in {1} and '\w+' in {0}"),
            ({"rows": reversal_rows(12)}, "sequences is 12 in {1} and 20 in {0}"),
            ({"pair": make_pair(pilot=make_pilot(seed=5))}, r"weights is '\w+' in {1} and '\w+' in {0}; head is"),
            ({"pair": make_pair(mistake_top_k=3)}, r"mistake_top_k is 3 in {1} and \d+ in {0}"),
            ({"layers": (1,)}, r"rationale is \('mean', 1\) in {1} and \('mean',\) in {0}"),
            ({"tokenizer": tokenizers[1]}, r"tokenizer_hash is '\w+' in {1} and '\w+' in {0}"),
        ]
    ):
        given = {"tokenizer": tokenizers[0], "data_collator": collate, **options}
        other = parts(tmp_path / str(place), **given)[1]
        with pytest.raises(ValueError, match="hold shards of two records: .*" + message.format(first, other)):
            join_records([first, other], tmp_path / "all", progress=False)
    assert not (tmp_path / "all").exists()


def test_what_is_missing_or_broken_is_named_and_nothing_is_joined(tmp_path):
    folders = parts(tmp_path, 3)
    with pytest.raises(
        ValueError, match=rf"1 of 3 shards are in none of .*: {SECOND}\. .*`.* --shard 1/3 --output_dir"
    ):
        join_records([folders[0], folders[2]], tmp_path / "all", progress=False)
    with pytest.raises(ValueError, match="2 of 3 shards .*: record-00001-of-00003.safetensors, record-00002-of"):
        join_records(folders[:1], tmp_path / "all", progress=False)
    content = (folders[1] / SECOND).read_bytes()
    (folders[1] / SECOND).write_bytes(content[:-9] + b"x" + content[-8:])  # a number, which opening does not read
    with pytest.raises(ValueError, match=f"{folders[1] / SECOND} cannot be used .*other numbers.*`--shard 1/3`"):
        join_records(folders, tmp_path / "all", progress=False)
    for folder in folders[::2]:
        (path,) = folder.glob("*.safetensors")
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 of 3 shards can't be used: .*part-0.*part-1.*part-2"):
        join_records(folders, tmp_path / "all", progress=False)
    for given, kind, message in [
        (str(folders[0]), TypeError, "one folder; give a list"),
        ([], ValueError, "`folders` is empty"),
        ([folders[0], tmp_path / "nowhere"], ValueError, "nowhere holds no record.json"),
    ]:
        with pytest.raises(kind, match=message):
            join_records(given, tmp_path / "all", progress=False)
    assert not (tmp_path / "all").exists()


# ---- a shard is lost, and made again alone ----


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("how", ["lost", "cut"])
def test_a_lost_or_broken_shard_is_named_and_made_again_alone(tmp_path, caplog, joined, how):
    whole = record(tmp_path / "whole")
    folders = parts(tmp_path, 3) if joined else [tmp_path / "all"] * 3
    if joined:
        join_records(folders, tmp_path / "all", progress=False)
    else:
        record(tmp_path / "all")
    if how == "lost":
        (folders[1] / SECOND).unlink()
        assert len(MistakeLog.open(tmp_path / "all")) == ROWS - 8
        assert f"lacks {SECOND}" in caplog.text and "`--shard 1/3` it writes number 1 alone" in caplog.text
        assert ("../part-0, ../part-1, ../part-2 beside it" in caplog.text) == joined
    else:
        (folders[1] / SECOND).write_bytes(b"cut")
        with pytest.raises(
            ValueError, match=f"{folders[1] / SECOND} cannot be used .*`--shard 1/3` it writes no other"
        ):
            MistakeLog.open(tmp_path / "all")
    pair, read = make_pair(), []
    pair.pilot.register_forward_hook(lambda *_: read.append(1))
    pair.head_map  # noqa: B018 - found out by a pass of its own
    read.clear()
    same_record(record(tmp_path / "all", pair, shard=(1, 3)), whole)
    assert len(read) == 2  # eight sequences in two batches
    assert shards(tmp_path / "all").get(SECOND) == shards(tmp_path / "whole")[SECOND]


def test_folders_that_are_gone_are_named(tmp_path, caplog):
    folders = parts(tmp_path)
    join_records(folders, tmp_path / "all", progress=False)
    shutil.rmtree(folders[1])
    assert len(MistakeLog.open(tmp_path / "all")) == 12 and "../part-0, ../part-1 beside it" in caplog.text
    shutil.rmtree(folders[0])
    with pytest.raises(ValueError, match=r"holds none of its 3 shards yet: They are not in the folders \.\./part-0"):
        MistakeLog.open(tmp_path / "all")


def test_a_shard_of_other_data_is_noticed_in_a_folder_it_was_copied_to(tmp_path):
    record(tmp_path / "one"), record(tmp_path / "two", rows=reversal_rows(ROWS, seed=3))
    shutil.copy(tmp_path / "two" / SECOND, tmp_path / "one" / SECOND)
    with pytest.raises(ValueError, match=rf"{SECOND} cannot be used .*other data: data is '\w+', and '\w+' in record"):
        MistakeLog.open(tmp_path / "one")


def test_shards_from_before_they_told_of_their_data_are_read(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        about = record_shards._metadata
        patch.setattr(
            record_shards,
            "_metadata",
            lambda header, number, *given: {
                "record": about(header, number, *given)["record"].replace(f", data {header.data}", "")
            },
        )
        before = record(tmp_path / "before")
    same_record(before, record(tmp_path / "now"))
    assert shards(tmp_path / "before") != shards(tmp_path / "now")


# ---- two calls at the same time ----


def in_another_process(act):
    """A process that does something, says so, and waits until it is killed."""
    ready, says = os.pipe()
    child = os.fork()
    if not child:
        try:
            act(lambda: os.write(says, b"!"))
        finally:
            os._exit(1)
    os.close(says)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    return child


def owning(folder, part):
    def act(ready):
        with own_folder(folder, part=part):
            ready()
            signal.pause()

    return act


def test_the_same_shard_twice_is_refused_until_the_first_is_dead(tmp_path):
    pair, rows = make_pair(), reversal_rows(ROWS)
    child = in_another_process(owning(tmp_path, (1, 2)))
    try:
        for shard in ((1, 2), (3, 4), (1, 3), None):  # those that have a number in common
            with pytest.raises(
                RuntimeError, match=rf"shard 1/2 of {tmp_path} belongs to .* process {child} on .*`shard`"
            ):
                record_mistakes(pair, rows, tmp_path, shard=shard, **OPTIONS)
        assert not shards(tmp_path)
        record_mistakes(pair, rows, tmp_path, shard=(0, 2), **OPTIONS)
        record_mistakes(pair, rows, tmp_path, shard=(2, 4), **OPTIONS)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert [path.name for path in tmp_path.glob("_run*.lock")] == ["_run-1-of-2.lock"]
    same_record(record(tmp_path, pair), record(tmp_path / "whole", pair))
    assert not list(tmp_path.glob("_run*"))


def test_a_refused_call_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="`dataset` has no example"):
        record_mistakes(make_pair(), [], tmp_path / "new", shard=(0, 2))
    assert not (tmp_path / "new").exists()


def test_a_share_that_was_killed_goes_on_beside_the_others(tmp_path):
    pair, rows = make_pair(), reversal_rows(ROWS)
    pair.head_map  # noqa: B018 - found out here, not in the fork

    def act(ready):
        save, written = record_shards.save_file, []

        def torn(tensors, path, **options):
            save(tensors, path, **options)
            if written:
                path.write_bytes(path.read_bytes()[:100])
                ready()
                os.kill(os.getpid(), signal.SIGKILL)
            written.append(path)

        record_shards.save_file = torn
        record_mistakes(pair, rows, tmp_path / "record", shard=(0, 2), **OPTIONS)

    child = in_another_process(act)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "record").glob("*.safetensors")] == ["record-00000-of-00003.safetensors"]
    assert len(list((tmp_path / "record").iterdir())) == 5  # the header, a shard, a torn one, the lock and its owner
    record(tmp_path / "record", pair, rows, shard=(1, 2))
    record(tmp_path / "record", pair, rows, shard=(0, 2))
    record(tmp_path / "whole", pair, rows)
    assert contents(tmp_path / "record") == contents(tmp_path / "whole")


def test_of_two_that_begin_at_once_with_other_options_one_is_refused(tmp_path, monkeypatch):
    """Both have looked, and there was no record yet."""
    pair, rows, link = make_pair(), reversal_rows(ROWS), os.link

    def later(*given):
        monkeypatch.setattr(record_header.os, "link", link)
        record_mistakes(pair, rows, tmp_path, shard=(1, 2), **OPTIONS)
        link(*given)

    monkeypatch.setattr(record_header.os, "link", later)
    with pytest.raises(ValueError, match=r"data is '\w+' and was '\w+'"):
        record_mistakes(pair, reversal_rows(ROWS, seed=3), tmp_path, shard=(0, 2), **OPTIONS)
    assert sorted(contents(tmp_path)) == [SECOND, "record.json"]
    monkeypatch.setattr(record_header.os, "link", later)
    shutil.rmtree(tmp_path)
    record_mistakes(pair, rows, tmp_path, shard=(0, 2), **OPTIONS)  # with the same ones neither is
    assert len(MistakeLog.open(tmp_path)) == ROWS


def test_a_record_begins_where_there_are_no_links(tmp_path, monkeypatch):
    def none(*given):
        raise PermissionError("operation not permitted")

    monkeypatch.setattr(record_header.os, "link", none)
    record(tmp_path / "one")
    monkeypatch.undo()
    record(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# ---- the processes of one call ----


class Told(RecordingProcesses):
    """A process of several, without the others: what they would say is given."""

    def __init__(self, index, count, local=None, others=()):
        super().__init__()
        self.index, self.count, self._local, self.others = index, count, local or (index, count), others

    def gather(self, value):
        return [*self.others[: self.index], value, *self.others[self.index :]]


@pytest.mark.parametrize(("processes", "count"), list(itertools.product((1, 2, 3), (1, 2, 4))))
def test_each_shard_is_one_processes(processes, count):
    for index in range(count):
        numbers = range(index, 11, count)
        own = [Told(rank, processes).own(numbers) for rank in range(processes)]
        assert sorted(itertools.chain(*own)) == list(numbers)
        assert max(map(len, own)) - min(map(len, own)) <= 1


def test_processes_that_record_other_things_are_named(tmp_path):
    given = {"data_collator": collate, "tokenizer": None, "layers": (), "shard": None, **OPTIONS}
    del given["progress"]
    first = Recording(make_pair(), reversal_rows(ROWS), tmp_path, **given, together=Told(0, 1))
    other = Told(1, 2, others=[(first.header, set())])
    with pytest.raises(ValueError, match=r"don't record the same: data is '\w+' in process 1 and '\w+' in process 0"):
        Recording(make_pair(), reversal_rows(ROWS, seed=3), tmp_path, **given, together=other)
    # What another machine has on its own disk is not recorded again.
    there = Recording(
        make_pair(), reversal_rows(ROWS), tmp_path, **given, together=Told(1, 2, others=[(first.header, {1})])
    )
    assert there.size.missing_shards == 2 and there._own == [2]


def test_streamed_data_is_refused_in_shares_too(tmp_path):
    stream = Dataset.from_list(reversal_rows(ROWS)).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"is a IterableDataset, whose sequences have no numbers.*without streaming"):
        record_mistakes(make_pair(), stream, tmp_path / "new", shard=(0, 2), **OPTIONS)


_PROCESSES = """
import os, sys
from tests.helpers.training_helpers import make_pair, reversal_rows
from transformers_copilot import record_mistakes
folder, index, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rows = reversal_rows(20, seed=seed * int(os.environ["RANK"]))
given = dict(sequences_per_shard=2, batch_size=4, dtype="float32", progress=False)
record_mistakes(make_pair(), rows, folder, shard=(index, count), **given)
"""


def launched(tmp_path, *words):
    (tmp_path / "script.py").write_text(_PROCESSES)
    # Its launcher of several processes is called so where there is no GPU, too.
    run = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    run += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return subprocess.run(
        [sys.executable, *run, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
    )


@pytest.mark.slow
def test_processes_of_a_launch_share_what_its_call_is_to_write(tmp_path):
    """Ten shards; the share of two processes, of which one has more to do again; what is left is one call's."""
    script = tmp_path / "script.py"
    done = launched(tmp_path, script, tmp_path / "record", 1, 2, 0)
    assert done.returncode == 0, done.stdout + done.stderr
    names = [f"record-{number:05d}-of-00010.safetensors" for number in range(10)]
    assert sorted(shards(tmp_path / "record")) == names[1::2]
    for name in names[1::4]:  # all of what one process wrote
        (tmp_path / "record" / name).unlink()
    (tmp_path / "record" / names[3]).write_bytes(b"cut")
    done = launched(tmp_path, script, tmp_path / "record", 1, 2, 0)
    assert done.returncode == 0, done.stdout + done.stderr
    options = {**OPTIONS, "sequences_per_shard": 2}
    record(tmp_path / "record", **{**options, "shard": (0, 2)})
    record(tmp_path / "whole", **options)
    assert contents(tmp_path / "record") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_processes_of_a_launch_with_other_data_end_with_the_reason(tmp_path):
    done = launched(tmp_path, tmp_path / "script.py", tmp_path / "record", 0, 1, 7)
    assert done.returncode != 0 and "don't record the same: data is" in done.stderr
    assert not (tmp_path / "record").exists()


# ---- the commands ----


@pytest.mark.slow
def test_the_command_under_accelerate_launch(folder):
    words = ["--pilot", "pilot", "--dataset", "train.jsonl", "--sequences_per_shard", "6", "--output_dir"]
    record_words = ["-m", "transformers_copilot", "record", *words]
    for index in range(2):
        done = launched(folder, *record_words, f"part-{index}", "--shard", f"{index}/2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("3 of the record's 6 shards") == done.stdout.count("36 texts") == 1
        assert "recording 24 texts" not in done.stdout and "recording 12 texts" in done.stdout  # two of the three
    assert main(["record", "--join", f"{folder}/part-0", f"{folder}/part-1", "--output_dir", f"{folder}/all"]) == 0
    alone = ["--pilot", str(folder / "pilot"), "--dataset", str(folder / "train.jsonl"), *words[4:]]
    assert main(["record", *alone, str(folder / "alone"), "--device", "cpu"]) == 0
    assert shards(folder / "part-0") | shards(folder / "part-1") == shards(folder / "alone")
    same_record(MistakeLog.open(folder / "all"), MistakeLog.open(folder / "alone"))


def test_shares_are_recorded_joined_and_made_again(folder, capsys):
    whole = command(folder, "record")
    places = [folder / "part-0", folder / "part-1"]
    capsys.readouterr()
    for index, place in enumerate(places):
        assert command(folder, "record", "--shard", f"{index}/2", "--output_dir", place) == whole == 0
    told = capsys.readouterr().out
    assert "2 of 3 shards are still to be written here" in told and "part-0 has 2 of the record's 3 shards" in told
    assert f"transformers-copilot record --join {places[0]} … --output_dir FOLDER" in told
    join = ["record", "--join", *map(str, places), "--output_dir", str(folder / "all")]
    assert main(join) == 0
    told = capsys.readouterr().out
    assert "3 shards with 36 texts are whole; its shards lie in ../part-0, ../part-1, seen from there" in told
    assert f"train --pilot … --record {folder / 'all'}" in told
    whole = MistakeLog.open(folder / "record")
    same_record(MistakeLog.open(folder / "all"), whole)
    assert command(folder, "train", "--record", folder / "all", "--form", "linear") == 0
    (places[1] / SECOND).unlink()
    capsys.readouterr()
    assert main(join) == 1
    assert f"{SECOND}. Record them" in capsys.readouterr().err
    assert command(folder, "record", "--shard", "1/3", "--output_dir", folder / "all") == 0
    assert "recording 12 texts" in capsys.readouterr().out
    same_record(MistakeLog.open(folder / "all"), whole)
    assert command(folder, "record", "--shard", "4/5", "--output_dir", folder / "all") == 0  # more shares than shards
    told = capsys.readouterr().out
    assert "0 of 3 shards are still to be written here" in told and "nothing is left to record here" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "2/2"], "give (i, n) with i from 0 to n - 1"),
        (
            ["--shard", "0/2", "--join", "record"],
            "leave `--pilot`, `--sequences_per_shard`, `--shard`, `--device`, `--da",
        ),
        (["--state_dtype", "float32"], "dtype is 'float32' and was 'bfloat16'"),
        (["--mistakes_from", "all"], "mistakes_from is 'all' and was 'labels'"),
        (["--layers", "first"], "--layers has 'first'"),
        (["--max_train_examples", "20"], "sequences is 20 and was 36"),
        (["--seed", "3"], "data is "),
        (["--batch_size", "0"], "`batch_size` is 0"),
    ],
)
def test_what_is_wrong_is_said_before_the_pilot_is_loaded(folder, monkeypatch, capsys, words, message):
    assert command(folder, "record") == 0
    monkeypatch.setattr(record_command, "build_pair", lambda *_: pytest.fail("the Pilot is loaded"))
    before = contents(folder / "record")
    assert command(folder, "record", *words) == 1
    assert message in capsys.readouterr().err and contents(folder / "record") == before


def test_a_share_that_another_process_writes_is_refused_before_the_pilot_is_loaded(folder, monkeypatch, capsys):
    monkeypatch.setattr(record_command, "build_pair", lambda *_: pytest.fail("the Pilot is loaded"))
    child = in_another_process(owning(folder / "record", (1, 2)))
    try:
        assert command(folder, "record", "--shard", "1/2") == 1
        assert f"shard 1/2 of {folder / 'record'} belongs to another call, process {child}" in capsys.readouterr().err
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_only_joining_needs_no_pilot(tmp_path, capsys):
    assert main(["record", "--output_dir", str(tmp_path / "new")]) == 2
    assert "required: --pilot" in capsys.readouterr().err
    assert main(["record", "--join", str(tmp_path / "a"), "--output_dir", str(tmp_path / "new")]) == 1
    assert f"{tmp_path / 'a'} holds no record.json" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_stream_of_ones_own_rows_is_recorded_in_shares(folder):
    rows = (folder / "train.jsonl").read_text().splitlines()
    (folder / "dev.jsonl").write_text("\n".join(rows[30:]))
    words = ["--streaming", "--max_train_examples", "30", "--dev_dataset", folder / "dev.jsonl"]
    for index in range(2):
        assert command(folder, "record", *words, "--shard", f"{index}/2") == 0
    assert len(MistakeLog.open(folder / "record")) == 30
    assert json.loads((folder / "record" / "record.json").read_text())["sequences"] == 30
