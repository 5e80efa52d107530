"""`examples/push_and_pull.py`, run as a user runs it, against the tests' Hub."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tests.conftest import TINY, build_pair, build_pilot
from tests.helpers.hub_fixtures import Hub, run_in_process
from tests.helpers.paths import ROOT


EXAMPLE = ROOT / "examples" / "push_and_pull.py"


def test_a_pair_is_pushed_and_pulled(hub: Hub, tmp_path: Path, tokenizer: PreTrainedTokenizerFast):
    folder = tmp_path / "pair"
    build_pair(build_pilot(*TINY["llama"]), copilot={"num_hidden_layers": 2}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    arguments = ["--pair", str(folder), "--repo", hub.repo("pair"), "--private", "--prompt", "w5 w9 w7"]
    ran = run_in_process(EXAMPLE, hub, tmp_path / "home", arguments=arguments)
    assert "the pulled pair is the pushed one" in ran.output
    files = hub.files(hub.repo("pair"))
    for name, data in files.items():
        assert f"{len(data):>12,}  {name}\n" in ran.output
    assert hub.commits(hub.repo("pair"))[-1][0] in ran.output
    assert hub.store.repos["models", hub.repo("pair")].private and hub.token not in ran.output
