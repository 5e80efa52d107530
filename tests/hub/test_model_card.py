"""The card: what is known stands in it, what is not is left out, and nothing of this machine."""

import pytest
from huggingface_hub import ModelCard

from tests.helpers.training_helpers import collate, make_pair, make_pilot, make_trainer, reversal_rows
from transformers_copilot import CardFacts, CardResult, PilotCopilotForCausalLM, fit_copilot_weight
from transformers_copilot.hub.model_card import make_card


TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"


def named_pair():
    pair = make_pair(head="pilot")
    pair.config.pilot_name_or_path, pair.config.pilot_revision = "user/pilot", "c" * 40
    return pair


def test_a_card_of_nothing_but_a_pair_leaves_the_rest_out():
    card = make_card(make_pair())
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["transformers_copilot", "pilot_copilot", "arxiv:2505.16270"],
    }
    for absent in ("base_model", "## Use", "## Training", "## Results", "fitted", "None", "more information"):
        assert absent not in card.content, absent
    assert "LlamaForCausalLM, 4,656 weights" in card.content and "@inproceedings{transformer_copilot" in card.content


def test_a_card_says_what_is_known():
    pair = named_pair()
    rows = reversal_rows(6)
    fit_copilot_weight(pair, rows, data_collator=collate, set_name="fresh sums", progress=False, grid=(0.5,))
    result = CardResult(
        *("MAWPS", "accuracy", 203, 0.182, 0.177),
        pilot_interval=(0.135, 0.241),
        pair_interval=(0.13, 0.235),
        gain_interval=(-0.025, 0.01),
        copilot_weight=0.5,
        dataset="user/mawps",
        dataset_split="test",
    )
    pair.card_facts = CardFacts(
        [result], {"steps": 60}, ["user/mawps"], language="en", license="apache-2.0", tags=["sums"], limits="Only sums."
    )
    card = make_card(pair, "user/pair", has_tokenizer=True)
    text = card.content
    assert (card.data.base_model, card.data.base_model_relation) == ("user/pilot", "finetune")
    assert card.data.license == "apache-2.0" and card.data.datasets == ["user/mawps"] and "sums" in card.data.tags
    together, alone = card.data.eval_results
    assert (together.metric_value, alone.metric_value, together.dataset_type) == (0.177, 0.182, "user/mawps")
    assert together.metric_args == {"examples": 203, "copilot_weight": 0.5, "interval_95": [0.13, 0.235]}
    assert alone.metric_name == "accuracy (Pilot alone)" and together.dataset_split == "test"
    for line in (
        f"[user/pilot](https://huggingface.co/user/pilot) (LlamaForCausalLM, 4,656 weights), revision `{'c' * 40}`",
        "| λ (`copilot_weight`) | 0.5, fitted on fresh sums (6 examples) by loss (grid) |",
        "| MAWPS | accuracy | 203 | 0.182 [0.135, 0.241] | 0.177 [0.13, 0.235] | -0.005 [-0.025, +0.01] | 0.5 |",
        'AutoModelForCausalLM.from_pretrained("user/pair")',
        'AutoModelForCausalLM.from_pretrained("user/pair", trust_remote_code=True)',
        *('AutoTokenizer.from_pretrained("user/pair")', "| steps | 60 |", "Only sums."),
    ):
        assert line in text, line
    again = ModelCard(text)
    assert again.data.to_dict() == card.data.to_dict(), "the Hub reads what was meant"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            {"copilot": {"num_hidden_layers": 2, "rationale": "depths"}, "error_feedback": "token"},
            '`form="decoder"`, `fusion="logits"`, `error_feedback="token"`, `rationale="depths"`',
        ),
        ({"copilot": {"form": "linear"}, "fusion": "probability"}, '`form="linear"`, `fusion="probability"` |'),
        ({"copilot": {"form": "branch", "num_hidden_layers": 1}}, '`form="branch"`, `fusion="logits"` |'),
    ],
)
def test_a_card_says_what_kind_of_copilot_it_is(options, wanted):
    """What a form does not read is not said of it."""
    (line,) = [line for line in make_card(make_pair(**options)).content.splitlines() if "correction |" in line]
    assert line.startswith(f"| correction | {wanted}")


