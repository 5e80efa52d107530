"""The experiment runner: what is begun is finished once, resumes, and means what it says."""

import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import Trainer

from benchmarks.experiments import controls, finish, models, precision, quick, render, run, runs
from benchmarks.experiments.data import byte_pair_tokenizer, load_data, word_tokenizer
from benchmarks.experiments.measure import measure
from benchmarks.experiments.models import add_identity_blocks, build_pair, build_pilot, with_corrected_head
from benchmarks.experiments.replay import Recorder, replay
from benchmarks.experiments.spec import FURTHER_CONTROLS, Variant, read_experiment
from benchmarks.experiments.statistics import gain_of, mcnemar, scores_of
from benchmarks.experiments.store import LOSS, OLD_LOSS, ResultStore, of_one_loss
from benchmarks.experiments.train import HeadTrainer, Workplace, train, train_head
from transformers_copilot import CopilotTrainer


LLAMA = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 2, "max_position_embeddings": 32}
SPEC = {
    "experiment": "tiny",
    "section": "A",
    "task": "sums",
    "measure": "answers",
    "seeds": [0],
    "limits": {"train": 96, "dev": 10, "test": 12},
    "max_length": 32,
    "pilot": {"config": LLAMA},
    "training": {"per_device_train_batch_size": 16, "learning_rate": 1e-2, "num_train_epochs": 1},
    "pair": {"error_feedback": "observed", "copilot": {"num_hidden_layers": 2}},
    "variants": {"pair": None, "two_steps": {"training": {"copilot_steps_per_round": 2}}},
    "replay": True,
    "controls": ["longer", "blocks", "head", "temperature"],
}


def write_spec(folder: Path, **changes: object) -> Path:
    """An experiment's file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**SPEC, **changes}, sort_keys=False))  # the first variant is the first
    return path


def workplace(folder: Path, **changes: object) -> Workplace:
    """A run's place."""
    spec = read_experiment(write_spec(folder, **changes))
    return Workplace(spec, load_data(spec, None, 0), folder / "run", 0)


def test_runner_makes_each_run_once_and_the_renderer_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec = write_spec(tmp_path)
    options = [str(spec), "--results", str(tmp_path), "--build", str(tmp_path / "build"), "--threads", "1"]
    run.main(options)
    lines = ResultStore(tmp_path / "tiny.jsonl").read()
    assert [line["name"] for line in lines] == ["pair", "two_steps", *(f"control:{n}" for n in SPEC["controls"])]
    pair, two, longer = lines[:3]
    assert len(pair["results"]["pair"]["questions"]) == 12 and pair["weights"]["pair"] > pair["weights"]["pilot"]
    # One Pilot for both variants, so the same answers and losses, but for the rounding of weights that were loaded.
    assert two["results"]["pilot"]["questions"] == pair["results"]["pilot"]["questions"]
    assert two["results"]["pilot"]["tokens"] == pytest.approx(pair["results"]["pilot"]["tokens"], rel=1e-4)
    assert longer["weights"]["control"] == pair["weights"]["pilot"]
    # The pair's own Pilot, at a temperature: no answer changes.
    assert lines[-1]["results"]["control"]["questions"] == pair["results"]["pilot"]["questions"]
    assert lines[-1]["temperature"] in controls.TEMPERATURES
    assert pair["training_memory_bytes"] > 10**8 and pair["precision"] == "float32"
    run.main(options)
    assert ResultStore(tmp_path / "tiny.jsonl").read() == lines
    assert {line["loss"] for line in lines} == {LOSS}

    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results.md").write_text("<!-- table: comparison tiny -->\n<!-- /table -->\n")
    render.main(["--results", str(tmp_path), "--docs", str(docs)])
    entry, likelihood, second = json.loads((tmp_path / "summary.json").read_text())
    assert [each["experiment"] for each in (entry, likelihood, second)] == ["tiny", "tiny:likelihood", "tiny/two_steps"]
    assert [each["measure"] for each in (entry, likelihood, second)] == ["answers", "tokens", "answers"]
    assert likelihood["pair_score"] == pytest.approx(np.mean(pair["results"]["pair"]["likelihoods"]))
    assert likelihood["gain_low"] <= likelihood["pair_score"] - likelihood["pilot_score"] <= likelihood["gain_high"]
    assert set(likelihood["controls"]) == set(SPEC["controls"]) and max(likelihood["controls"].values()) < 0
    right = {name: pair["results"][name]["questions"].count("1") / 12 for name in ("pilot", "pair")}
    assert (entry["pilot_score"], entry["pair_score"]) == (right["pilot"], right["pair"])
    assert entry["gain_low"] <= right["pair"] - right["pilot"] <= entry["gain_high"]
    assert set(entry["controls"]) == set(SPEC["controls"])
    filled = (docs / "results.md").read_text()
    (own,) = [row for row in filled.splitlines() if row.startswith("| Pilot alone |")]
    assert f"| {100 * right['pilot']:.1f} |" in own


