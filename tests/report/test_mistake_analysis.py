"""The analysis of a Mistake Log against counts made one by one, and the rows that a run leaves on disk."""

import random
import resource
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.mistake_counting import brute_force, rows_of
from tests.helpers.training_helpers import make_pair, make_trainer
from transformers_copilot import MistakeLog, MistakeRecord
from transformers_copilot.mistake_log.export import MistakeRowsWriter, row_streams, row_tables
from transformers_copilot.mistake_log.table import FEATURES
from transformers_copilot.mistake_log.token_text import TokenTexts, visible
from transformers_copilot.report.mistake_analysis import analyse_mistakes


def random_rows(rounds=23, seed=0, vocab=6):
    """Rows of many short replies with a prompt each; some replies are right from end to end."""
    draw = random.Random(seed)
    rows = []
    for number in range(5, 5 + rounds):
        for sequence in range(draw.randint(1, 4)):
            prompt, flawless = draw.randint(0, 3), draw.random() < 0.3
            for position in range(prompt + draw.randint(1, 9)):
                true = draw.randrange(vocab)
                predicted = true if flawless else draw.randrange(vocab)
                row = (number, sequence, position, draw.randrange(vocab), true, draw.random(), predicted)
                rows.append((*row, draw.random(), position >= prompt, draw.random() * 2))
    return rows


def dataset_of(rows):
    columns = {name: [row[place] for row in rows] for place, name in enumerate(FEATURES)}
    return Dataset.from_dict(columns, features=FEATURES)


