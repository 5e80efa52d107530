"""The Mistake Log: what a round keeps, the bounds, the draw, and the file."""

import pickle
from collections import Counter

import pytest
import torch

from tests.helpers.training_helpers import PAD, collate, make_pair, reversal_rows
from transformers_copilot import MistakeLog, MistakeRecord


def batch_of(pair, rows=4, side="right", seed=0):
    """The mistakes of a batch, as the trainer is handed them."""
    data = reversal_rows(rows, seed, seq2seq=pair.config.is_encoder_decoder)
    with torch.no_grad():
        return pair.train()(**collate(data, side), return_mistakes=True).mistakes


def packed_batch(pair, documents=3, seed=0):
    """The mistakes of one packed row, and of its documents as rows of their own."""
    rows = reversal_rows(documents, seed)
    joined = {name: torch.tensor([sum((row[name] for row in rows), [])]) for name in ("input_ids", "labels")}
    positions = torch.cat([torch.arange(len(row["input_ids"])) for row in rows]).unsqueeze(0)
    pair.train()
    with torch.no_grad():
        packed = pair(**joined, position_ids=positions, return_mistakes=True).mistakes
        apart = pair(**collate(rows), return_mistakes=True).mistakes
    return packed, apart


def record_of(pair=None, rows=4, seed=0, **options):
    return MistakeRecord.from_batch(batch_of(make_pair() if pair is None else pair, rows, seed=seed), **options)


def small_record(number=0, tokens=3):
    """A record made by hand, recognisable by its number."""
    one = torch.ones(tokens)
    return MistakeRecord(
        lengths=torch.tensor([tokens], dtype=torch.int32),
        token_ids=torch.full((tokens,), number, dtype=torch.int32),
        labels=torch.full((tokens,), 1, dtype=torch.int32),
        lessons=torch.ones(tokens, dtype=torch.bool),
        head_states=torch.ones(tokens, 4),
        true_probabilities=one.clone(),
        predicted_ids=torch.zeros(tokens, dtype=torch.int32),
        predicted_probabilities=one.clone(),
        mistake_sizes=one.clone(),
        rationale=torch.ones(tokens, 4),
        belief_ids=torch.zeros(tokens, 2, dtype=torch.int32),
        belief_probabilities=torch.full((tokens, 2), 0.5),
        next_probabilities=one.clone(),
    )


def equal_records(left, right):
    ours, theirs = left.tensors(), right.tensors()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


# ---- records ----

TOKENS_ALONE = {"error_feedback": "token", "copilot": {"num_hidden_layers": 2, "rationale": "depths"}}
LINEAR, BRANCH = {"copilot": {"form": "linear"}}, {"copilot": {"form": "branch", "num_hidden_layers": 1}}
KINDS = [
    *[{"head": "own"}, {"head": "pilot"}, {**TOKENS_ALONE, "head": "own"}, {**TOKENS_ALONE, "head": "pilot"}],
    *[LINEAR, BRANCH],
]


