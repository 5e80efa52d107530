"""A Copilot's own repository: pushed, joined to the Pilot that it names, and all that can go wrong on the way."""

import json
from pathlib import Path

import pytest

from tests.helpers.hub_fixtures import Hub, Ran, run_in_process


PUSH = """
import os, torch
from tests.conftest import TINY, build_pilot, make_tokenizer, shake
from tests.helpers.hub_pairs import keep
from transformers_copilot import CardFacts, CardResult, PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM

user, words = os.environ["HUB_USER"], make_tokenizer()
for name, family, pair_class in (("llama", "llama", PilotCopilotForCausalLM), ("t5", "t5", PilotCopilotForSeq2SeqLM)):
    pilot = build_pilot(*TINY[family])
    pilot.push_to_hub(f"{user}/{name}")
    words.push_to_hub(f"{user}/{name}")
    pair = shake(pair_class.from_pilot(f"{user}/{name}", {"num_hidden_layers": 2}, head="pilot")).eval()
    pair.config.copilot_weight = 0.5
    pair.config.copilot_weight_fit = {"weight": 0.5, "method": "grid", "criterion": "loss", "set_size": 40,
                                      "set_name": os.path.abspath("held-out.jsonl"), "scores": {}}
    pair.card_facts = CardFacts(results=[CardResult("sums", "accuracy", 200, 0.25, 0.5, gain_interval=(0.1, 0.4))])
    pair.push_copilot_to_hub(f"{user}/{name}-copilot", private=name == "llama", tokenizer=words)
    keep(pair, f"{name}.safetensors")
build_pilot(*TINY["llama"], seed=4).push_to_hub(f"{user}/llama")  # the Pilot's main branch goes on
report(pilot=[pair.config.pilot_name_or_path, pair.config.pilot_revision])
"""

JOIN = """
import os, logging, torch
from tests.helpers.hub_pairs import difference
from transformers_copilot import PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM

user, folder = os.environ["HUB_USER"], os.environ["PUSHED"]
pair = PilotCopilotForCausalLM.from_copilot(f"{user}/llama-copilot")
seq2seq = PilotCopilotForSeq2SeqLM.from_copilot(f"{user}/t5-copilot", dtype=torch.float32)
commit = pair.config.pilot_revision
same = PilotCopilotForCausalLM.from_pilot(f"{user}/llama", copilot=f"{user}/llama-copilot", revision=commit)
print("--- of another commit ---", file=sys.stderr)
later = PilotCopilotForCausalLM.from_pilot(f"{user}/llama", copilot=f"{user}/llama-copilot")
report(
    llama=difference(pair, f"{folder}/llama.safetensors"), t5=difference(seq2seq, f"{folder}/t5.safetensors"),
    same=difference(same, f"{folder}/llama.safetensors"), later=difference(later, f"{folder}/llama.safetensors"),
    weight=[pair.config.copilot_weight, pair.config.copilot_weight_fit["set_size"]], commit=commit,
    tokenizer_only=error_of(PilotCopilotForCausalLM.from_pilot, f"{user}/other-words", f"{user}/llama-copilot"),
)
"""


@pytest.fixture(scope="module")
def pushed(hub_server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Hub, Path, Ran]:
    """Two Pilots and the Copilots trained beside them, pushed once for every test here."""
    hub, home = Hub(hub_server, "copilots"), tmp_path_factory.mktemp("push")
    return hub, home, run_in_process(PUSH, hub, home, HUB_USER=hub.user)


def test_a_copilot_is_joined_to_the_pilot_that_it_names(pushed: tuple[Hub, Path, Ran], tmp_path: Path):
    hub, folder, _ = pushed
    words = hub.files(hub.repo("llama"))
    swapped = words["tokenizer.json"].replace(b'"w5"', b'"w_"').replace(b'"w6"', b'"w5"').replace(b'"w_"', b'"w6"')
    hub.put(hub.repo("other-words"), {**words, "tokenizer.json": swapped})
    ran = run_in_process(JOIN, hub, tmp_path, HUB_USER=hub.user, PUSHED=str(folder))
    found = ran.values
    assert found["llama"] is None and found["t5"] is None and found["same"] is None, found
    assert found["later"] is not None, "another commit of the Pilot answers otherwise"
    assert found["weight"] == [0.5, 40]
    commits = [oid for oid, _ in hub.commits(hub.repo("llama"))]
    assert found["commit"] in commits and found["commit"] != commits[-1]
    first, then = ran.output.split("--- of another commit ---")
    shown = f"was trained beside {hub.repo('llama')}: loading that Pilot at revision {found['commit']}"
    assert shown in first and "another Pilot" not in first
    assert f"another Pilot: revision is '{commits[-1]}' and was '{found['commit']}'" in then
    assert "other ids to tokens" in found["tokenizer_only"] and found["tokenizer_only"].startswith("ValueError")