def test_rows_made_again_are_compared_with_the_reported_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    spec = write_spec(tmp_path, replay=False, variants={"pair": None}, controls=[])
    run.main([str(spec), "--results", str(tmp_path), "--build", str(tmp_path / "build"), "--threads", "1"])
    # Another experiment's run may have the same seed and name.
    (tmp_path / "tiny2.yaml").write_text(spec.read_text().replace("experiment: tiny", "experiment: tiny2"))
    reported = (tmp_path / "tiny.jsonl").read_text()
    (tmp_path / "tiny2.jsonl").write_text(reported.replace('"experiment": "tiny"', '"experiment": "tiny2"'))
    rows = [{"experiment": name, "seed": 0, "name": "pair"} for name in ("tiny", "tiny2")]
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump([rows[0], {**rows[1], "threads": 1}]))
    options = ["--rows", str(tmp_path / "rows.yaml"), "--experiments", str(tmp_path), "--results", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        quick.main([*options, "--threads", "2"])
    assert ended.value.code == 0 and capsys.readouterr().out.count("inside") == 2
    assert threads == [1, 2, 1]  # the runner's; the first row's are the command line's, the second's its own
    lines = (tmp_path / "tiny.jsonl").read_text()
    line = json.loads(lines)
    line["results"]["pilot"]["questions"], line["results"]["pair"]["questions"] = "0" * 12, "1" * 12
    (tmp_path / "tiny.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(SystemExit) as ended:
        quick.main([*options, "--threads", "1"])
    assert ended.value.code == 1 and "OUTSIDE" in capsys.readouterr().out
    # What is reported was made with the former loss: nothing is made again, and nothing is claimed.
    for path in (tmp_path / "tiny.jsonl", tmp_path / "tiny2.jsonl"):
        old = {name: value for name, value in json.loads(path.read_text()).items() if name != "loss"}
        path.write_text(json.dumps(old) + "\n")
    with pytest.raises(SystemExit) as ended:
        quick.main([*options, "--threads", "1"])
    assert ended.value.code == 1 and capsys.readouterr().out.count("nothing to compare with") == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"mistake_top_k": 8, "error_feedback": "observed"},
        {"head": "pilot", "error_feedback": "token"},
        {"copilot": {"form": "linear"}},
    ],
    ids=["own", "pilot", "linear"],
)
def test_a_replayed_log_teaches_what_the_joint_training_teaches(tmp_path: Path, changes: dict) -> None:
    training = {**SPEC["training"], "copilot_steps_per_round": 3, "mistake_log_dtype": "float32"}
    place = workplace(tmp_path, training=training, pair=changes or SPEC["pair"])
    variant = Variant("pair", changes)
    joint = build_pair(place.spec, variant, place.data, 0)
    trainer = place.trainer(CopilotTrainer, joint, training)
    recorder = Recorder(trainer, tmp_path / "recording")
    trainer.add_callback(recorder)
    train(trainer)
    recorder.save(joint)
    alone = build_pair(place.spec, variant, place.data, 0)
    before = {name: value.clone() for name, value in alone.copilot.state_dict().items()}
    steps, _ = replay(place, variant, alone, tmp_path / "recording")
    assert steps == 6
    for name, value in joint.state_dict().items():
        torch.testing.assert_close(alone.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    moved = [name for name, value in alone.copilot.state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) > 10 or changes.get("copilot") and moved


def test_a_lost_recording_is_made_again(tmp_path: Path) -> None:
    """A machine's build folder is gone, the committed results are not: the runs that are left can still be made."""
    spec = write_spec(tmp_path, controls=[])
    places = [["--results", str(tmp_path / name), "--build", str(tmp_path / name / "build")] for name in ("one", "two")]
    run.main([str(spec), *places[0], "--threads", "1"])
    run.main([str(spec), *places[1], "--threads", "1", "--only", "pair"])
    shutil.rmtree(tmp_path / "two" / "build")
    run.main([str(spec), *places[1], "--threads", "1"])
    kept, again = (ResultStore(tmp_path / name / "tiny.jsonl").read() for name in ("one", "two"))
    assert [line["name"] for line in again] == ["pair", "two_steps"]
    for first, second in zip(kept, again, strict=True):
        assert first["results"]["pair"] == second["results"]["pair"]


@torch.no_grad()
def test_likelihoods_are_those_of_each_question_alone(tmp_path: Path) -> None:
    place = workplace(tmp_path, measure="tokens")
    pair = build_pair(place.spec, Variant("pair"), place.data, 0).eval()
    torch.nn.init.normal_(pair.copilot.correction_head.weight)
    for weight in (0.0, 0.7):
        measured = measure(place.spec, place.data, pair, weight)
        for item, likelihood in zip(place.items(place.data.test), measured.questions, strict=True):
            logits = pair(torch.tensor([item["input_ids"]]), copilot_weight=weight).logits[0].log_softmax(-1)
            true = [(at, token) for at, token in enumerate(item["labels"]) if token >= 0]
            expected = sum(float(logits[at - 1, token]) for at, token in true) / len(true)
            assert likelihood == pytest.approx(expected, abs=1e-5)


def test_a_variant_whose_rounds_differ_has_its_own_log(tmp_path: Path) -> None:
    changes = {
        "held_out": {"training": {"held_out_mistakes": 0.2}},
        "no_log": {"training": {"use_mistake_log": False}},
        "last": {"pair": {"copilot": {"rationale": "last"}}},
        "depths": {"pair": {"copilot": {"rationale": "depths"}}},
        "all": {"pair": {"mistakes_from": "all"}},
        "top_4": {"pair": {"mistake_top_k": 4}},
        "branch": {"pair": {"copilot": {"form": "branch", "num_hidden_layers": 1}}},
    }
    same = {
        "current": {"pair": {"copilot": {"rationale": "current"}}},  # the same means, one position later
        "kl": {"pair": {"objective": "kl"}},
        "predicted": {"pair": {"error_feedback": "predicted"}},
        "token": {"pair": {"error_feedback": "token"}},  # reads less
        "linear": {"pair": {"copilot": {"form": "linear"}}},  # reads nothing but lessons
    }
    spec = read_experiment(write_spec(tmp_path, variants={"pair": None, **changes, **same}))
    assert [variant.name for variant in spec.variants if spec.needs_own_log(variant)] == list(changes)
    by_token = {"pair": {"pair": {"error_feedback": "token"}}, "observed": {"pair": {"error_feedback": "observed"}}}
    spec = read_experiment(write_spec(tmp_path, variants=by_token))
    assert [variant.name for variant in spec.variants if spec.needs_own_log(variant)] == ["observed"]


def test_a_copilot_from_fresh_weights_is_no_copy(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    copied, fresh, again = (
        build_pair(place.spec, Variant("some", random_weights=random), place.data, 0).copilot
        for random in (False, True, True)
    )
    name = "layers.0.mlp.up_proj.weight"
    assert not torch.equal(copied.state_dict()[name], fresh.state_dict()[name])
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in fresh.state_dict().items())


def test_controls_are_the_pilot_at_first(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    pilot = build_pilot(place.spec, place.data, 0).eval()
    ids = torch.randint(2, 16, (2, 7))
    expected = pilot(ids).logits
    deeper = add_identity_blocks(pilot, 1).eval()
    assert deeper.config.num_hidden_layers == 3
    torch.testing.assert_close(deeper(ids).logits, expected)
    torch.testing.assert_close(with_corrected_head(pilot)(ids).logits, expected)


@pytest.mark.parametrize("limit", [1.0, 1e-3])
def test_the_linear_correction_does_not_change_the_pilot(tmp_path: Path, limit: float) -> None:
    place = workplace(tmp_path, training={**SPEC["training"], "max_grad_norm": limit})
    plain = build_pilot(place.spec, place.data, 0)
    train(place.trainer(Trainer, plain, place.spec.training))
    corrected = with_corrected_head(build_pilot(place.spec, place.data, 0))
    train_head(place, corrected)
    for name, value in plain.model.state_dict().items():
        # To the last bit: after a thousand steps a difference in the seventh decimal is another Pilot.
        assert torch.equal(corrected.model.state_dict()[name], value)
    assert corrected.lm_head.map.weight.abs().max() > 0
    with pytest.raises(ValueError, match="with_corrected_head"):
        place.trainer(HeadTrainer, plain, SPEC["training"]).train()


def test_as_much_of_the_linear_correction_is_used_as_dev_likes(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    model = with_corrected_head(build_pilot(place.spec, place.data, 0))
    train_head(place, model)
    learnt = model.lm_head.map.weight.detach().clone()
    dev = replace(place.data, test=place.data.dev)
    losses = {}
    for weight in controls.DEFAULT_GRID:
        model.lm_head.map.weight.data.copy_(weight * learnt)
        losses[weight] = measure(place.spec, dev, model).tokens["loss"]
    model.lm_head.map.weight.data.copy_(learnt)
    best = controls.fit_correction(place, model)
    assert losses[best] == pytest.approx(min(losses.values()), abs=1e-6) and best > 0
    torch.testing.assert_close(model.lm_head.map.weight, best * learnt)
    assert measure(place.spec, dev, model).tokens["loss"] == pytest.approx(losses[best], abs=1e-6)
    # What harms is left out.
    model.lm_head.map.weight.data.copy_(-20 * learnt)
    assert controls.fit_correction(place, model) == 0.0 and not model.lm_head.map.weight.any()


def test_the_temperature_is_the_best_on_dev_and_changes_no_choice(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    model = build_pilot(place.spec, place.data, 0)
    train(place.trainer(Trainer, model, place.spec.training))
    with torch.no_grad():
        model.lm_head.weight.mul_(5.0)
    ids, dev = torch.randint(2, 16, (2, 7)), place.items(place.data.dev)
    model.eval()

    def loss(temperature: float) -> float:
        batch = place.collator()(dev)
        logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits[:, :-1] / temperature
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten()))

    with torch.no_grad():
        plain, losses = model(ids).logits, {value: loss(value) for value in controls.TEMPERATURES}
        temperature = controls.fit_temperature(place, model)
        assert temperature == pytest.approx(min(losses, key=losses.__getitem__)) and temperature > 1
        torch.testing.assert_close(model(ids).logits, plain / temperature)


def test_bfloat16_is_used_only_where_it_pays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = workplace(tmp_path, training={**SPEC["training"], "bf16": True})
    for pays in (False, True):
        monkeypatch.setattr(precision, "bfloat16_pays", lambda device, pays=pays: pays)
        assert place.arguments(place.spec.training).bf16 is pays
        with precision.precision(place.spec, "cpu"):
            assert torch.is_autocast_enabled("cpu") is pays
    assert not precision.uses_bfloat16(workplace(tmp_path).spec, "cpu")


def test_bfloat16_pays_where_its_products_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for slower, pays in ((torch.bfloat16, False), (torch.float32, True)):
        precision.bfloat16_pays.cache_clear()
        monkeypatch.setattr(precision, "_seconds", lambda dtype, slow=slower: float(dtype == slow))
        assert precision.bfloat16_pays("cpu") is pays
    precision.bfloat16_pays.cache_clear()


def test_the_longer_pilot_reads_all_that_a_settling_copilot_reads_for_as_long(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    place = replace(place, data=replace(place.data, train=place.data.train[:60], read=place.data.train[60:]))
    pair = {"seconds": {"training": 30.0, "pilot_alone": 10.0}}
    longer, training = controls._for_longer(place, SPEC["training"], pair)
    assert len(longer.data.train) == 96
    assert training["num_train_epochs"] * 96 == pytest.approx(3 * 60)


def test_blocks_have_about_the_copilots_weights(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    one = (
        build_pilot(place.spec, place.data, 0, 1).num_parameters()
        - build_pilot(place.spec, place.data, 0).num_parameters()
    )
    assert models.blocks_of_size(place.spec, place.data, 3 * one + one // 3) == 3


def test_ranks_are_those_of_a_slow_count(tmp_path: Path) -> None:
    rows = [{"user": user, "items": [str((7 * user + 3 * place) % 23) for place in range(6)]} for user in range(1, 9)]
    folder = tmp_path / "recommendation"
    folder.mkdir()
    (folder / "lastfm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pilot = {"config": LLAMA | {"max_position_embeddings": 64}, "tokenizer": "words"}
    spec = read_experiment(write_spec(tmp_path, task="lastfm", measure="ranking", pilot=pilot, limits={}))
    data = load_data(spec, str(tmp_path), 0)
    pair = build_pair(spec, Variant("pair"), data, 0).eval()
    measured = measure(spec, data, pair)
    items = [data.tokenizer.convert_tokens_to_ids(f"item_{item}") for item in data.task.items]
    for row, rank in zip(data.test, measured.questions, strict=True):
        ids = data.tokenizer(row["prompt"] + " LastFM", return_tensors="pt").input_ids
        logits = pair(ids).logits[0, -1]
        right = logits[data.tokenizer.convert_tokens_to_ids(f"item_{row['answer']}")]
        assert rank == sum(bool(logits[item] >= right) for item in items)
    # So many beams as there are items put them into the same order.
    beams = replace(spec, generation={"num_beams": len(items)})
    assert measure(beams, data, pair).questions == measured.questions
    few = measure(replace(spec, generation={"num_beams": 3}), data, pair).questions
    assert [rank for rank in few if rank < len(items)] == [rank for rank in measured.questions if rank <= 3]


def append_many(path: Path, first: int) -> None:
    """Write results as a second runner would."""
    for seed in range(first, first + 20):
        ResultStore(path).append({"seed": seed % 30, "name": "pair", "by": first})


def test_two_writers_do_not_spoil_the_file_and_a_cut_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(b'{"seed": 100, "name": "pair"}\n{"seed": 101, "na')
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=append_many, args=(path, first)) for first in (0, 15)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    seeds = [line["seed"] for line in ResultStore(path).read()]
    assert sorted(seeds) == [*range(30), 100]


def test_results_of_different_losses_are_never_mixed(tmp_path: Path) -> None:
    tokens = {"loss": 1.0, "mistake_size": 0.5, "top1": 0.5, "tokens": 3}

    def line(name: str, value: float, **more: str) -> dict:
        results = {model: {"questions": [value] * 3, "tokens": tokens} for model in ("pilot", "pair")}
        about = {"experiment": "one", "task": "mawps", "measure": "tokens", "copilot_weight": 1.0}
        weights = {"pilot": 10, "pair": 20}
        seconds = {"training": 1.0, "pilot_alone": 1.0, "pilot_answers": 1.0, "pair_answers": 1.0}
        about |= {"seconds": seconds, "steps": 1}
        return {**about, "seed": 0, "name": name, "weights": weights, "results": results, **more}

    store = ResultStore(tmp_path / "one.jsonl")
    for each in (line("pair", -1.0), line("other", -2.0)):
        store.append(each)
    old = render.read_results(tmp_path)["one"]
    assert [each["name"] for each in old] == ["pair", "other"] and store.find(0, "pair") is None
    assert store.find(0, "pair", OLD_LOSS) == line("pair", -1.0)
    page = "<!-- table: finish one* -->\n<!-- /table -->\n"
    assert render.fill_tables(page, {"one": old}).count(render.OLD_NOTE) == 1
    # A run is made again with today's loss; the old ones stay in the file and are no longer shown.
    store.append(line("pair", -3.0, loss=LOSS))
    store.append(line("pair", -4.0, loss=LOSS))
    assert len(store.read()) == 3 and of_one_loss(store.read()) == [line("pair", -3.0, loss=LOSS)]
    new = render.read_results(tmp_path)["one"]
    filled = render.fill_tables(page, {"one": new})
    assert render.OLD_NOTE not in filled and "−3.000" in filled and "−1.000" not in filled and "other" not in filled
    # Nor do tables of several experiments hold both.
    page = "<!-- table: finish one*two* -->\n<!-- /table -->\n"
    filled = render.fill_tables(page, {"one": new, "two": old})
    assert "one: mawps" in filled and filled.count("−3.000") == 1 and "−1.000" not in filled
    assert render.OLD_NOTE not in filled
    filled = render.fill_tables(page, {"two": old})
    assert "−1.000" in filled and render.OLD_NOTE in filled


def test_runs_that_are_no_longer_described_are_in_no_table(tmp_path: Path) -> None:
    store = ResultStore(render.ROOT / "benchmarks" / "results" / "options_mawps.jsonl")
    first = store.read()[0]
    kept = ResultStore(tmp_path / "options_mawps.jsonl")
    for name in (first["name"], "pooling_last"):
        kept.append({**first, "name": name})
    assert [line["name"] for line in kept.read()] == [first["name"], "pooling_last"]
    assert [line["name"] for line in render.read_results(tmp_path)["options_mawps"]] == [first["name"]]


def test_a_run_under_way_is_left_to_its_runner(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec = read_experiment(write_spec(tmp_path))
    runner = runs.Runner(spec, ResultStore(tmp_path / "r.jsonl"), tmp_path / "build", None)
    folder = runner.folder(0, "pair")
    folder.parent.mkdir(parents=True)
    with run.FileLock(f"{folder}.lock"):
        run.run_once(runner, 0, "pair")
    assert "another runner" in capsys.readouterr().out
    assert runner.store.read() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": "taste"}, "measure.*answers"),
        ({"controls": ["older"]}, "older.*longer"),
        ({"pilot": {}}, "either `path` or `config`"),
        ({"seeds": []}, "there must be a seed"),
        ({"colour": "red"}, "unknown fields colour"),
        ({"variants": {"a": {"pilot": {}}}}, "tiny.yaml.*pilot"),
        ({"lora": {"pilot": {"r": 4}}}, "`lora` is for pairs that learn together"),
        ({"lora": {"both": {}}, "controls": [], "replay": False}, "`lora` names both; a pair has pilot and copilot"),
        ({"pair": {"copilot": {"path": "some", "num_hidden_layers": 2}}}, "leave num_hidden_layers out"),
        ({"measure": "ranking", "generation": {"top_k": 4}}, "`generation` of a ranking needs `num_beams`"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_experiment(write_spec(tmp_path, **changes))


def test_a_control_and_a_replay_without_their_first_run_say_so(tmp_path: Path) -> None:
    spec = read_experiment(write_spec(tmp_path))
    runner = runs.Runner(spec, ResultStore(tmp_path / "r.jsonl"), tmp_path / "build", None)
    with pytest.raises(ValueError, match="pair's own run"):
        runner.run(0, "control:longer")
    with pytest.raises(ValueError, match="two_steps needs the run pair of seed 0 first"):
        runner.run(0, "two_steps")
    place = workplace(tmp_path)
    with pytest.raises(ValueError, match="no recording"):
        replay(place, Variant("two_steps"), build_pair(spec, Variant("pair"), place.data, 0), tmp_path / "none")


def test_statistics_on_hand_worked_numbers() -> None:
    assert scores_of("ranking", [1, 10, 11]).tolist() == [1.0, 1.0, 0.0]
    assert scores_of("answers", "0110").sum() == 2
    assert mcnemar(np.array([1.0] * 5)) == pytest.approx(2 / 2**5)
    assert mcnemar(np.array([0.0, 0.3])) is None
    same = gain_of([np.zeros(50)] * 3, [np.ones(50)] * 3)
    assert (same.mean, same.low, same.high) == (1.0, 1.0, 1.0)
    generator = np.random.default_rng(0)
    noise = gain_of(
        [generator.random(200).round() for _ in range(3)], [generator.random(200).round() for _ in range(3)]
    )
    assert noise.low < 0.0 < noise.high
    with pytest.raises(ValueError, match="same questions"):
        gain_of([np.zeros(3)], [np.zeros(4)])


def test_tokenizers_keep_every_text() -> None:
    texts = ["user_1 has item_4, item_9. What?", "a b c"]
    words = word_tokenizer(texts)
    assert words.unk_token_id not in words(texts[0]).input_ids and len(words("item_4, item_9.").input_ids) == 4
    pairs = byte_pair_tokenizer(["12 apples and 34 pears"] * 3, 300)
    text = " x=12+34 #### 46 ü"
    assert pairs.decode(pairs(text).input_ids) == text
    assert len(pairs("1234").input_ids) == 4


def test_tables_refuse_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="no table"):
        render.fill_tables("<!-- table: comparison nothing -->\n<!-- /table -->", {})


def test_a_rival_that_trains_its_last_layers_trains_no_other(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    model = models.with_last_layers(build_pilot(place.spec, place.data, 0), 1)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    last = f"model.layers.{model.config.num_hidden_layers - 1}."
    assert trained and all(name.startswith(last) for name in trained)


def test_an_untouched_pilot_is_not_trained(tmp_path: Path) -> None:
    place = workplace(tmp_path, limits={**SPEC["limits"], "train": 0, "read": 16})
    pilot, cost = finish.finished_pilot(replace(place, folder=tmp_path / "build" / "linear-0"))
    fresh = build_pilot(place.spec, place.data, 0).state_dict()
    assert cost.seconds == 0 and all(torch.equal(fresh[name], value) for name, value in pilot.state_dict().items())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_finish_then_record_and_its_rivals(tmp_path: Path) -> None:
    """One finished Pilot and one record a seed; each Copilot learns what it would from a record of its own."""
    spec = write_spec(
        tmp_path,
        replay=False,
        limits={**SPEC["limits"], "train": 64, "read": 48},
        pair={},
        training={**SPEC["training"], "train_sampling_strategy": "group_by_length"},
        variants={
            "linear": {"finish": {"num_train_epochs": 2, "copilot_learning_rate": 3e-3}},
            "branch": {
                "pair": {"copilot": {"form": "branch", "num_hidden_layers": 1}},
                "finish": {"num_train_epochs": 2, "copilot_learning_rate": 1e-3},
            },
            "observed": {
                "pair": {"error_feedback": "observed", "copilot": {"num_hidden_layers": 2}},
                "finish": {"num_train_epochs": 2, "copilot_learning_rate": 1e-3},
            },
            "together": {"everything": True},
            "same": {"everything": True, "finish": {"num_train_epochs": 2}},
        },
        controls=[*FURTHER_CONTROLS],
        rival_training={
            "further": {"rates": [1e-3, 1e-2]},
            "further_lora": {"rates": [1e-3]},
            "further_last_layers": {"rates": [1e-3], "layers": 1},
        },
    )
    places = ["--results", str(tmp_path), "--build", str(tmp_path / "build"), "--threads", "1"]
    run.main([str(spec), *places])
    lines = {line["name"]: line for line in ResultStore(tmp_path / "tiny.jsonl").read()}
    taught = [lines[name] for name in ("linear", "branch", "observed")]
    assert all(line["results"]["pilot"] == taught[0]["results"]["pilot"] for line in taught)
    assert all(line["seconds"]["recording"] == taught[0]["seconds"]["recording"] > 0 for line in taught)
    assert all(line["steps"] == 6 for line in taught)  # two epochs over 48 lessons
    # Variants and rivals begin with the one Pilot that was finished on 64 questions, or on all of them.
    kept = {folder.name for folder in (tmp_path / "build" / "tiny").glob("finished-*") if folder.is_dir()}
    assert kept == {"finished-64-0", "finished-112-0"}
    # What a Copilot learns beside others' records: nothing else than from its own.
    alone = tmp_path / "alone"
    run.main([str(spec), "--results", str(alone), "--build", str(alone), "--threads", "1", "--only", "branch"])
    (again,) = ResultStore(alone / "tiny.jsonl").read()
    assert again["results"] == lines["branch"]["results"]
    # The Pilot in the pair that learns from everything is the Pilot alone that does.
    everything = lines["control:everything"]["results"]["control"]
    assert lines["together"]["results"]["pilot"] == lines["same"]["results"]["pilot"] == everything
    assert set(lines["control:further"]["dev_by_rate"]) == {"0.001", "0.01"}
    loss = lines["control:finished_temperature"]["results"]["control"]["tokens"]["loss"]
    assert loss != taught[0]["results"]["pilot"]["tokens"]["loss"]
    losses = {name: lines[f"control:{name}"]["results"]["control"]["tokens"]["loss"] for name in FURTHER_CONTROLS}
    losses.pop("further_in_time")  # here the time suffices for all of the questions
    assert len(set(losses.values())) == len(losses)  # no rival is another one under a further name
    # A rival's rate is tuned once, with the first seed.
    seeds = write_spec(tmp_path, **{**yaml.safe_load(spec.read_text()), "seeds": [0, 1]})
    run.main([str(seeds), *places, "--seeds", "1", "--only", "linear", "control:further"])
    further = ResultStore(tmp_path / "tiny.jsonl").find(1, "control:further")
    tried = lines["control:further"]["dev_by_rate"]
    assert list(further["dev_by_rate"]) == [min(tried, key=tried.get)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": ["further_in_time"]}, "`further_in_time` needs `rates`"),
        (
            {"controls": ["further_lora"], "rival_training": {"further": {"rates": [1e-3]}}},
            "`further_lora` needs `rates`",
        ),
        ({"variants": {"linear": {"finish": {"num_train_epochs": 1}}}}, "set `read` in `limits`"),
    ],
)
def test_an_experiment_that_can_not_be_run_is_refused_before_it_starts(
    tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_experiment(write_spec(tmp_path, **changes))
