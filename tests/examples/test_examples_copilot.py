"""The examples of a Copilot alone, of adapters and of transfer, run as a user runs them, on models of seconds."""

import json
from pathlib import Path

import copilot_alone
import lora
import pytest
import transfer_copilot
from sum_questions import SumStream
from transformers.utils import logging

from tests.helpers.hub_fixtures import Hub, run_in_process
from tests.helpers.paths import ROOT
from transformers_copilot import PilotCopilotForCausalLM


EXAMPLES = ROOT / "examples"
SIZES = ("--copilot_layers", "2", "--pilot_layers", "1", "--copilot_steps", "1")
SMALL = (*SIZES, "--steps", "2", "--test_questions", "20", "--dev_questions", "20")


@pytest.fixture(autouse=True)
def quiet_only_here():
    """The examples make transformers quiet, which later tests must not be."""
    level = logging.get_verbosity()
    yield
    logging.set_verbosity(level)


def test_a_copilot_serves_another_pilot(tmp_path, capsys):
    transfer_copilot.main(["--quick", *SIZES, "--output_dir", str(tmp_path), "--seed", "3"])
    printed = capsys.readouterr().out
    for source, target in ((3, 4), (4, 3)):
        results = json.loads((tmp_path / f"results-{source}-to-{target}.json").read_text())
        transferred = f"Pilot {target} + Copilot of Pilot {source}"
        names = [f"Pilot {target} alone", f"Pilot {target} + its own Copilot"]
        assert set(results["models"]) == {*names, transferred} and set(results["gains"]) == set(names)
        assert all(model["total"] == 40 for model in results["models"].values())
        weights = {name: model["weights"] for name, model in results["models"].items()}
        assert weights[transferred] == weights[names[1]] > weights[names[0]]
        for name in names:
            gain = results["gains"][name]
            assert gain["low"] <= gain["difference"] <= gain["high"]
            assert f"{transferred} over {name}" in printed
        assert 0.0 <= results["copilot_weight"]["transferred"] <= 20.0
        assert (tmp_path / f"copilot-{source}" / "pairing.json").is_file()


def test_the_second_pilots_questions_are_of_another_seed_and_never_asked():
    options = transfer_copilot.parse_arguments(["--quick", "--seed", "3", "--test_questions", "60"])
    demo = transfer_copilot.Demo(options)
    questions = transfer_copilot.fresh_questions(demo, options.other_seed)
    prompts = {question.prompt for question in questions}
    assert options.other_seed == 4 and len(questions) == len(prompts) == options.steps * transfer_copilot.BATCH_SIZE
    assert not prompts & {question.prompt for question in [*demo.test, *demo.dev]}
    assert prompts != {question.prompt for question in SumStream(3).take(len(questions))}


@pytest.mark.parametrize("quantize", [False, True])
def test_adapters_are_trained_saved_loaded_and_merged(tmp_path, capsys, quantize):
    if quantize:
        pytest.importorskip("torchao")
    lora.main([*SMALL, "--output_dir", str(tmp_path), *(["--quantize"] if quantize else [])])
    printed = capsys.readouterr().out
    assert "the loaded adapters answer as before" in printed
    assert "pilot_adapter/adapter_model.safetensors" in printed and "copilot_adapter/adapter_config.json" in printed
    merged = PilotCopilotForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.adapters is None and merged.pilot.config.num_hidden_layers == 1


def test_adapters_are_pushed_and_pulled(hub: Hub, tmp_path: Path):
    given = [*SMALL, "--output_dir", str(tmp_path / "out"), "--namespace", hub.user]
    ran = run_in_process(EXAMPLES / "lora.py", hub, tmp_path / "home", arguments=given)
    assert "the loaded adapters answer as before" in ran.output
    commit = hub.commits(hub.repo("sums-base"))[-1][0]
    assert f"was trained beside {hub.repo('sums-base')}: loading that Pilot at revision {commit}" in ran.output
    files = hub.files(hub.repo("sums-adapters"))
    assert json.loads(files["pairing.json"])["pilot_revision"] == commit
    assert {"pilot_adapter/adapter_model.safetensors", "copilot_adapter/adapter_model.safetensors"} <= set(files)
    assert "README.md" in files and "model.safetensors" not in files
    assert not any(data.count(str(tmp_path).encode()) for data in files.values()) and hub.token not in ran.output


def test_a_copilot_is_published_without_its_pilot(hub: Hub, tmp_path: Path):
    given = [*SMALL, "--output_dir", str(tmp_path / "out"), "--namespace", hub.user, "--private"]
    ran = run_in_process(EXAMPLES / "copilot_alone.py", hub, tmp_path / "home", arguments=given)
    assert "20 of 20 answers are as before" in ran.output
    commit = hub.commits(hub.repo("sums-pilot"))[-1][0]
    assert f"was trained beside {hub.repo('sums-pilot')}: loading that Pilot at revision {commit}" in ran.output
    files = hub.files(hub.repo("sums-copilot"))
    assert json.loads(files["pairing.json"])["pilot_revision"] == commit
    assert f"base_model: {hub.repo('sums-pilot')}" in files["README.md"].decode()
    assert f"{len(files['copilot.safetensors']):>12,}  copilot.safetensors\n" in ran.output
    assert not any(data.count(str(tmp_path).encode()) for data in files.values()) and hub.token not in ran.output


def test_a_copilot_is_kept_in_a_folder(tmp_path, capsys):
    copilot_alone.main([*SMALL, "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "20 of 20 answers are as before" in printed
    assert (tmp_path / "copilot" / "copilot.safetensors").is_file()