def test_what_a_copilots_repository_holds(pushed: tuple[Hub, Path, Ran]):
    hub, home, ran = pushed
    files = hub.files(hub.repo("llama-copilot"))
    assert sorted(files) == [
        *(".gitattributes", "README.md", "config.json", "copilot.safetensors", "pairing.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    assert hub.lfs_files(hub.repo("llama-copilot")) == {"copilot.safetensors"}
    assert hub.store.repos["models", hub.repo("llama-copilot")].private
    pairing = json.loads(files["pairing.json"])
    assert pairing["pilot_name_or_path"] == hub.repo("llama")
    assert pairing["pilot_revision"] in [oid for oid, _ in hub.commits(hub.repo("llama"))]
    card = files["README.md"].decode()
    for text in (
        *(f"base_model: {hub.repo('llama')}", "base_model_relation: adapter", "library_name: transformers_copilot"),
        *(
            "| 0.5, fitted on held-out.jsonl (40 examples) by loss (grid) |",
            f'from_copilot("{hub.repo("llama-copilot")}")',
        ),
        *("| sums | accuracy | 200 | 0.25 | 0.5 | +0.25 [+0.1, +0.4] |", "value: 0.5", "examples: 200"),
    ):
        assert text in card, (text, card)
    for name, data in files.items():
        for secret in (str(home), hub.token):
            assert secret.encode() not in data, (name, secret)
    assert hub.token not in ran.output


REFUSED = """
import os
from tests.conftest import TINY, build_pilot
from transformers_copilot import PilotCopilotForCausalLM as Pair

user = os.environ["HUB_USER"]
copilot = f"{user}/llama-copilot"
report(
    whole=error_of(Pair.from_pretrained, copilot), pilot=error_of(Pair.from_copilot, f"{user}/llama"),
    absent=error_of(Pair.from_copilot, f"{user}/nothing"), revision=error_of(Pair.from_copilot, copilot, revision="no"),
    gone=error_of(Pair.from_copilot, f"{user}/gone-copilot"), code=error_of(Pair.from_copilot, f"{user}/code-copilot"),
    ran_code=os.path.exists(os.environ["PROOF"]),
)
moved = Pair.from_copilot(f"{user}/moved-copilot")
trusted = error_of(Pair.from_copilot, f"{user}/code-copilot", trust_remote_code=True)
report(moved=moved.config.pilot_name_or_path, trusted=trusted, ran_trusted=os.path.exists(os.environ["PROOF"]))
"""


def name_another_pilot(hub: Hub, name: str, pilot: str, revision: str | None = None) -> None:
    """A copy of the Copilot's repository that names another Pilot."""
    files = hub.files(hub.repo("llama-copilot"))
    pairing = json.loads(files["pairing.json"])
    pairing |= {"pilot_name_or_path": hub.repo(pilot), "pilot_revision": revision}
    pairing.pop("fields_fingerprint")  # as a file that is changed on purpose
    hub.put(hub.repo(name), {**files, "pairing.json": json.dumps(pairing).encode()})


def test_what_is_refused_says_how_to_mend_it(pushed: tuple[Hub, Path, Ran], tmp_path: Path):
    hub, _, _ = pushed
    llama = hub.files(hub.repo("llama"))
    name_another_pilot(hub, "gone-copilot", "gone-pilot", "b" * 40)
    hub.put(hub.repo("old-name"), llama)
    name_another_pilot(hub, "moved-copilot", "old-name")
    hub.move(hub.repo("old-name"), hub.repo("new-name"))
    proof = tmp_path / "the code ran"
    config = {**json.loads(llama["config.json"]), "model_type": "of_its_own"}
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    code = f"import pathlib\npathlib.Path({str(proof)!r}).touch()\nfrom transformers import LlamaConfig\n"
    code += "class Config(LlamaConfig):\n    model_type = 'of_its_own'\n"
    hub.put(hub.repo("code"), {**llama, "config.json": json.dumps(config).encode(), "code.py": code.encode()})
    name_another_pilot(hub, "code-copilot", "code")
    found = run_in_process(REFUSED, hub, tmp_path / "home", HUB_USER=hub.user, PROOF=str(proof)).values
    assert "It is a Copilot alone" in found["whole"] and "from_copilot" in found["whole"]
    assert "holds no Copilot's own checkpoint" in found["pilot"] and "from_pilot(" in found["pilot"]
    assert found["absent"].startswith("OSError") and hub.repo("nothing") in found["absent"]
    assert found["revision"].startswith("OSError") and "no" in found["revision"]
    assert found["gone"].startswith("OSError") and hub.repo("gone-pilot") in found["gone"]
    assert "If it has moved, give its new place" in found["gone"]
    assert "trust_remote_code" in found["code"] and not found["ran_code"], "code never runs unasked"
    assert found["ran_trusted"], "and does when the caller says so"
    assert found["moved"] == hub.repo("old-name"), "the Hub redirects an id that has moved"


README_KEPT = """
import os
from tests.conftest import TINY, build_pair, build_pilot
from pathlib import Path
from tests.helpers.training_helpers import make_pair, make_trainer
from transformers_copilot import CardFacts

user = os.environ["HUB_USER"]
pair = build_pair(build_pilot(*TINY["llama"]))
for repo in ("own", "own-copilot"):
    pair.card_facts = CardFacts(license="mit", limits="Small numbers only.", model_name="/etc/passwd")
    push = pair.push_copilot_to_hub if repo.endswith("copilot") else pair.push_to_hub
    push(f"{user}/{repo}", revision="new")
    push(f"{user}/{repo}-2")
    pair.config.copilot_weight = 0.25
    push(f"{user}/{repo}-2")
for repo in ("own", "run"):
    trainer = make_trainer(
        Path(repo), make_pair(), max_steps=2, save_strategy="steps", save_steps=1, push_to_hub=True,
        hub_model_id=f"{user}/{repo}", hub_strategy="every_save", hub_always_push=True,
        eval_strategy="steps", eval_steps=1,
    )
    trainer.train()
    trainer.push_to_hub(dataset="reversals", license="mit")
report(no_network=error_of(pair.push_copilot_to_hub, f"{user}/own-copilot", token="hf_unknownTokenOfNobody"))
"""


def test_a_readme_of_the_users_stays_and_ours_is_written_anew(hub: Hub, tmp_path: Path):
    own = b"---\nlicense: mit\n---\n# Written by hand\n"
    hub.put(hub.repo("own"), {"README.md": own})
    hub.put(hub.repo("own-copilot"), {"README.md": own})
    found = run_in_process(README_KEPT, hub, tmp_path, HUB_USER=hub.user)
    for repo in ("own", "own-copilot"):
        assert hub.files(hub.repo(repo), "new")["README.md"] == own and hub.files(hub.repo(repo))["README.md"] == own
        assert set(hub.files(hub.repo(repo), "new")) > {"README.md", "config.json"}
        card = hub.files(hub.repo(f"{repo}-2"))["README.md"].decode()
        assert "| λ (`copilot_weight`) | 0.25 |" in card and "license: mit" in card and "Small numbers only." in card
        assert (
            "/etc" not in card and "base_model" not in card and "model-index" not in card and "## Training" not in card
        )
    card = hub.files(hub.repo("run"))["README.md"].decode()
    for text in ("| steps | 2 |", "| reversals | loss | 10 |", "license: mit", f'from_pretrained("{hub.repo("run")}")'):
        assert text in card, (text, card)
    assert str(tmp_path) not in card and "model.safetensors" in hub.files(hub.repo("own"))
    first = [oid for oid, message in hub.commits(hub.repo("run")) if "step 1" in message]
    assert first and "| steps | 1 |" in hub.files(hub.repo("run"), first[0])["README.md"].decode()
    assert "401" in found.values["no_network"] and "hf_unknown" not in found.output
