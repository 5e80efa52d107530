"""Every loss and every input of the Pilot's: what it computes of a batch in a pair is what it computes alone."""

import copy

import pytest
import torch
import transformers
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

from tests.conftest import build_pilot, some_ids
from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    logged,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
)
from tests.helpers.training_helpers import state as weights
from tests.training.test_trainer import plain_trainer


ROUTED = {"output_router_logits": True, "router_aux_loss_coef": 1.0}
_MOE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
    **ROUTED,
}
_SWITCH = {
    "vocab_size": 64,
    "d_model": 32,
    "d_ff": 48,
    "d_kv": 8,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
    "num_experts": 3,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
    "router_z_loss_coef": 0.5,
    "router_aux_loss_coef": 0.5,
    "router_jitter_noise": 0.0,
    "output_router_logits": True,
}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
# Family, and whether its loss has more in it than the cross-entropy.
FAMILIES = {
    "mixtral": ("MixtralConfig", {**_MOE, "num_local_experts": 3}, True),
    "olmoe": ("OlmoeConfig", {**_MOE, "num_experts": 3}, True),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**_MOE, "num_experts": 3, "moe_intermediate_size": 16, "head_dim": 8, "decoder_sparse_step": 1},
        True,
    ),
    "switch_transformers": ("SwitchTransformersConfig", _SWITCH, True),
    "mixtral, not asked for": ("MixtralConfig", {**_MOE, "num_local_experts": 3, "output_router_logits": False}, False),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **_NO_DROPOUT},
        False,
    ),
}


def family_batch(pilot):
    ids = some_ids(3, 7)
    labels = ids.clone()
    labels[:, :2] = -100
    asked = {"output_router_logits": True} if pilot.config.model_type == "switch_transformers" else {}
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), **asked}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_keeps_its_own_loss(name):
    """Routers' losses, z-losses and whatever a family adds: in training, in evaluation, and with their gradients."""
    config, fields, more = FAMILIES[name]
    alone = build_pilot(config, fields)
    pair = make_pair(pilot=copy.deepcopy(alone), random_head=True)
    batch = family_batch(alone)
    for training in (False, True):
        expected, found = alone.train(training)(**batch), pair.train(training)(**batch)
        assert float(found.pilot_loss) == float(expected.loss)
        targets = pair.aligned_labels(batch["labels"])
        plain = torch.nn.functional.cross_entropy(expected.logits[targets >= 0], targets[targets >= 0])
        assert (abs(float(expected.loss - plain)) > 0.1) == more
        for field in ("aux_loss", "encoder_aux_loss", "decoder_z_loss"):
            if expected.get(field) is not None:
                assert torch.equal(found[field], expected[field])
        if training:
            expected.loss.backward()
            (found.loss - found.copilot_loss).backward()
        else:
            rectified = torch.nn.functional.cross_entropy(found.logits[targets >= 0], targets[targets >= 0])
            torch.testing.assert_close(found.loss, rectified + expected.loss - plain)
            assert float(pair(**batch, copilot_weight=0.0).loss) == float(expected.loss)
    for (weight, ours), theirs in zip(pair.pilot.named_parameters(), alone.parameters(), strict=True):
        assert ours.grad is None and theirs.grad is None or torch.equal(ours.grad, theirs.grad), weight


@pytest.mark.parametrize("name", ["mixtral", "olmoe"])
def test_a_router_learns_what_it_learns_alone(tmp_path, name):
    config, fields, _ = FAMILIES[name]
    alone = build_pilot(config, {**fields, "vocab_size": 23})
    pair = make_pair(pilot=copy.deepcopy(alone))
    given = {"optim": "sgd", "max_steps": 3, "gradient_accumulation_steps": 2, "learning_rate": 0.1}
    make_trainer(tmp_path, pair, **given).train()
    plain_trainer(tmp_path, alone, **given).train()
    assert largest_difference(weights(pair.pilot), weights(alone)) == 0.0