def check(analysis, rows, class_of, round_bins=7):
    """Every number of an analysis equals the count made by hand."""
    true = brute_force(rows, class_of, round_bins)
    totals = analysis.totals
    wrong = [row for row in true["supervised"] if row[4] != row[6]]
    assert (totals["rows"], totals["tokens"], totals["wrong"]) == (len(rows), len(true["supervised"]), len(wrong))
    assert totals["cost"] == pytest.approx(sum(row[9] for row in true["supervised"]), rel=1e-5)
    assert totals["replies"] == len(true["replies"])
    assert totals["replies_all_right"] == len(true["replies"]) - sum(true["first_wrong"].values())
    assert totals["confusions"] == len(true["pairs"]) and totals["dropped_confusions"] == 0
    check_confusions(analysis, true)
    for row in analysis.by_class.itertuples():
        values = true["by_class"].pop(row.token_class)
        assert (row.tokens, row.wrong) == (len(values), sum(wrong for wrong, _ in values))
        assert row.cost == pytest.approx(sum(size for _, size in values), rel=1e-5)
        assert row.cost_share == pytest.approx(row.cost / totals["cost"])
    assert not true["by_class"]
    first, last = totals["first_round"], totals["last_round"]
    bins = min(round_bins, last - first + 1)
    for row in analysis.by_round.itertuples():
        values = true["by_round"].pop(((row.first_round - first) * bins // (last - first + 1), row.token_class))
        assert (row.tokens, row.wrong) == (len(values), sum(wrong for wrong, _ in values))
        assert row.mean_size == pytest.approx(np.mean([size for _, size in values]), rel=1e-5)
    assert not true["by_round"]
    assert dict(zip(analysis.first_wrong["place"], analysis.first_wrong["replies"], strict=True)) == true["first_wrong"]
    assert set(analysis.after_first_wrong["distance"]) == set(true["after"])
    for row in analysis.after_first_wrong.itertuples():
        values = np.array(true["after"][row.distance], dtype=float)
        assert row.tokens == len(values)
        assert [row.wrong_share, row.mean_size, row.mean_total] == pytest.approx(values.mean(axis=0), rel=1e-5)
    for row in analysis.by_position.itertuples():
        values = np.array([reply[row.place] for reply in true["replies"].values() if len(reply) > row.place], float)
        assert (row.tokens, row.wrong) == (len(values), values[:, 0].sum())
        assert row.mean_size == pytest.approx(values[:, 1].mean(), rel=1e-5)


def check_confusions(analysis, true):
    tokens, pairs = true["tenth_tokens"], true["pairs"]
    early, late = (max(sum(tokens[tenth] for tenth in part), 1) for part in (range(5), range(5, 10)))
    costs = [sum(sizes) for sizes in pairs.values()]
    assert list(analysis.confusions["cost"]) == pytest.approx(sorted(costs, reverse=True)[: len(analysis.confusions)])
    for row in analysis.confusions.itertuples():
        key = (row.true_token_id, row.predicted_token_id)
        counts = [true["tenth_pairs"][*key, tenth] for tenth in range(10)]
        assert (row.count, row.tenths) == (len(pairs[key]), counts)
        assert (row.first_tenth, row.last_tenth) == (counts[0], counts[9])
        assert row.mean_size == pytest.approx(np.mean(pairs[key]), rel=1e-5)
        assert row.trend == pytest.approx(1000 * (sum(counts[5:]) / late - sum(counts[:5]) / early))
    first, last = ({key[:2] for key in true["tenth_pairs"] if key[2] == tenth} for tenth in (0, 9))
    came_back = sum(true["tenth_pairs"][*key, 9] for key in first & last)
    last_wrong = true["tenth_wrong"][9]
    assert analysis.recurrence == {
        "first_tenth": true["tenth_wrong"][0],
        "last_tenth": last_wrong,
        "first_tenth_tokens": tokens[0],
        "last_tenth_tokens": tokens[9],
        "came_back": came_back,
        "came_back_share": came_back / last_wrong if last_wrong else 0.0,
        "kinds_first": len(first),
        "kinds_last": len(last),
        "cured": len(first - last),
    }


@pytest.mark.parametrize(("rounds", "seed", "batch_rows"), [(23, 0, 13), (23, 0, 10_000), (1, 1, 1), (12, 2, 29)])
def test_every_number_is_what_counting_by_hand_gives(rounds, seed, batch_rows):
    rows = random_rows(rounds, seed)
    tokens = TokenTexts(end_token_ids=[2])
    analysis = analyse_mistakes(dataset_of(rows), tokens, round_bins=7, batch_rows=batch_rows)
    check(analysis, rows, tokens.class_of)


@pytest.mark.parametrize(
    "options", [{}, {"mistake_top_k": 3}, {"error_feedback": "token"}, {"copilot": {"form": "linear"}}], ids=str
)
def test_a_real_log_counted_from_its_raw_tensors(tmp_path, options):
    """Every supervised row is there, and exact; those of prompts are there where the Copilot reads mistakes."""
    trainer = make_trainer(tmp_path, make_pair(**options), max_steps=12, gradient_accumulation_steps=2)
    trainer.train()
    rows = rows_of(trainer.mistake_log)
    prompts = sum(not row[8] for row in rows)
    assert bool(prompts) == (not options or "mistake_top_k" in options)
    assert len(rows) - prompts == sum(int((record.labels >= 0).sum()) for record in trainer.mistake_log)
    tokens = TokenTexts(end_token_ids=[2])
    check(analyse_mistakes(trainer.mistake_log.to_dataset(), tokens, round_bins=7), rows, tokens.class_of)


def test_the_same_from_memory_parquet_and_disk(tmp_path):
    dataset = dataset_of(random_rows())
    dataset.to_parquet(tmp_path / "rows.parquet")
    dataset.save_to_disk(tmp_path / "saved")
    (tmp_path / "run" / "mistake_rows").mkdir(parents=True)
    dataset.to_parquet(tmp_path / "run" / "mistake_rows" / "part.parquet")
    expected = analyse_mistakes(dataset)
    for source in ("rows.parquet", "saved", "run"):
        found = analyse_mistakes(str(tmp_path / source), batch_rows=11)
        assert found.totals == expected.totals and found.recurrence == expected.recurrence
        assert found.confusions.equals(expected.confusions)


def test_what_cannot_be_analysed_is_refused(tmp_path):
    dataset = dataset_of(random_rows())
    with pytest.raises(ValueError, match="Mistake Log is empty"):
        analyse_mistakes(MistakeLog().to_dataset())
    with pytest.raises(ValueError, match="no supervised token"):
        analyse_mistakes(dataset.filter(lambda row: not row["supervised"]))
    with pytest.raises(ValueError, match="not in the log's order"):
        analyse_mistakes(dataset.shuffle(seed=0))
    with pytest.raises(ValueError, match="has no column mistake_size"):
        analyse_mistakes(dataset.remove_columns("mistake_size"))
    with pytest.raises(FileNotFoundError, match="no rows of mistakes"):
        analyse_mistakes(tmp_path)
    with pytest.raises(ValueError, match="top"):
        analyse_mistakes(dataset, top=0)


def test_rare_confusions_are_let_go_when_there_are_too_many():
    rows = [(0, 0, place, 0, 0, 0.5, 1, 0.5, True, 9.0) for place in range(50)]
    rows += [(1, place, 0, 0, 2 + place, 0.5, 1, 0.5, True, 0.1) for place in range(300)]
    analysis = analyse_mistakes(dataset_of(rows), max_confusions=40, batch_rows=50)
    assert analysis.totals["dropped_confusions"] > 0 and analysis.totals["wrong"] == 350
    best = analysis.confusions.iloc[0]
    assert (best["true_token_id"], best["count"], best["cost"]) == (0, 50, 450.0)


# ---- rows on disk ----


def record_of_rows(tokens):
    """A record of one sequence of so many tokens, all of them supervised."""
    ids = torch.arange(tokens, dtype=torch.int32)
    return MistakeRecord(
        lengths=torch.tensor([tokens], dtype=torch.int32),
        token_ids=ids,
        labels=ids + 1,
        lessons=torch.ones(tokens, dtype=torch.bool),
        head_states=torch.ones(tokens, 4),
        true_probabilities=torch.full((tokens,), 0.5),
        predicted_ids=torch.zeros(tokens, dtype=torch.int32),
        predicted_probabilities=torch.full((tokens,), 0.5),
        mistake_sizes=torch.full((tokens,), 0.5),
        rationale=torch.ones(tokens, 4),
    )


def rounds_on_disk(folder):
    tables = [table for stream in row_streams(folder) for table in row_tables(stream, ["round"], 1000)]
    return [int(number) for number in pa.concat_tables(tables)["round"].unique().to_pylist()]


def test_a_run_leaves_the_rows_of_every_round_though_the_log_forgets(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=9, mistake_log_rounds=3, mistake_log_export_rows=10_000)
    trainer.train()
    assert trainer.mistake_log.round_numbers == [6, 7, 8] and rounds_on_disk(tmp_path) == list(range(9))
    on_disk = datasets.Dataset.from_parquet([str(path) for path in row_streams(tmp_path)], cache_dir=tmp_path / "c")
    assert on_disk.filter(lambda row: row["round"] >= 6)[:] == trainer.mistake_log.to_dataset()[:]
    assert analyse_mistakes(tmp_path).totals["last_round"] == 8


def test_rows_of_a_resumed_run_are_those_of_an_uninterrupted_one(tmp_path):
    options = {"mistake_log_export_rows": 10_000, "save_strategy": "steps", "save_steps": 2, "mistake_log_rounds": 2}
    make_trainer(tmp_path / "whole", make_pair(), max_steps=7, **options).train()
    make_trainer(tmp_path / "halted", make_pair(), max_steps=7, **options).train()
    again = make_trainer(tmp_path / "halted", make_pair(), max_steps=7, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "halted" / "checkpoint-4"))
    tables = [[pq.read_table(path) for path in row_streams(tmp_path / name)] for name in ("whole", "halted")]
    whole, halted = (pa.concat_tables(parts).sort_by("round") for parts in tables)
    assert whole.equals(halted) and rounds_on_disk(tmp_path / "halted") == list(range(7))


def test_a_long_run_keeps_rounds_spread_over_all_of_it(tmp_path):
    writer = MistakeRowsWriter(tmp_path, max_rows=100, rounds_per_file=3)
    writer.start(0)
    for number in range(200):
        writer.add(number, record_of_rows(5))
        assert writer.rows <= 100
    writer.flush()
    kept = rounds_on_disk(tmp_path)
    assert kept == list(range(0, 200, 16)) and 5 * len(kept) == writer.rows
    again = MistakeRowsWriter(tmp_path, max_rows=100)
    again.start(100)
    assert (again.stride, rounds_on_disk(tmp_path)) == (16, [0, 16, 32, 48, 64, 80, 96])
    again.start(0)
    assert again.rows == 0 and not list(tmp_path.rglob("*.parquet"))


def test_an_impossible_export_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="mistake_log_export_rows"):
        make_trainer(tmp_path, mistake_log_export_rows=-1)
    with pytest.raises(ValueError, match="use_mistake_log=True"):
        make_trainer(tmp_path, mistake_log_export_rows=5, use_mistake_log=False)


