"""The demo Space on a tiny pair: its replies are `generate`'s, and its page works in Chromium."""

import ast
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
from tests.helpers.hostile_tokenizer import hostile_tokenizer
from tests.helpers.paths import ROOT
from transformers_copilot import PilotCopilotForCausalLM


APP = ROOT / "examples" / "space" / "app.py"


def save_pair(where: Path, tokenizer) -> Path:
    """A pair whose Copilot changes what its Pilot would write."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    pilot = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=2, **shape))
    pair = shake(PilotCopilotForCausalLM.from_pilot(pilot, {"num_hidden_layers": 2}), 0.5)
    pair.generation_config.pad_token_id = 0
    pair.save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair"), byte_tokenizer())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A pair that writes scripts and tags."""
    return save_pair(tmp_path_factory.mktemp("hostile"), hostile_tokenizer(23))


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("space_app", APP)
    module = importlib.util.module_from_spec(spec)
    sys.modules["space_app"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def writer(app, folder):
    return app.Writer(str(folder))


def test_both_replies_are_those_of_generate(writer):
    inputs = writer.tokenizer("1+2=", return_tensors="pt")
    for weight, alone in ((1.3, False), (0.0, False), (1.3, True)):
        used = 0.0 if alone else weight
        expected = writer.pair.generate(**inputs, max_new_tokens=9, do_sample=False, copilot_weight=used)
        steps = list(writer.write("1+2=", weight, 9, alone))[-1]
        assert [step.token for step in steps] == expected[0, inputs["input_ids"].shape[1] :].tolist()[: len(steps)]
        assert (weight == 0.0) == all(step.pilot == pytest.approx(step.pair, abs=1e-6) for step in steps)


def test_changed_tokens_are_marked_and_everything_is_escaped(app, writer, hostile):
    for one in (writer, app.Writer(str(hostile))):
        *_, (pilot, pair, compared) = one.both("1+2=", 1.3, 40)
        assert "They part" in compared and "the Pilot wrote" in compared
        for reply in (pilot, pair):
            assert re.search(r'<mark tabindex="0" title="Pilot \d+%, pair \d+%">', reply)
        for made in (pilot, pair, compared):
            assert not re.search(r"<(?!/?(?:mark|div|p|bdi)\b)", made)
    assert "&lt;img src=x onerror" in pilot + pair + compared
    assert list(writer.both(" ", 1.0, 5)) == [("", "", app.said("Write a prompt first."))]


def test_equal_replies_name_the_largest_shift(app, writer):
    """ "The Copilot changed nothing" was said where it had moved probabilities."""
    (first, *_), inputs = list(writer.write("1+2=", 1.3, 1, False))[-1], writer.tokenizer("1+2=", return_tensors="pt")
    with torch.no_grad():
        outputs = writer.pair(**inputs, copilot_weight=1.3)
    before, after = (logits[0, -1].softmax(-1) for logits in (outputs.pilot_logits, outputs.logits))
    assert first.moved == int((after - before).abs().argmax())
    assert (first.before, first.after) == pytest.approx(
        (float(before[first.moved]), float(after[first.moved])), abs=1e-6
    )
    three, five = (writer.tokenizer(text).input_ids[-1] for text in "35")
    steps = [app.Step(three, 0.9, 0.9, three, 0.9, 0.92), app.Step(five, 0.8, 0.7, three, 0.1, 0.25)]
    found = writer.compared(steps, steps, 0.5)
    assert "Both wrote the same" in found and "after “<bdi>3</bdi>”: <bdi>3</bdi> went from 10.0% to 25.0%" in found
    still = [app.Step(five, 0.5, 0.5, five, 0.5, 0.5009)]
    assert "no probability moved by as much as 0.1 points" in writer.compared(still, still, 1.0)
    assert "the Copilot is off" in list(writer.both("1+2=", 0.0, 5))[-1][2]


@pytest.mark.parametrize(
    ("own", "largest", "step"),
    [(3.0, 6.0, 0.1), (0.8, 1.6, 0.1), (0.25, 0.5, 0.01), (12.0, 20.0, 1.0), (0.0, 2.0, 0.1)],
)
def test_the_range_of_the_weight_is_twice_the_pairs_own(app, own, largest, step):
    assert app.weight_range(own) == pytest.approx((largest, step))
    most, step = app.weight_range(1 / 3)
    assert most == pytest.approx(2 / 3) and step == pytest.approx(0.001)


def test_no_sentence_tells_a_side():
    """Panes are stacked on a phone, where there is no left and no right."""
    tree = ast.parse(APP.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if not (isinstance(node, ast.Assign) and node.targets[0].id == "EXAMPLES")]
    texts = [one.value for node in kept for one in ast.walk(node) if isinstance(one, ast.Constant)]
    assert not [text for text in texts if isinstance(text, str) and re.search(r"\b(left|right)\b", text)]


def test_what_cannot_be_shown_is_said_in_one_line(app, folder, tmp_path, monkeypatch, capsys):
    def refused(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["app.py", *words])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        assert stopped.value.code == 1
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("app.py: error: ") and not [line for line in said if "Traceback" in line]
        return said[-1]

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "pip install 'gradio>=6,<7'" in refused(str(folder))
    monkeypatch.setattr(app, "find_spec", lambda name: name)
    assert str(tmp_path / "none") in refused(str(tmp_path / "none"))
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=12, **shape)).save_pretrained(tmp_path / "plain")
    assert "LlamaForCausalLM and no pair" in refused(str(tmp_path / "plain"))


