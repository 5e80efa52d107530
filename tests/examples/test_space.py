"""The demo Space on a tiny pair: its replies are `generate`'s, and its page works in Chromium."""

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.conftest import shake
from tests.helpers.byte_tokenizer import byte_tokenizer
from tests.helpers.paths import ROOT
from transformers_copilot import PilotCopilotForCausalLM


APP = ROOT / "examples" / "space" / "app.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pair whose Copilot changes what its Pilot would write."""
    where, tokenizer = tmp_path_factory.mktemp("pair"), byte_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    pilot = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=2, **shape))
    pair = shake(PilotCopilotForCausalLM.from_pilot(pilot, {"num_hidden_layers": 2}), 0.5)
    pair.generation_config.pad_token_id = 0
    pair.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def writer(folder):
    spec = importlib.util.spec_from_file_location("space_app", APP)
    app = importlib.util.module_from_spec(spec)
    sys.modules["space_app"] = app
    spec.loader.exec_module(app)
    return app.Writer(str(folder))


def test_both_replies_are_those_of_generate(writer):
    inputs = writer.tokenizer("1+2=", return_tensors="pt")
    for weight, alone in ((1.3, False), (0.0, False), (1.3, True)):
        used = 0.0 if alone else weight
        expected = writer.pair.generate(**inputs, max_new_tokens=9, do_sample=False, copilot_weight=used)
        steps = list(writer.write("1+2=", weight, 9, alone))[-1]
        assert [step.token for step in steps] == expected[0, inputs["input_ids"].shape[1] :].tolist()[: len(steps)]
        assert (weight == 0.0) == all(step.pilot == pytest.approx(step.pair, abs=1e-6) for step in steps)


def test_changed_tokens_are_marked_and_everything_is_escaped(writer):
    *_, (left, right, said) = writer.both("1+2=", 1.3, 9)
    assert "Marked tokens are other" in said
    for reply in (left, right):
        assert re.search(r'<mark tabindex="0" title="Pilot \d+%, pair \d+%">', reply)
        assert not re.search(r"<(?!/?(?:mark|div)\b)", reply)
    assert list(writer.both("1+2=", 0.0, 5))[-1][2] == "The Copilot changed nothing."
    assert list(writer.both(" ", 1.0, 5)) == [("", "", "Write a prompt first.")]


@pytest.mark.slow
def test_the_page_in_chromium(folder, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed (examples/space/requirements.txt)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("no `chromium` with `chromedriver` on the path")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(APP.parents[2]), "HF_HUB_OFFLINE": "1", "NO_PROXY": "*"}
    environment |= {"GRADIO_ANALYTICS_ENABLED": "False", "HOME": str(tmp_path)}
    server = subprocess.Popen([sys.executable, APP, folder, "--port", str(port)], env=environment)
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "window-size=1100,1100"):
        options.add_argument(f"--{switch}")
    browser = None
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, server)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
        browser.get(f"http://127.0.0.1:{port}")
        wait_for(lambda: browser.find_elements("css selector", "#write"), server)
        browser.find_element("css selector", "#write").click()
        wait_for(lambda: browser.find_elements("css selector", "#pair mark"), server)
        assert browser.find_elements("css selector", "#pilot mark")
        title = browser.find_element("css selector", "#pair mark").get_attribute("title")
        assert re.fullmatch(r"Pilot \d+%, pair \d+%", title)
        browser.save_screenshot(str(tmp_path / "space.png"))
    finally:
        if browser is not None:
            browser.quit()
        server.terminate()
        server.wait(20)


def wait_for(happened, server, seconds: float = 240.0) -> None:
    """Until something happened, or the server died, or time is up."""
    until = time.monotonic() + seconds
    while not happened():
        assert server.poll() is None, f"the app ended with {server.returncode}"
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.5)