def test_a_batch_without_labels_of_the_pilots_is_no_nan():
    pair = make_pair("t5").train()
    batch = collate(reversal_rows(2, seq2seq=True))
    out = pair(**batch, held_out=torch.ones(2, dtype=torch.bool))
    assert float(out.pilot_loss) == 0.0 and float(out.loss) == float(out.copilot_loss) > 0.0


# ---- inputs ----


def test_token_types_reach_the_pilot(tmp_path):
    """GPT-2's `token_type_ids`: kept by Trainer, for training and for evaluation."""
    rows = [{**row, "token_type_ids": [7] * len(row["input_ids"])} for row in reversal_rows(12)]

    def collator(some):
        batch = collate(some)
        longest = batch["input_ids"].shape[1]
        types = [row["token_type_ids"] + [0] * (longest - len(row["input_ids"])) for row in some]
        return {**batch, "token_type_ids": torch.tensor(types)}

    results = []
    for data in (rows, [{**row, "token_type_ids": [3] * len(row["input_ids"])} for row in rows]):
        alone = make_pilot("gpt2")
        pair = make_pair(pilot=copy.deepcopy(alone))
        given = {"optim": "sgd", "max_steps": 3, "learning_rate": 0.1}
        trainer = make_trainer(tmp_path, pair, rows=data, eval_rows=data, data_collator=collator, **given)
        trainer.train()
        plain = plain_trainer(tmp_path, alone, data, **given)
        plain.data_collator = collator
        plain.train()
        assert largest_difference(weights(pair.pilot), weights(alone)) == 0.0
        assert trainer.evaluate(copilot_weight=0.0)["eval_loss"] == pytest.approx(
            plain.evaluate(data)["eval_loss"], abs=1e-6
        )
        results.append(weights(alone))
    assert largest_difference(*results) > 1e-4, "token types make no difference"


def test_an_argument_that_neither_part_takes_is_refused():
    pair = make_pair("gpt2")
    pair._pilot_takes_all = False  # a Pilot whose `forward` has no `**kwargs`
    with pytest.raises(TypeError, match="GPT2LMHeadModel, the Pilot, takes no argument `tokn_type_ids`"):
        pair(**collate(reversal_rows(2)), tokn_type_ids=torch.zeros(1))


def test_hidden_states_and_attentions_are_the_pilots_own():
    pair, batch = make_pair().eval(), collate(reversal_rows(2))
    pair.set_attn_implementation("eager")
    out = pair(**batch, output_hidden_states=True, output_attentions=True)
    expected = pair.pilot(**batch, output_hidden_states=True, output_attentions=True)
    for name in ("hidden_states", "attentions"):
        assert len(out[name]) == len(expected[name]) > 0
        assert all(torch.equal(*both) for both in zip(out[name], expected[name], strict=True))


# ---- any Trainer ----


def any_trainer(folder, model, **kwargs):
    given = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": [], "save_strategy": "no", "use_cpu": True}
    arguments = TrainingArguments(str(folder), disable_tqdm=True, **given, **kwargs.pop("arguments", {}))
    rows = {"train_dataset": reversal_rows(8), "eval_dataset": reversal_rows(6, seed=1)}
    return Trainer(model=model, args=arguments, data_collator=collate, **rows, **kwargs)


def test_label_smoothing_of_another_trainer_is_shifted_as_the_pilots(tmp_path):
    alone = make_pilot()
    pair = make_pair(pilot=copy.deepcopy(alone))  # untrained: its logits are the Pilot's
    smoothed = {"arguments": {"label_smoothing_factor": 0.1}}
    found = any_trainer(tmp_path, pair, **smoothed).evaluate()["eval_loss"]
    expected = any_trainer(tmp_path, alone, **smoothed).evaluate()["eval_loss"]
    unsmoothed = any_trainer(tmp_path, alone).evaluate()["eval_loss"]
    assert found == pytest.approx(expected, abs=1e-6) and abs(expected - unsmoothed) > 1e-3


