"""`transformers-copilot merge`: a folder that a process without this package loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.pair.test_copilot_forms import FORMS, moved
from transformers_copilot import PilotCopilotForCausalLM
from transformers_copilot.commands.main import main


_PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = AutoTokenizer.from_pretrained(sys.argv[1])("1+1=", return_tensors="pt").input_ids
written = model.generate(ids, max_new_tokens=8, do_sample=False)
assert not any(name.startswith("transformers_copilot") for name in sys.modules)
print(type(model).__name__, *written[0].tolist())
"""


def save_pair(folder: Path, form: str, weight: float) -> list[int]:
    """A pair in a folder; what it writes."""
    tokenizer = byte_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    pilot = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **ends))
    pair = moved(PilotCopilotForCausalLM.from_pilot(pilot, FORMS[form], copilot_weight=weight).eval())
    pair.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = tokenizer("1+1=", return_tensors="pt").input_ids
    return pair.generate(ids, max_new_tokens=8, do_sample=False)[0].tolist()


@pytest.mark.parametrize(("form", "weight"), [("linear", 0.5), ("branch of 2", 1.0)])
def test_a_plain_process_writes_what_the_pair_writes(form: str, weight: float, tmp_path: Path, capsys):
    expected = save_pair(tmp_path / "pair", form, weight)
    assert main(["merge", str(tmp_path / "pair"), "--output_dir", str(tmp_path / "merged")]) == 0
    assert "LlamaForCausalLM" in capsys.readouterr().out
    words = [sys.executable, "-c", _PLAIN, str(tmp_path / "merged")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["LlamaForCausalLM", *map(str, expected)]


def test_what_can_not_be_merged_is_said_without_a_traceback(tmp_path: Path, capsys):
    save_pair(tmp_path / "pair", "branch of 2", 0.5)
    words = ["merge", str(tmp_path / "pair"), "--output_dir", str(tmp_path / "merged")]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "λ) is 0.5" in error and "Traceback" not in error and not (tmp_path / "merged").exists()
    assert main([*words, "--copilot_weight", "1.0"]) == 0
    assert main(words) == 1
    assert "not empty" in capsys.readouterr().err