@pytest.mark.parametrize("mistakes_from", ["labels", "all"])
@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize(
    ("family", "side"), [*[("llama-tied", side) for side in ("right", "left", "packed")], ("t5", "right")]
)
def test_a_record_teaches_what_its_batch_does(family, options, side, mistakes_from):
    pair = make_pair(family, random_head=True, mistakes_from=mistakes_from, **options).train()
    batch = packed_batch(pair)[0] if side == "packed" else batch_of(pair, side=side)
    again = MistakeRecord.from_batch(batch, torch.float32).to_batch()
    torch.testing.assert_close(pair.copilot_loss(again), pair.copilot_loss(batch), rtol=1e-5, atol=1e-6)
    narrow = MistakeRecord.from_batch(batch, torch.bfloat16).to_batch()
    torch.testing.assert_close(pair.copilot_loss(narrow), pair.copilot_loss(batch), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_dropped(side):
    pair = make_pair()
    record = MistakeRecord.from_batch(batch_of(pair, side=side), torch.float32)
    rows = reversal_rows(4)
    assert record.lengths.tolist() == [len(row["input_ids"]) for row in rows]
    assert record.token_ids.tolist() == sum((row["input_ids"] for row in rows), [])
    assert PAD not in record.token_ids
    assert record.labels.tolist() == sum(([*row["labels"][1:], -100] for row in rows), [])
    assert len(record.rationale) == len(record.question) == len(record.belief_ids) == len(record.token_ids)
    other = MistakeRecord.from_batch(batch_of(pair, side="left" if side == "right" else "right"), torch.float32)
    torch.testing.assert_close(record.rationale, other.rationale)
    torch.testing.assert_close(record.true_probabilities, other.true_probabilities)
    torch.testing.assert_close(record.head_states, other.head_states)
    assert int(record.lessons.sum()) == len(record.head_states) == int((record.labels >= 0).sum())


def test_padding_of_an_encoder_decoder_is_dropped_on_both_sides():
    pair = make_pair("t5")
    rows = reversal_rows(4, seq2seq=True)
    record = record_of(pair)
    assert record.question_lengths.tolist() == [len(row["input_ids"]) for row in rows]
    assert record.lengths.tolist() == [len(row["labels"]) for row in rows]
    assert record.labels.tolist() == sum((row["labels"] for row in rows), [])


def test_an_encoder_decoder_learns_nothing_from_padding():
    rows = reversal_rows(4, seq2seq=True)
    longest = max(len(row["labels"]) for row in rows)
    assert min(len(row["labels"]) for row in rows) < longest
    losses = {}
    for mistakes_from in ("labels", "all"):
        pair = make_pair("t5", random_head=True, mistakes_from=mistakes_from).train()
        losses[mistakes_from] = pair(**collate(rows)).copilot_loss
    torch.testing.assert_close(losses["all"], losses["labels"])


def test_a_packed_row_comes_apart_into_its_documents():
    packed, apart = packed_batch(make_pair())
    left, right = (MistakeRecord.from_batch(batch, torch.float32) for batch in (packed, apart))
    assert torch.equal(left.lengths, right.lengths)
    assert torch.equal(left.token_ids, right.token_ids)
    torch.testing.assert_close(left.rationale, right.rationale)
    torch.testing.assert_close(left.true_probabilities, right.true_probabilities)
    torch.testing.assert_close(left.head_states, right.head_states)
    inside = torch.ones(len(left.token_ids), dtype=torch.bool)
    inside[left.lengths.cumsum(0) - 1] = False  # after a document's last token there is another document, or nothing
    torch.testing.assert_close(left.next_probabilities[inside], right.next_probabilities[inside])


def test_a_record_is_narrow_and_on_its_own():
    pair = make_pair(mistake_top_k=5)
    batch = batch_of(pair)
    record = MistakeRecord.from_batch(batch)
    assert record.rationale.dtype == torch.float16 and record.question.dtype == torch.bfloat16
    assert record.token_ids.dtype == record.belief_ids.dtype == record.predicted_ids.dtype == torch.int32
    assert record.belief_probabilities.dtype == record.head_states.dtype == torch.float16
    for name in ("next_probabilities", "true_probabilities", "predicted_probabilities", "mistake_sizes"):
        assert getattr(record, name).dtype == torch.float32
    tokens, lessons = len(record.token_ids), int((record.labels >= 0).sum())
    of_tokens = 16 * 2 * 2 + 4 + 4 + 1 + 5 * (4 + 2) + 4  # two states; token, label, lesson; beliefs; the next token's
    of_lessons = 16 * 2 + 4 * 4  # what the head read, and four numbers
    assert record.nbytes == tokens * of_tokens + lessons * of_lessons + 4 * len(record.lengths)
    before = record.rationale.clone()
    batch.rationale.zero_()
    assert torch.equal(record.rationale, before)
    assert MistakeRecord.from_batch(batch, keep_question=False).question is None


def test_without_questions_the_frozen_embedding_gives_them():
    pair = make_pair(random_head=True)
    pair.freeze_pilot()
    batch = batch_of(pair)
    record = MistakeRecord.from_batch(batch, torch.float32, keep_question=False)
    torch.testing.assert_close(pair.copilot_loss(record.to_batch()), pair.copilot_loss(batch))


def test_states_that_are_too_large_for_float16_are_kept_otherwise():
    """float16 is finer than bfloat16 and ends at 65,504; a state past it would be infinite."""
    pair = make_pair(random_head=True)
    batch = batch_of(pair)
    batch.head_states[0, 0] = 7e4
    record = MistakeRecord.from_batch(batch)
    assert record.head_states.dtype == torch.float32 and torch.equal(record.head_states, batch.head_states)
    assert record.rationale.dtype == torch.float16
    batch.rationale[0, 0, 0] = 7e4
    assert MistakeRecord.from_batch(batch).rationale.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "rationale"),
    [
        (TOKENS_ALONE, 3),
        ({"error_feedback": "token"}, 1),
        (LINEAR, 0),
        (BRANCH, 1),
    ],
    ids=str,
)
def test_a_copilot_that_reads_no_mistakes_has_none_recorded(options, rationale):
    record = record_of(make_pair("llama", **options))
    assert record.belief_ids is record.belief_probabilities is record.next_probabilities is None
    assert (record.question is None) == ("form" in options.get("copilot", {}))
    if not rationale:
        assert record.rationale is None
    else:
        assert record.rationale.shape[1:] == ((3, 16) if rationale == 3 else (16,))
    assert len(record.head_states) == int((record.labels >= 0).sum()) < len(record.token_ids)
    with pytest.raises(ValueError, match="recorded without the mistakes of every position.*error_feedback='token'"):
        record.to_batch().feedback()


