"""A training that pushes: at checkpoints and at its end, in whole commits, without the token, folders or pickles."""

import json
from pathlib import Path

from safetensors.torch import load

import transformers_copilot
from tests.helpers.hub_fixtures import Hub, run_in_process


TRAIN = """
import os
from pathlib import Path
import torch
from huggingface_hub import snapshot_download
from tests.helpers.training_helpers import make_pair, make_trainer
from transformers import AutoModelForCausalLM
from tests.conftest import make_tokenizer

user = os.environ["HUB_USER"]
os.environ.pop("HF_TOKEN")  # only the arguments know the token

def train(name, strategy, **more):
    torch.manual_seed(0)
    trainer = make_trainer(
        Path(name), make_pair(), max_steps=6, save_strategy="steps", save_steps=2, push_to_hub=True,
        hub_model_id=f"{user}/{name}", hub_strategy=strategy, hub_token=os.environ["SECRET"], hub_private_repo=True,
        save_total_limit=1, trainer_kwargs={"processing_class": make_tokenizer()}, **more,
    )
    return trainer, error_of(trainer.train)

first, error = train("every", "every_save", hub_always_push=True)
errors = [error]
first.push_to_hub()  # once more changes nothing
loaded = AutoModelForCausalLM.from_pretrained(f"{user}/every", token=os.environ["SECRET"])
same = all(torch.equal(a, b) for a, b in zip(loaded.parameters(), first.pair.parameters(), strict=True))
trainer, error = train("whole", "checkpoint", eval_strategy="steps", eval_steps=2, load_best_model_at_end=True)
errors.append(error)
got = snapshot_download(f"{user}/whole", allow_patterns="last-checkpoint/*", token=os.environ["SECRET"])
again = make_trainer(Path("again"), make_pair(), max_steps=8)
errors.append(error_of(again.train, resume_from_checkpoint=f"{got}/last-checkpoint"))
trainer, error = train("end", "end")
errors.append(error)
no_waiting()
broken, error = train("broken", "every_save")
report(
    errors=errors, same=same, resumed=again.state.global_step, rounds=len(again.mistake_log),
    broken=error, broken_steps=broken.state.global_step, at_the_end=error_of(broken.push_to_hub),
    left=[str(p) for p in Path(".").rglob("_push*")],
    pickles=sorted({p.name for p in Path("every").rglob("*") if p.suffix in (".bin", ".pt", ".pth")}),
)
"""
OF_TRAINER = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}


def test_a_training_pushes_as_its_arguments_say(hub: Hub, tmp_path: Path):
    hub.put(hub.repo("broken"), {"config.json": b"{}"})
    hub.fail("POST", f"{hub.repo('broken')}/preupload/", 403)
    ran = run_in_process(TRAIN, hub, tmp_path / "home", HUB_USER=hub.user, SECRET=hub.token)
    found = ran.values
    assert found["errors"] == [None] * 4, found["errors"]
    assert found["same"] and found["left"] == []

    every = hub.repo("every")
    messages = [message for _, message in hub.commits(every)]
    # The end is the last checkpoint here, so pushing it once more changes nothing.
    assert messages == ["initial commit", *(f"Training in progress, step {n}" for n in (2, 4, 6))]
    assert hub.store.repos["models", every].private
    for commit, _ in hub.commits(every)[1:]:
        files = hub.files(every, commit)
        config = json.loads(files["config.json"])
        assert config["transformers_copilot_version"] == transformers_copilot.__version__
        assert {"modeling_pilot_copilot.py", "tokenizer.json", "generation_config.json", "README.md"} <= set(files)
        assert any(name.startswith("copilot.") for name in load(files["model.safetensors"]))
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert len({hub.files(every, commit)["model.safetensors"] for commit, _ in hub.commits(every)[1:]}) == 3
    assert set(found["pickles"]) == OF_TRAINER, "what a resumed training needs, and Trainer writes"

    whole = hub.files(hub.repo("whole"))
    kept = {name.removeprefix("last-checkpoint/") for name in whole if name.startswith("last-checkpoint/")}
    assert {*OF_TRAINER, "mistake_log.safetensors", "trainer_state.json", "model.safetensors"} <= kept
    assert "training_args.bin" not in kept
    best = json.loads(whole["last-checkpoint/trainer_state.json"])["best_model_checkpoint"]
    assert best.startswith("checkpoint-")
    assert found["resumed"] == 8 and found["rounds"] == 8
    assert [message for _, message in hub.commits(hub.repo("end"))] == ["initial commit", "End of training"]

    assert found["broken_steps"] == 6 and found["broken"] is None, "the training ran to its end all the same"
    assert "the training goes on" in ran.output and "Try again: trainer.push_to_hub()" in ran.output
    assert "403" in found["at_the_end"] and "write role" in found["at_the_end"]
    assert set(hub.files(hub.repo("broken"))) == {".gitattributes", "config.json"}
    for repo in ("every", "whole", "end"):
        for commit, _ in hub.commits(hub.repo(repo)):
            for name, data in hub.files(hub.repo(repo), commit).items():
                assert hub.token.encode() not in data and str(tmp_path).encode() not in data, (repo, name)
    assert hub.token not in ran.output + str(found)
