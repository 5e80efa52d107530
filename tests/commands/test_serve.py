"""`transformers-copilot serve`: a real server process, and the `openai` client."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import PreTrainedModel

from tests.conftest import TINY, build_pair, build_pilot
from tests.helpers.byte_tokenizer import byte_tokenizer


TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def start(folder: str, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """A server's process and its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", *options]
    process = subprocess.Popen([sys.executable, "-m", "transformers_copilot", *words])
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            return process, f"http://127.0.0.1:{port}/v1"
        except OSError:
            assert process.poll() is None, "the server stopped"
            time.sleep(0.2)
    process.kill()
    raise TimeoutError("the server gives no answer")


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, PreTrainedModel]:
    config_class, fields = TINY["llama"]
    pair = build_pair(build_pilot(config_class, {**fields, "vocab_size": 259}))
    folder: Path = tmp_path_factory.mktemp("serve") / "pair"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    pair.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), pair


@pytest.fixture(scope="module")
def client(pair_folder: tuple[str, PreTrainedModel]) -> Iterator[Any]:
    process, address = start(pair_folder[0])
    yield openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    process.terminate()
    process.wait(20)


def settings(weight: float) -> dict[str, str]:
    return {"generation_config": json.dumps({"copilot_weight": weight, "max_new_tokens": 12, "do_sample": False})}


def ask(client: Any, folder: str, text: str, weight: float) -> str:
    messages = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(model=folder, messages=messages, extra_body=settings(weight))
    return answer.choices[0].message.content


def expected(model: PreTrainedModel, text: str, **options: Any) -> str:
    tokenizer = byte_tokenizer()
    inputs = tokenizer(f"user: {text}\nassistant:", return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False, **options)
    return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_chat_takes_a_weight_per_request(client: Any, pair_folder: tuple[str, PreTrainedModel]) -> None:
    folder, pair = pair_folder
    assert ask(client, folder, "hello", 0.0) == expected(pair.pilot, "hello")
    assert ask(client, folder, "hello", 1.0) == expected(pair, "hello", copilot_weight=1.0)
    assert expected(pair.pilot, "hello") != expected(pair, "hello", copilot_weight=1.0)


def test_a_stream_is_the_same_text(client: Any, pair_folder: tuple[str, PreTrainedModel]) -> None:
    folder, _ = pair_folder
    messages = [{"role": "user", "content": "hello"}]
    pieces = client.chat.completions.create(model=folder, messages=messages, stream=True, extra_body=settings(1.0))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    # The server's stream ends before a character that is cut in its middle.
    assert text.rstrip("\ufffd") == ask(client, folder, "hello", 1.0).rstrip("\ufffd")


def test_responses(client: Any, pair_folder: tuple[str, PreTrainedModel]) -> None:
    folder, _ = pair_folder
    answer = client.responses.create(model=folder, input="hello", stream=False, extra_body=settings(1.0))
    assert answer.output_text == ask(client, folder, "hello", 1.0)


def test_eight_requests_at_once_are_those_one_by_one(client: Any, pair_folder: tuple[str, PreTrainedModel]) -> None:
    folder, _ = pair_folder
    asked = [(f"text {index}", float(index % 2)) for index in range(8)]
    serial = [ask(client, folder, *one) for one in asked]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: ask(client, folder, *one), asked)) == serial


def test_an_unknown_model_is_named(client: Any) -> None:
    with pytest.raises(openai.APIStatusError) as refusal:
        ask(client, "no-such-model", "hello", 1.0)
    assert "no-such-model" in refusal.value.response.text


def test_continuous_batching_is_refused_with_the_reason(pair_folder: tuple[str, PreTrainedModel]) -> None:
    process, address = start(pair_folder[0], "--continuous_batching")
    try:
        with pytest.raises(openai.APIStatusError, match="continuous batching"):
            ask(openai.OpenAI(base_url=address, api_key="none", max_retries=0), pair_folder[0], "hello", 1.0)
    finally:
        process.terminate()
        process.wait(20)