def test_more_lessons_than_were_recorded_are_refused():
    pair = make_pair()
    record = record_of(pair)
    pair.config.mistakes_from = "all"
    with pytest.raises(ValueError, match="other lessons than mistakes_from='all' asks for.*mistakes_from='labels'"):
        pair.train()(mistake_round=record.to_batch())
    pair.config.mistakes_from = "all"
    everything = record_of(pair)
    pair.config.mistakes_from = "labels"  # what is there beside is left aside
    few, many = (pair.copilot_loss(one.to_batch()) for one in (record, everything))
    torch.testing.assert_close(many, few)


def test_layers_are_kept_for_the_first_sequences():
    pair = make_pair().train()
    rows = reversal_rows(4)
    batch = pair(**collate(rows), return_mistakes=True, keep_layers=2).mistakes
    record = MistakeRecord.from_batch(batch, torch.float32)
    first = len(rows[0]["input_ids"]) + len(rows[1]["input_ids"])
    assert record.layers.shape == (2, first, 16)
    torch.testing.assert_close(record.layers.mean(0), record.rationale[:first])


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("options", [{}, TOKENS_ALONE, LINEAR, BRANCH], ids=str)
def test_part_and_join_are_inverse(family, count, options):
    record = record_of(make_pair(family, mistakes_from="all", **options), rows=5)
    parts = [record.part(index, count) for index in range(count)]
    assert equal_records(MistakeRecord.join(parts), record)
    for mistakes_from in ("labels", "all"):
        assert sum(part.count_supervised(mistakes_from) for part in parts) == record.count_supervised(mistakes_from)
        assert record.count_supervised(mistakes_from) == record.to_batch().supervised(mistakes_from).sum()
    assert record.count_supervised("all") > record.count_supervised("labels") or family == "t5"


