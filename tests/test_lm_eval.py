"""lm-evaluation-harness scores a pair as we do, whatever the batch size, from Python and from its command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedTokenizerBase

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import make_pair, make_pilot
from transformers_copilot.tasks.answering import write_replies


NEW_TOKENS = 6
PROMPTS = ["How old?", "Which of the two is it, then?", "Red", "2 and 3 and 4 are", "So?", "The sum of all", "A b c"]
CHOICES = [" yes", " certainly not", " 7"]


def make_model(family: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """A pair whose Copilot says something, and a tokenizer of bytes."""
    tokenizer = byte_tokenizer()
    room = {} if family == "t5" else {"max_position_embeddings": 256}
    pair = make_pair(pilot=make_pilot(family, vocab_size=len(tokenizer), **room), random_head=True)
    pair.generation_config.pad_token_id = tokenizer.pad_token_id
    return pair.eval(), tokenizer


@torch.no_grad()
def log_likelihood(pair: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, **options: Any) -> float:
    """log p̃ of a target after a prompt, one row without padding."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    target_ids = tokenizer(target, add_special_tokens=False, return_tensors="pt").input_ids
    if pair.config.is_encoder_decoder:
        logits = pair(input_ids=ids, labels=target_ids, **options).logits
    else:
        logits = pair(torch.cat([ids, target_ids], dim=1)[:, :-1], **options).logits[:, -target_ids.shape[1] :]
    return float(logits.log_softmax(-1).gather(-1, target_ids.unsqueeze(-1)).sum())


