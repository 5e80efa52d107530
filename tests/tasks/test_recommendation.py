"""Recommendation: leave-one-out, prompts, and beams over valid items only."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.training_helpers import make_pair, make_pilot
from transformers_copilot import tasks
from transformers_copilot.tasks.catalogue import SEQUENCE_TASKS


USERS = [
    {"user": 1, "items": [4, 9, 12, 7, 30]},
    {"user": 2, "items": [9, 4, 30]},
    {"user": 3, "items": [1, 2, 3, 4, 5, 6]},
]


def write_users(folder: Path, rows: list, name: str = "lastfm") -> Path:
    path = folder / "recommendation" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_leave_one_out(tmp_path: Path) -> None:
    task = tasks.load("lastfm", data_dir=write_users(tmp_path, USERS))
    assert {split: len(rows) for split, rows in task.dataset.items()} == {"train": 5, "dev": 3, "test": 3}
    assert task.dataset["test"]["answer"][:] == ["30", "30", "6"]
    assert task.dataset["dev"]["answer"][:] == ["7", "4", "5"]
    assert task.dataset["train"]["answer"][:] == ["9", "12", "2", "3", "4"]
    test = task.dataset["test"][0]
    assert test["prompt"] == (
        "user_1 has interacted with LastFM items item_4, item_9, item_12, item_7. "
        "What is the next recommendation for the user?"
    )
    assert test["target"] == " LastFM item_30" and task.extract_answer(test["target"]) == "30"
    assert (task.group, task.test_size, task.left_out["either"], task.dev_from_train) == ("recommendation", 3, 0, False)
    assert task.items == ("4", "9", "12", "7", "30", "1", "2", "3", "5", "6")
    ids = [row["id"] for split in task.dataset.values() for row in split]
    assert len(set(ids)) == len(ids)


def test_histories_and_training_targets_can_be_chosen(tmp_path: Path) -> None:
    write_users(tmp_path, USERS, "beauty")
    task = tasks.load("beauty", data_dir=tmp_path, max_history=2, train_targets="last")
    assert task.dataset["train"]["answer"][:] == ["12", "4"], "user 2 has one item only that trains"
    assert "Beauty items item_12, item_7. What" in task.dataset["test"][0]["prompt"]
    whole = tasks.load("beauty", data_dir=tmp_path, max_history=None)
    assert "item_1, item_2, item_3, item_4, item_5. What" in whole.dataset["test"][2]["prompt"]
    for options in ({"max_history": 0}, {"train_targets": "some"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            tasks.load("beauty", data_dir=tmp_path, **options)
    with pytest.raises(ValueError, match="`train_tasks` is for tasks of questions"):
        tasks.load("beauty", data_dir=tmp_path, train_tasks=("lastfm",))


def test_a_test_prompt_that_stands_in_train_is_left_out(tmp_path: Path) -> None:
    write_users(tmp_path, [{"user": 1, "items": [5, 5, 5, 5, 5]}, {"user": 2, "items": [1, 2, 3, 4, 5]}])
    task = tasks.load("lastfm", data_dir=tmp_path, max_history=1)
    assert task.left_out == {"train": 1, "dev": 1, "either": 1} and task.test_size == 2
    assert task.dataset["test"]["id"][:] == ["2-4"]


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*recommendation/lastfm\.jsonl"):
        tasks.load("lastfm", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="lastfm has no usual data set on the Hub"):
        tasks.load("lastfm")


def test_data_set_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    own = tmp_path / "own"
    own.mkdir()
    (own / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in USERS))
    task = tasks.load("lastfm", dataset_name=str(own))
    assert task.dataset["test"]["answer"][:] == ["30", "30", "6"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"user": 9}, "needs an object with `user` and a list `items`"),
        ([1, 2, 3], "expected an object"),
        ({"user": 9, "items": "1 2 3"}, "a list `items`"),
        ({"user": 9, "items": [1, 2, 3.5]}, "3.5 is no id"),
        ({"user": 9, "items": [1, 2, "a b"]}, "'a b' is no id"),
        ({"user": True, "items": [1, 2, 3]}, "True is no id"),
        ({"user": 9, "items": [1, 2]}, "user 9 has 2 items"),
        ({"user": "1", "items": [1, 2, 3]}, "user 1 stands in an earlier line"),
    ],
)
def test_malformed_users_are_refused_with_their_line(tmp_path: Path, row: Any, message: str) -> None:
    write_users(tmp_path, [USERS[0], row])
    with pytest.raises(ValueError, match=message) as error:
        tasks.load("lastfm", data_dir=tmp_path)
    assert "lastfm.jsonl, line 2: " in str(error.value)


def test_users_without_an_item_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 users, but none with an item to train on"):
        tasks.load("lastfm", data_dir=write_users(tmp_path, USERS[1:2]))


def test_trie_allows_what_goes_on_and_then_ends() -> None:
    trie = tasks.TargetTrie([[5, 6], [5, 7, 8], [5, 6, 9]], end_token=2)
    assert sorted(trie.allowed([])) == [5] and sorted(trie.allowed([5])) == [6, 7]
    assert sorted(trie.allowed([5, 6])) == [2, 9] and trie.allowed([5, 7, 8]) == [2]
    assert trie.allowed([5, 6, 2]) == [2] and trie.allowed([4]) == [2]
    assert (trie.longest, trie.count) == (4, 3)
    allowed = trie.prefix_allowed_tokens_fn(prompt_length=2)
    assert sorted(allowed(0, torch.tensor([8, 8, 5]))) == [6, 7]
    for wrong in ([], [[]]):
        with pytest.raises(ValueError, match="target"):
            tasks.TargetTrie(wrong, end_token=2)
    with pytest.raises(ValueError, match="prompt_length"):
        trie.prefix_allowed_tokens_fn(-1)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_beams_hold_every_valid_item_and_nothing_else(tmp_path: Path, family: str) -> None:
    task = tasks.load("lastfm", data_dir=write_users(tmp_path, USERS))
    tokenizer = byte_tokenizer()
    room = {"max_position_embeddings": 256} if family == "llama" else {}
    pair = make_pair(pilot=make_pilot(family, vocab_size=len(tokenizer), **room), random_head=True)
    trie, count = task.target_trie(tokenizer), len(task.items)
    batch = tokenizer(task.dataset["test"]["prompt"][:2], padding=True, return_tensors="pt")
    prompt_length = 1 if pair.config.is_encoder_decoder else batch["input_ids"].shape[1]
    written = pair.eval().generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        num_beams=count,
        num_return_sequences=count,
        max_new_tokens=trie.longest,
        do_sample=False,
        prefix_allowed_tokens_fn=trie.prefix_allowed_tokens_fn(prompt_length),
    )
    replies = tokenizer.batch_decode(written[:, prompt_length:], skip_special_tokens=True)
    assert set(replies) == {SEQUENCE_TASKS["lastfm"].target_of(item) for item in task.items}
    ranked = [[task.extract_answer(reply) for reply in replies[row * count : (row + 1) * count]] for row in range(2)]
    assert all(sorted(items) == sorted(task.items) for items in ranked)
    scores = task.metric.compute(predictions=ranked, references=task.dataset["test"]["answer"][:2])
    assert scores["hit_at_10"] == 1.0 and 0.0 < scores["ndcg_at_100"] <= 1.0


def test_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    task = tasks.load("lastfm", data_dir=write_users(tmp_path, USERS))
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        task.target_trie(tokenizer)