def test_there_are_empty_parts_where_sequences_are_few():
    record = record_of(rows=2)
    parts = [record.part(index, 4) for index in range(4)]
    assert [len(part.lengths) for part in parts] == [0, 1, 0, 1]


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("options", [{}, TOKENS_ALONE, LINEAR, BRANCH], ids=str)
def test_joined_micro_batches_are_the_batch(family, options):
    pair = make_pair(family, random_head=True, **options)
    halves = [batch_of(pair, 2, seed=seed) for seed in (0, 1)]
    joined = MistakeRecord.join([MistakeRecord.from_batch(half, torch.float32) for half in halves])
    weights = [int(half.supervised("labels").sum()) for half in halves]
    expected = sum(pair.copilot_loss(half) * weight for half, weight in zip(halves, weights, strict=True)) / sum(
        weights
    )
    torch.testing.assert_close(pair.copilot_loss(joined.to_batch()), expected)


# ---- the log ----


def test_the_oldest_rounds_go_first():
    log = MistakeLog(max_rounds=3)
    for number in range(5):
        log.append(small_record(number))
    assert log.round_numbers == [2, 3, 4] and len(log) == 3 and log.total_rounds == 5
    assert [int(record.token_ids[0]) for record in log] == [2, 3, 4]
    assert log.nbytes == 3 * small_record().nbytes