@pytest.mark.parametrize("has_pilot", [True, False])
def test_the_card_of_a_copilot_alone_says_how_to_join_it(has_pilot):
    card = make_card(named_pair() if has_pilot else make_pair(), "user/copilot", alone=True)
    assert card.data.library_name == "transformers_copilot"
    assert 'from_pilot("user/another-pilot", copilot="user/copilot")' in card.content
    assert ('PilotCopilotForCausalLM.from_copilot("user/copilot")' in card.content) == has_pilot
    assert card.data.to_dict().get("base_model_relation") == ("adapter" if has_pilot else None)


def test_a_sequence_to_sequence_card_names_its_own_class():
    card = make_card(make_pair("t5"), "user/pair")
    assert card.data.pipeline_tag == "text2text-generation" and "AutoModelForSeq2SeqLM" in card.content


def test_no_token_and_no_folder_stand_in_a_card(tmp_path):
    make_pilot().save_pretrained(tmp_path / "pilot")
    pair = PilotCopilotForCausalLM.from_pilot(str(tmp_path / "pilot"), {"num_hidden_layers": 2})
    pair.config.copilot_weight_fit = {
        **{"method": "grid", "criterion": "loss", "set_size": 3},
        "set_name": str(tmp_path / "rows.jsonl"),
    }
    pair.card_facts = CardFacts(
        [CardResult(str(tmp_path), "accuracy", 3, 0.1, 0.2, dataset=str(tmp_path))],
        {"output_dir": str(tmp_path), "note": f"with {TOKEN}"},
        [str(tmp_path)],
        model_name=str(tmp_path),
        limits=f"Ask with {TOKEN}.",
    )
    content = make_card(pair, "user/pair").content
    assert str(tmp_path) not in content and tmp_path.name not in content and TOKEN not in content
    assert "fitted on rows.jsonl (3 examples)" in content, "a file's own name tells where λ comes from"


# ---- a Trainer's ----


def test_a_trainers_card_says_what_ran(tmp_path):
    trainer = make_trainer(
        tmp_path, copilot_learning_rate=5e-3, copilot_steps_per_round=2, held_out_mistakes=0.25, max_steps=3
    )
    trainer.train()
    metrics = trainer.evaluate()
    trainer.pair.config.copilot_weight = 0.5  # set after the evaluation, which the card keeps apart
    trainer.create_model_card(license="mit", dataset="reversals", tags="words", language="en")
    text = (tmp_path / "README.md").read_text()
    card = ModelCard(text)
    for row in (
        *(
            "| steps | 3 |",
            "| training examples | 32 |",
            "| learning_rate | 0.01 |",
            "| copilot_learning_rate | 0.005 |",
        ),
        *("| copilot_steps_per_round | 2 |", "| held_out_mistakes | 0.25 |", "| freeze_pilot | False |"),
        *("| optimizer | adamw_torch_fused, betas 0.9 and 0.999 |", "| λ (`copilot_weight`) | 0.5 |"),
    ):
        assert row in text, (row, text)
    assert (
        f"| reversals | loss | 10 | {metrics['eval_pilot_loss']:.4g} | {metrics['eval_rectified_loss']:.4g} |" in text
    )
    values = {entry.metric_name: entry for entry in card.data.eval_results}
    assert values["loss"].metric_value == pytest.approx(metrics["eval_rectified_loss"])
    assert values["loss"].metric_args == {"examples": 10, "copilot_weight": 1.0}
    assert values["mistake_size (Pilot alone)"].metric_value == pytest.approx(metrics["eval_pilot_mistake_size"])
    assert card.data.license == "mit" and card.data.language == "en" and "words" in card.data.tags
    assert str(tmp_path) not in text and "num_epochs" not in text and "training_steps" not in text


def test_a_trainer_that_did_not_run_tells_of_no_training(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert "## Training" not in text and "## Results" not in text and "learning_rate" not in text


def test_a_users_readme_stays_and_ours_is_written_anew(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=1)
    (tmp_path / "README.md").write_text("# Mine\n")
    trainer.create_model_card()
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    (tmp_path / "README.md").unlink()
    trainer.create_model_card(model_name="First")
    trainer.train()
    trainer.create_model_card(model_name="Second")
    text = (tmp_path / "README.md").read_text()
    assert "# Second" in text and "# First" not in text and "| steps | 1 |" in text
