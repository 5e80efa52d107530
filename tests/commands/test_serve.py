"""`transformers-copilot serve`: a real server process, the `openai` client, and `transformers chat`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import PreTrainedModel
from transformers.cli.serve import Serve

from tests.conftest import TINY, build_pair, build_pilot
from tests.helpers.byte_tokenizer import byte_tokenizer
from transformers_copilot.commands import pair_server
from transformers_copilot.commands.main import main
from transformers_copilot.commands.pair_server import PairServe


TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def start(*words: str) -> tuple[subprocess.Popen[bytes], str]:
    """A server's process and its address, once it answers; `words` stand behind `python -m`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = (*words, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu")
    process = subprocess.Popen([sys.executable, "-m", *words])
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
    process, address = start("transformers_copilot", "serve", pair_folder[0])
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


def test_completions(client: Any, pair_folder: tuple[str, PreTrainedModel]) -> None:
    folder, pair = pair_folder
    for weight in (0.0, 1.0):  # the text as it is, without the chat template
        prompt = "user: hello\nassistant:"
        answer = client.completions.create(model=folder, prompt=prompt, extra_body=settings(weight))
        assert answer.choices[0].text == expected(pair, "hello", copilot_weight=weight)


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
    process, address = start("transformers_copilot", "serve", pair_folder[0], "--continuous_batching")
    try:
        with pytest.raises(openai.APIStatusError, match="continuous batching"):
            ask(openai.OpenAI(base_url=address, api_key="none", max_retries=0), pair_folder[0], "hello", 1.0)
    finally:
        process.terminate()
        process.wait(20)


def test_transformers_own_chat_talks_to_a_pair(client: Any, pair_folder: tuple[str, PreTrainedModel], tmp_path: Path):
    folder, _ = pair_folder
    # A flag that a plain `GenerationConfig` doesn't have is left out by the client, if no file has it.
    (tmp_path / "own.json").write_text('{"copilot_weight": 0.25}')
    flags = ["copilot_weight=1.0", "max_new_tokens=12", "do_sample=False"]
    command = [str(Path(sys.executable).with_name("transformers")), "chat", folder, str(client.base_url), *flags]
    done = subprocess.run(
        [*command, "--generation-config", "./own.json", "--user", "me"],
        input="hello\nno\n!exit\n",  # and no, it is not to go on at the limit of tokens
        cwd=tmp_path,
        # The client refuses any server in the Hub's offline mode.
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = done.stdout.partition(f"<{folder}>:")[2].partition("tokens in")[0]
    words = re.findall(r"[A-Za-z0-9]+", ask(client, folder, "hello", 1.0))
    assert words and re.findall(r"[A-Za-z0-9]+", answer) == [*words, "12"]  # and 12 is how many tokens they are


def test_the_server_with_transformers_own_options(pair_folder: tuple[str, PreTrainedModel], tmp_path: Path):
    folder, pair = pair_folder
    pair.pilot.save_pretrained(tmp_path / "plain")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "plain")
    process, address = start("transformers_copilot.serve", "--enable-cors", "--model-timeout", "600")
    try:
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
        assert ask(client, folder, "hello", 1.0) == expected(pair, "hello", copilot_weight=1.0)
        plain = {"generation_config": json.dumps({"max_new_tokens": 12, "do_sample": False})}
        messages: Any = [{"role": "user", "content": "hello"}]
        answer = client.chat.completions.create(model=str(tmp_path / "plain"), messages=messages, extra_body=plain)
        assert answer.choices[0].message.content == expected(pair.pilot, "hello")
    finally:
        process.terminate()
        process.wait(20)


def test_every_option_of_transformers_server_is_known_here() -> None:
    """A release that adds one must be looked at: what isn't named would go to continuous batching."""
    own = [parameter for parameter in signature(PairServe._application).parameters if parameter != "of_batching"]
    theirs = [name for name in signature(Serve).parameters if not name.startswith("cb_")]
    assert sorted([*own, *pair_server._OF_PROCESS]) == sorted(["self", *theirs])


def test_what_is_no_pair_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_pilot(*TINY["llama"]).save_pretrained(tmp_path / "plain")
    assert main(["serve", str(tmp_path / "plain")]) == 1
    assert "is a llama model and no pair that continues a text" in capsys.readouterr().err
    assert main(["serve", "x", "--prot", "8000"]) == 2
    assert "did you mean --port?" in capsys.readouterr().err