def test_bytes_are_bounded():
    one = small_record().nbytes
    log = MistakeLog(max_rounds=100, max_bytes=2 * one + one // 2)
    for number in range(4):
        log.append(small_record(number))
        assert log.nbytes == sum(record.nbytes for record in log) <= log.max_bytes
    assert log.round_numbers == [2, 3]
    log.append(small_record(9, tokens=6))  # a round of twice the size makes both of the others go
    assert [len(record.token_ids) for record in log] == [6]


def test_a_round_larger_than_the_log_is_refused_and_nothing_is_lost():
    log = MistakeLog(max_bytes=small_record().nbytes)
    log.append(small_record(7))
    with pytest.raises(ValueError, match=r"one round takes [\d,]+ bytes, more than the log's `max_bytes` of [\d,]+"):
        log.append(small_record(8, tokens=4))
    assert [int(record.token_ids[0]) for record in log] == [7] and log.total_rounds == 1


def test_every_round_is_drawn_as_often():
    log = MistakeLog()
    for number in range(8):
        log.append(small_record(number))
    generator = torch.Generator().manual_seed(0)
    counts = Counter(int(log.sample(generator).token_ids[0]) for _ in range(4000))
    assert sum((counts[number] - 500) ** 2 / 500 for number in range(8)) < 24.3  # χ² of 7 degrees, 0.1 %
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    assert [int(log.sample(generators[0]).token_ids[0]) for _ in range(9)] == [
        int(log.sample(generators[1]).token_ids[0]) for _ in range(9)
    ]


@pytest.mark.parametrize(("kept", "drawn"), [(0, {None}), (3, {0, 1, 2, None}), (4, {1, 2, 3, None})])
def test_the_round_under_way_is_drawn_as_often_as_those_that_stay(kept, drawn):
    log = MistakeLog(max_rounds=4)
    for number in range(kept):
        log.append(small_record(number))
    generator = torch.Generator().manual_seed(0)
    found = [log.sample_with_next(generator) for _ in range(4000)]
    counts = Counter(None if record is None else int(record.token_ids[0]) for record in found)
    assert set(counts) == drawn
    expected = 4000 / len(drawn)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 16.3  # χ² of 3 degrees, 0.1 %


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_saved_log_comes_back_exactly(tmp_path, family, dtype):
    pair = make_pair(family)
    log = MistakeLog(max_rounds=3, fingerprint={"architecture": "X", "vocab_size": 23})
    for seed in range(5):
        log.append(record_of(pair, seed=seed, dtype=dtype))
    log.skip()
    log.save(tmp_path / "new" / "log.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["log.safetensors"]
    again = MistakeLog.load(tmp_path / "new" / "log.safetensors", max_rounds=3)
    assert all(equal_records(*both) for both in zip(log, again, strict=True))
    for name in ("round_numbers", "total_rounds", "skipped_rounds", "nbytes", "fingerprint"):
        assert getattr(again, name) == getattr(log, name), name
    assert MistakeLog.load(tmp_path / "new" / "log.safetensors", max_rounds=2).round_numbers == [3, 4]


def test_an_empty_log_is_saved_too(tmp_path):
    MistakeLog().save(tmp_path / "log.safetensors")
    assert len(MistakeLog.load(tmp_path / "log.safetensors")) == 0


def test_rounds_that_share_memory_are_saved(tmp_path):
    record, log = record_of(), MistakeLog()
    for part in (record, record, record.part(0, 2), record.part(1, 2)):
        log.append(part)
    log.save(tmp_path / "log.safetensors")
    again = MistakeLog.load(tmp_path / "log.safetensors")
    assert all(equal_records(*both) for both in zip(log, again, strict=True))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    log = MistakeLog()
    log.append(record_of())
    path = tmp_path / "log.safetensors"
    log.save(path)

    def forbidden(*args, **kwargs):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    assert len(MistakeLog.load(path)) == 1
    path.write_bytes(pickle.dumps({"format": "v1"}))
    with pytest.raises(ValueError, match="cannot be read as a Mistake Log"):
        MistakeLog.load(path)


# ---- as a dataset ----


@pytest.mark.parametrize(
    "options", [{"mistake_top_k": None}, {"mistake_top_k": 2}, {"error_feedback": "token"}, LINEAR, BRANCH], ids=str
)
def test_a_row_for_each_token_whose_successor_is_known(options):
    """Rows of lessons are exact, however many tokens a mistake keeps; where the Copilot reads no mistakes, they are
    all that there is."""
    pair = make_pair(**options).train()
    rows, log = reversal_rows(2), MistakeLog()
    batch = collate(rows)
    output = pair(**batch, return_mistakes=True)
    log.append(MistakeRecord.from_batch(output.mistakes, torch.float32), round_number=6)
    dataset = log.to_dataset()
    known = sum(len(row["input_ids"]) - 1 for row in rows)
    labelled = sum(label >= 0 for row in rows for label in row["labels"])
    assert len(dataset) == (known if "mistake_top_k" in options else labelled) and 0 < labelled < known
    assert sum(dataset["supervised"]) == labelled
    probabilities = output.logits.detach().softmax(-1)
    for row in dataset:
        sequence, position = row["sequence"], row["position"]
        p = probabilities[sequence, position]
        true = rows[sequence]["input_ids"][position + 1]
        exact = torch.nn.functional.one_hot(torch.tensor(true), len(p)) - p
        assert row["round"] == 6 and row["token_id"] == rows[sequence]["input_ids"][position]
        assert row["true_token_id"] == true and row["predicted_token_id"] == int(p.argmax())
        assert row["supervised"] == (rows[sequence]["labels"][position + 1] != -100)
        assert row["true_probability"] == pytest.approx(float(p[true]), rel=1e-4)
        assert row["predicted_probability"] == pytest.approx(float(p.max()), rel=1e-4)
        if not row["supervised"] and options["mistake_top_k"] is not None:
            kept = torch.zeros_like(p, dtype=torch.bool).index_fill(0, p.topk(options["mistake_top_k"]).indices, True)
            exact = torch.where(kept.index_fill(0, torch.tensor(true), True), exact, 0.0)
        assert row["mistake_size"] == pytest.approx(float(exact.square().sum()), rel=1e-4)


@pytest.mark.parametrize("make_log", [MistakeLog, lambda: MistakeLog(fingerprint={"a": 1})])
def test_an_empty_log_is_an_empty_dataset(make_log):
    dataset = make_log().to_dataset()
    assert len(dataset) == 0 and "mistake_size" in dataset.column_names


def test_two_logs_are_two_datasets():
    pair, logs = make_pair(), [MistakeLog(), MistakeLog()]
    for seed, log in enumerate(logs):
        log.append(record_of(pair, rows=2 + seed, seed=seed))
    first, second = (log.to_dataset() for log in logs)
    assert first["token_id"][:] != second["token_id"][:] and len(set(second["sequence"])) == 3