@pytest.mark.slow
def test_ten_million_rows_need_less_than_two_gigabytes(tmp_path):
    program = f"""
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, resource
from transformers_copilot.report.mistake_analysis import analyse_mistakes
from transformers_copilot.mistake_log.table import FEATURES
draw = np.random.default_rng(0)
with pq.ParquetWriter({str(tmp_path / "rows.parquet")!r}, FEATURES.arrow_schema) as writer:
    for part in range(100):
        at = np.arange(part * 100_000, (part + 1) * 100_000)
        columns = {{"round": at // 1600, "sequence": at % 1600 // 100, "position": at % 100}}
        for name in ("token_id", "true_token_id", "predicted_token_id"):
            columns[name] = draw.integers(0, 50_000, len(at))
        for name in ("true_probability", "predicted_probability", "mistake_size"):
            columns[name] = draw.random(len(at))
        columns["supervised"] = at % 100 >= 20
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in FEATURES.arrow_schema]
        writer.write_table(pa.Table.from_arrays(arrays, schema=FEATURES.arrow_schema))
found = analyse_mistakes({str(tmp_path / "rows.parquet")!r})
assert found.totals["tokens"] == 8_000_000 and found.totals["replies"] == 100_000, found.totals
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2e9
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 4e9


# ---- tokens ----


def test_tokens_are_shown_as_what_they_are(tokenizer):
    tokens = TokenTexts(tokenizer)
    assert tokens.name(5) == "w5" and tokens.class_of(5) == "word"
    assert tokens.class_of(tokenizer.eos_token_id) == "end" and tokens.class_of(tokenizer.pad_token_id) == "other"
    assert tokens.name(10_000) == "#10000"
    assert TokenTexts().name(7) == "#7" and TokenTexts(end_token_ids=[7]).class_of(7) == "end"


def test_tokens_together_write_whole_characters():
    tokens = TokenTexts(byte_tokenizer())
    ids = tokens.tokenizer(" né 你\u202e\n", add_special_tokens=False).input_ids
    assert tokens.written(ids) == " né 你<U+202E>\n" and tokens.written([]) == ""
    assert tokens.names(ids)[:3] == ["␣", "n", "\\xc3"] and tokens.class_of(ids[2]) == "other"


@pytest.mark.parametrize("letters", ["0123456789+=", "", "+ ="])
def test_a_tokenizer_that_knows_few_letters_names_its_tokens(letters):
    vocabulary = {"<end>": 0, **{letter: number for number, letter in enumerate(letters, start=1)}}
    backend = Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tokens = TokenTexts(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>"))
    assert tokens.names(range(1, len(vocabulary))) == [visible(letter) for letter in letters]
    assert tokens.class_of(0) == "end"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" a b ", "␣a b␣"),
        ("  ", "␣␣"),
        ("\n\t\x00\x1b", "⏎⇥␀␛"),
        ("\u202eabc\u200b", "<U+202E>abc<U+200B>"),
        ("\u0301", "◌\u0301"),
        ("<script>", "<script>"),  # markup is escaped where it is written, not here
        ("שלום", "שלום"),
        ("\u2028", "<U+2028>"),
    ],
)
def test_invisible_characters_become_visible(text, shown):
    assert visible(text) == shown