@pytest.mark.slow
def test_the_page_in_chromium(hostile, tmp_path):
    """It is written on a phone, too; λ writes anew; and what a model writes stays text."""
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
    server = subprocess.Popen([sys.executable, APP, hostile, "--port", str(port)], env=environment)
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for switch in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run"):
        options.add_argument(f"--{switch}")
    browser = None
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, server)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
        for width in (1100, 390):
            size = {"width": width, "height": 1100, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            write_and_move(browser, f"http://127.0.0.1:{port}", server)
    finally:
        if browser is not None:
            browser.quit()
        server.terminate()
        server.wait(20)


def write_and_move(browser, address: str, server) -> None:
    """Press the button, then move λ to its end; look at what is shown each time."""
    from selenium.webdriver.common.keys import Keys

    def one(selector: str):
        return browser.find_element("css selector", selector)

    browser.get(address)
    wait_for(lambda: browser.find_elements("css selector", "#write"), server)

    def answered() -> bool:  # a button that stands there may not listen yet
        if not browser.find_elements("css selector", "#said .said"):
            one("#write").click()
            return False
        return "They part" in one("#said").text

    wait_for(answered, server)
    assert re.fullmatch(r"Pilot \d+%, pair \d+%", one(".reply mark").get_attribute("title"))
    told = one("#said").text
    assert "They part" in told and not re.search(r"\b(left|right)\b", told)
    foreign = ", ".join(
        f"#{name} {tag}" for name in ("pilot", "pair", "said") for tag in ("img", "script", "[onerror]")
    )
    assert browser.execute_script(f"return document.querySelectorAll('{foreign}').length") == 0
    assert "<img src=x onerror" in one("#pilot").text + one("#pair").text
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    slider = one("#weight input[type=range]")
    assert (float(slider.get_attribute("min")), float(slider.get_attribute("max"))) == (0.0, 2.0)
    slider.send_keys(Keys.HOME)
    wait_for(lambda: "the Copilot is off" in one("#said").text, server)


def wait_for(happened, server, seconds: float = 240.0) -> None:
    """Until something happened, or the server died, or time is up."""
    until = time.monotonic() + seconds
    while not happened():
        assert server.poll() is None, f"the app ended with {server.returncode}"
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.5)