def own_replies(pair: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> list[str]:
    """Our replies, one prompt at a time, as long as the harness lets them be.

    To an encoder-decoder it gives room for the prompt too, which stands in another part (`max_length` of `generate` is
    prompt and reply), and counts the start token.
    """
    lengths = [len(ids) for ids in tokenizer(PROMPTS).input_ids]
    if not pair.config.is_encoder_decoder:
        limits = [NEW_TOKENS] * len(PROMPTS)
    elif batch_size == 1:
        limits = [length + NEW_TOKENS - 1 for length in lengths]
    else:
        limits = [max(lengths) + NEW_TOKENS - 1] * len(PROMPTS)
    return [write_replies(pair, tokenizer, [prompt], limit)[0] for prompt, limit in zip(PROMPTS, limits, strict=True)]


def write_tasks(folder: Path, replies: list[str]) -> Path:
    """A task of choices and one of replies, of which every other one is right."""
    rows = [
        {"prompt": prompt, "choices": CHOICES, "label": index % 3, "reply": replies[index] if index % 2 else "never"}
        for index, prompt in enumerate(PROMPTS)
    ]
    folder.mkdir(exist_ok=True)
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "target_delimiter": "",
    }
    choice = {
        **common,
        "task": "pair_choices",
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}],
    }
    reply = {
        **common,
        "task": "pair_replies",
        "output_type": "generate_until",
        "doc_to_target": "{{reply}}",
        "generation_kwargs": {"until": ["</s>"], "max_gen_toks": NEW_TOKENS, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    for task in (choice, reply):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder


def evaluate(pair: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, batch_size: int) -> dict[str, Any]:
    backend = "seq2seq" if pair.config.is_encoder_decoder else "causal"
    return simple_evaluate(
        model=HFLM(pretrained=pair, tokenizer=tokenizer, backend=backend, batch_size=batch_size),
        tasks=["pair_choices", "pair_replies"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )


def samples_of(results: dict[str, Any], task: str) -> list[dict[str, Any]]:
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_harness_scores_a_pair_as_we_do(
    family: str, batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pair, tokenizer = make_model(family)
    expected_replies = own_replies(pair, tokenizer, batch_size)
    results = evaluate(pair, tokenizer, write_tasks(tmp_path / "tasks", expected_replies), batch_size)
    right = 0
    for index, sample in enumerate(samples_of(results, "pair_choices")):
        ours = [log_likelihood(pair, tokenizer, PROMPTS[index], choice) for choice in CHOICES]
        theirs = [response[0] for response in sample["filtered_resps"]]
        assert theirs == pytest.approx(ours, abs=1e-4)
        right += max(range(3), key=ours.__getitem__) == index % 3
    assert results["results"]["pair_choices"]["acc,none"] == pytest.approx(right / len(PROMPTS))
    replies = [sample["filtered_resps"][0] for sample in samples_of(results, "pair_replies")]
    assert replies == expected_replies
    assert results["results"]["pair_replies"]["exact_match,none"] == pytest.approx(3 / 7)


def test_the_copilot_counts_in_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pair, tokenizer = make_model("llama")
    folder = write_tasks(tmp_path / "tasks", own_replies(pair, tokenizer, 8))
    together = samples_of(evaluate(pair, tokenizer, folder, 8), "pair_choices")
    pair.config.copilot_weight = 0.0
    alone = samples_of(evaluate(pair, tokenizer, folder, 8), "pair_choices")
    expected = log_likelihood(pair.pilot, tokenizer, PROMPTS[0], CHOICES[0])
    assert alone[0]["filtered_resps"][0][0] == pytest.approx(expected, abs=1e-4)
    assert together[0]["filtered_resps"][0][0] != pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_weight_among_the_settings_of_replies(family: str) -> None:
    """`--gen_kwargs copilot_weight=…`."""
    pair, tokenizer = make_model(family)
    backend = "seq2seq" if family == "t5" else "causal"
    replies = {}
    for name, model, named in (
        ("the Pilot", pair.pilot, {}),
        ("λ = 0", pair, {"copilot_weight": 0}),
        ("λ = 1", pair, {}),
    ):
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        harness = HFLM(pretrained=model, tokenizer=tokenizer, backend=backend, batch_size=2, device="cpu")
        settings = {"until": [], "max_gen_toks": NEW_TOKENS, "do_sample": False, **named}
        requests = [Instance("generate_until", {}, (prompt, settings), index) for index, prompt in enumerate(PROMPTS)]
        replies[name] = harness.generate_until(requests, disable_tqdm=True)
    assert replies["λ = 0"] == replies["the Pilot"] != replies["λ = 1"]


def run_harness(module: str, *arguments: str, home: Path) -> str:
    """Run a command line in a process of its own; the harness's own one is not told where this package lies."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = "" if module == "lm_eval" else str(ROOT)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=home.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "module"),
    [("llama", "transformers_copilot.lm_eval"), ("t5", "transformers_copilot.lm_eval"), ("llama", "lm_eval")],
)
def test_command_line(family: str, module: str, tmp_path: Path) -> None:
    pair, tokenizer = make_model(family)
    pair.save_pretrained(tmp_path / "pair")
    tokenizer.save_pretrained(tmp_path / "pair")
    pair.config.copilot_weight = 0.5  # given to the harness, too
    folder = write_tasks(tmp_path / "tasks", own_replies(pair, tokenizer, 8))
    options = "copilot_weight=0.5" + (",backend=seq2seq" if family == "t5" else "")
    code = ["--trust_remote_code"] if module == "lm_eval" else []  # what the pair was saved with
    printed = run_harness(
        module,
        *("run", "--model", "hf", "--model_args", f"pretrained={tmp_path / 'pair'},{options}", "--device", "cpu"),
        *("--tasks", "pair_choices,pair_replies", "--include_path", str(folder), "--batch_size", "8"),
        *("--output_path", str(tmp_path / "out"), "--log_samples", *code),
        home=tmp_path / "home",
    )
    assert "pair_choices" in printed and "pair_replies" in printed
    (samples,) = (tmp_path / "out").rglob("samples_pair_choices_*.jsonl")
    for line in samples.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        ours = [log_likelihood(pair, tokenizer, PROMPTS[sample["doc_id"]], choice) for choice in CHOICES]
        assert [float(response[0]) for response in sample["filtered_resps"]] == pytest.approx(ours, abs=1e-4)
    (results,) = (tmp_path / "out").rglob("results_*.json")
    scores = json.loads(results.read_text(encoding="utf-8"))["results"]
    assert scores["pair_replies"]["exact_match,none"] == pytest.approx(3 / 7)