@pytest.mark.parametrize("how", ["smoothing", "loss function"])
def test_a_trainer_that_takes_the_labels_away_is_refused_before_a_step(tmp_path, how):
    """Without labels the Copilot would not learn, and the Pilot would learn from rectified logits."""
    pair = make_pair(random_head=True)
    before = weights(pair)
    smoothing = {"arguments": {"label_smoothing_factor": 0.1}}
    function = {"compute_loss_func": lambda outputs, labels, num_items_in_batch=None: outputs.logits.sum()}
    with pytest.raises(ValueError, match="without `labels`.*CopilotTrainer honours both"):
        any_trainer(tmp_path, pair, **(smoothing if how == "smoothing" else function)).train()
    assert largest_difference(before, weights(pair)) == 0.0


def test_a_loss_function_of_the_users_own_is_called_and_teaches_the_pilot_alone(tmp_path):
    def focal(outputs, labels, num_items_in_batch=None):
        logits, targets = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        losses = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="none")
        return 3.0 * (losses * (1 - torch.exp(-losses)) ** 2).sum() / num_items_in_batch

    results, learnt = [], []
    for own in (None, focal):
        alone = make_pilot()
        pair = make_pair(pilot=copy.deepcopy(alone))
        given = {"optim": "sgd", "max_steps": 3, "gradient_accumulation_steps": 2, "learning_rate": 0.1}
        given["max_grad_norm"] = 0.0
        trainer = make_trainer(tmp_path, pair, trainer_kwargs={"compute_loss_func": own}, **given)
        trainer.train()
        plain = plain_trainer(tmp_path, alone, **given)
        plain.compute_loss_func = own
        plain.train()
        assert largest_difference(weights(pair.pilot), weights(alone)) == 0.0
        assert logged(trainer, "pilot_loss") == pytest.approx(logged(plain, "loss"), abs=1e-4)
        results.append(weights(alone))
        learnt.append(weights(pair.copilot))
    assert largest_difference(*results) > 1e-3, "the function makes no difference"
    assert largest_difference(learnt[1], weights(make_pair().copilot)) > 1e-3, "the Copilot did not learn"


# ---- packed rows ----


@pytest.mark.parametrize("keywords", [{}, {"return_flash_attn_kwargs": True}, {"return_seq_idx": True}], ids=str)
def test_packed_documents_are_apart_in_evaluation_and_prediction(tmp_path, keywords):
    rows = reversal_rows(9)
    collator = DataCollatorWithFlattening(**keywords)
    alone = make_pilot()
    pair = make_pair(pilot=copy.deepcopy(alone), random_head=True)
    packed = make_trainer(tmp_path, pair, eval_rows=rows, data_collator=collator, per_device_eval_batch_size=3)
    padded = make_trainer(tmp_path, pair, eval_rows=rows, per_device_eval_batch_size=3)
    for name in ("eval_pilot_loss", "eval_rectified_loss", "eval_mistake_removed"):
        assert packed.evaluate()[name] == pytest.approx(padded.evaluate()[name], abs=1e-5), name
    plain = plain_trainer(tmp_path, alone, per_device_eval_batch_size=3)
    plain.data_collator = collator
    assert packed.evaluate(copilot_weight=0.0)["eval_loss"] == pytest.approx(
        plain.evaluate(rows)["eval_loss"], abs=1e-6
    )
    metrics = packed.predict(rows, copilot_weight=0.0).metrics
    assert metrics["test_loss"] == pytest.approx(plain.predict(rows).metrics["test_loss"], abs=1e-6)


def test_the_pilots_experts_run_as_they_run_alone():
    alone = transformers.AutoModelForCausalLM.from_config(make_pilot("mixtral").config)
    implementation = alone.config._experts_implementation
    pair = make_pair(pilot=alone)
    assert pair.pilot.config._experts_implementation == implementation is not None
