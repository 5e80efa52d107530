"""What a command of recording reads."""

import json

import pytest

from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.training_helpers import make_pilot


@pytest.fixture
def folder(tmp_path):
    """A folder with a Pilot and data, of which 36 rows are trained on."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path / "pilot")
    ends = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    make_pilot("llama", **ends, eos_token_id=tokenizer.eos_token_id).save_pretrained(tmp_path / "pilot")
    lines = [json.dumps({"prompt": f"{n}+1=", "target": f" {n + 1}"}) + "\n" for n in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    return tmp_path
