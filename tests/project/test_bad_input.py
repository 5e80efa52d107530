"""Bad input gets an error that says what was given, what was expected and how to mend it."""

import math

import datasets
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.helpers.training_helpers import (
    PAD,
    VOCAB,
    collate,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)
from transformers_copilot import (
    CopilotConfig,
    CopilotTrainer,
    CopilotTrainingArguments,
    MistakeLog,
    PilotCopilotConfig,
    PilotCopilotForCausalLM,
    PilotCopilotForSeq2SeqLM,
    PilotCopilotSeq2SeqConfig,
)


BATCH = collate(reversal_rows(3))


@pytest.fixture(scope="module")
def pair():
    return make_pair().eval()


# ---- Pilot and Copilot that do not fit ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 40}, "do not fit: vocab_size is 23 for the Pilot and 40 for the Copilot"),
        ({"pilot_hidden_size": 20}, "do not fit: hidden_size .* is 16 for the Pilot and 20 for the Copilot"),
        ({"question_size": 20}, "do not fit: width of questions .* is 16 for the Pilot and 20 for the Copilot"),
        (
            {"is_encoder_decoder": True},
            "do not fit: is_encoder_decoder is False for the Pilot and True for the Copilot",
        ),
    ],
)
def test_a_copilot_of_another_size_is_refused(changes, message):
    pilot = make_pilot()
    config = CopilotConfig.from_pilot(pilot.config, **{"num_hidden_layers": 2, **changes})
    with pytest.raises(ValueError, match=message):
        PilotCopilotForCausalLM.from_pilot(pilot, config)
    with pytest.raises(ValueError, match=message):
        PilotCopilotForCausalLM(PilotCopilotConfig(pilot=pilot.config, copilot=config))


def test_another_checkpoint_of_another_vocabulary_is_refused(tmp_path):
    make_pilot(vocab_size=40).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vocab_size is 23 for the Pilot and 40 for the Copilot"):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), str(tmp_path))


# ---- models that cannot be a Pilot ----


def test_an_encoder_is_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=VOCAB, **sizes)
    for model in (transformers.BertModel(config), transformers.BertForMaskedLM(config)):
        with pytest.raises(ValueError, match="does not write text token by token, so it cannot be a Pilot"):
            PilotCopilotForCausalLM.from_pilot(model)
    with pytest.raises(ValueError, match="needs `is_decoder=True`"):
        PilotCopilotForCausalLM.from_pilot(transformers.BertLMHeadModel(config))


def test_an_encoder_given_by_its_path_is_refused(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=VOCAB, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be a Pilot"):
        PilotCopilotForCausalLM.from_pilot(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Mamba", {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}),
        ("Rwkv", {"hidden_size": 16, "attention_hidden_size": 16, "num_hidden_layers": 2}),
    ],
)
def test_a_state_space_model_is_refused(name, fields):
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCAB, **fields)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with pytest.raises(ValueError, match=f"{name}ForCausalLM keeps a recurrent state.* not supported"):
        PilotCopilotForCausalLM.from_pilot(model)


def test_the_other_form_is_refused_and_the_right_class_named():
    with pytest.raises(ValueError, match="use PilotCopilotForSeq2SeqLM"):
        PilotCopilotForCausalLM.from_pilot(make_pilot("t5"))
    with pytest.raises(ValueError, match="use PilotCopilotForCausalLM"):
        PilotCopilotForSeq2SeqLM.from_pilot(make_pilot())


@pytest.mark.parametrize("given", [torch.nn.Linear(2, 2), None, 3])
def test_what_is_no_model_is_refused(given):
    with pytest.raises(TypeError, match=f"the Pilot is a {type(given).__name__}; give a transformers model"):
        PilotCopilotForCausalLM.from_pilot(given)


def test_a_copilot_that_is_no_copilot_is_refused():
    with pytest.raises(TypeError, match="`copilot` is a int; give a CopilotConfig, a dict"):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), 6)
    with pytest.raises(TypeError, match="CopilotConfig has no field layers"):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), {"layers": 6})
    with pytest.raises(ValueError, match="`num_hidden_layers` is 1, but a decoder-only Copilot needs at least 2"):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), {"num_hidden_layers": 1})


# ---- options ----


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        ("error_feedback", "'observed', 'predicted', 'token'"),
        ("fusion", "'logits', 'probability'"),
        ("objective", "'cross_entropy', 'kl', 'mse', 'rmse'"),
        ("mistakes_from", "'labels', 'all'"),
        ("head", "'own', 'pilot'"),
    ],
)
def test_an_unknown_value_names_the_allowed_ones(option, allowed):
    message = f"`{option}` is 'nonsense', which is not one of its values: {allowed}"
    with pytest.raises(ValueError, match=message):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), {"num_hidden_layers": 2}, **{option: "nonsense"})
    if option != "head":
        for config in (PilotCopilotConfig, PilotCopilotSeq2SeqConfig):
            with pytest.raises(ValueError, match=message):
                config(**{option: "nonsense"})


@pytest.mark.parametrize(
    ("option", "allowed"),
    [("form", "'decoder', 'branch', 'linear'"), ("rationale", "'preceding', 'current', 'last', 'depths'")],
)
def test_an_unknown_kind_of_copilot_names_the_allowed_ones(option, allowed):
    message = f"`{option}` is 'nonsense', which is not one of its values: {allowed}"
    with pytest.raises(ValueError, match=message):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), {"num_hidden_layers": 2, option: "nonsense"})
    for config in (PilotCopilotConfig, PilotCopilotSeq2SeqConfig):
        with pytest.raises(ValueError, match=message):
            config(copilot={option: "nonsense"})


def test_options_of_version_0_1_are_refused_where_a_pair_is_made():
    """They are read from its checkpoints only; a new pair has others in their place."""
    for option, value in (("rationale_window", "current"), ("rationale_pooling", "last"), ("mistake_tail", 16)):
        with pytest.raises(TypeError, match=rf"unknown options \['{option}'\]: expected"):
            PilotCopilotForCausalLM.from_pilot(make_pilot(), {"num_hidden_layers": 2}, **{option: value})
    with pytest.raises(TypeError, match="CopilotConfig has no field rationale_input"):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), {"num_hidden_layers": 2, "rationale_input": True})
    made = PilotCopilotConfig(rationale_window="current")  # as from a file: not left aside in silence
    assert made.copilot.rationale == "current"
    with pytest.raises(ValueError, match="`rationale_window` of version 0.1 .* set the Copilot's `rationale`"):
        PilotCopilotConfig(copilot=CopilotConfig(), rationale_window="current")


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match=r"unknown options \['feedback'\]: expected \[.*'error_feedback'"):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), feedback="observed")


@pytest.mark.parametrize("value", ["1.0", None, True, [1.0], 1j])
def test_a_weight_that_is_no_number_is_refused(pair, value):
    if value is not None:  # `None` in a call is the configuration's
        with pytest.raises(TypeError, match=r"`copilot_weight` \(λ\) is .* give a number from 0 to 20"):
            pair(**BATCH, copilot_weight=value)
        with pytest.raises(TypeError, match=r"`copilot_weight` \(λ\) is .* give a number from 0 to 20"):
            pair.generate(BATCH["input_ids"], copilot_weight=value, max_new_tokens=2)
    with pytest.raises((TypeError, ValueError), match="copilot_weight"):
        PilotCopilotConfig(copilot_weight=value)


@pytest.mark.parametrize("value", [-0.1, 20.5, math.inf, math.nan, -1])
def test_a_weight_out_of_bounds_is_refused(pair, value):
    message = r"`copilot_weight` \(λ\) is .*; it must be from 0 \(the Pilot alone\) to 20"
    with pytest.raises(ValueError, match=message):
        pair(**BATCH, copilot_weight=value)
    with pytest.raises(ValueError, match=message):
        pair.generate(BATCH["input_ids"], copilot_weight=value, max_new_tokens=2)
    with pytest.raises(ValueError, match=message):
        PilotCopilotConfig(copilot_weight=value)


@pytest.mark.parametrize("value", [0, -3])
def test_keeping_no_token_of_a_mistake_is_refused(value):
    with pytest.raises(ValueError, match=f"`mistake_top_k` is {value}; give at least 1, or None"):
        PilotCopilotConfig(mistake_top_k=value)


# ---- batches ----


def test_embeddings_are_refused_where_ids_are_needed(pair):
    embeds = torch.randn(1, 4, 16)
    with pytest.raises(ValueError, match="a pair needs `input_ids`"):
        pair(inputs_embeds=embeds)
    with pytest.raises(ValueError, match="input_ids"):
        pair.generate(inputs_embeds=embeds, max_new_tokens=2)
    with pytest.raises(ValueError, match="a pair needs `decoder_input_ids`"):
        make_pair("t5")(input_ids=BATCH["input_ids"], decoder_inputs_embeds=embeds)
    with pytest.raises(ValueError, match="a pair needs `input_ids`"):
        pair()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (0, 0)])
def test_an_empty_batch_is_refused(pair, shape):
    empty = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ValueError, match="`input_ids` is empty"):
        pair(input_ids=empty)
    with pytest.raises(ValueError, match="is empty"):
        pair(input_ids=empty, labels=empty)
    seq2seq = make_pair("t5")
    with pytest.raises(ValueError, match="`decoder_input_ids` is empty"):
        seq2seq(input_ids=BATCH["input_ids"], decoder_input_ids=empty)
    with pytest.raises(ValueError, match="is empty"):
        seq2seq(input_ids=BATCH["input_ids"], labels=empty)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_batch_without_a_supervised_token_has_a_loss_of_zero(family, mode):
    pair = make_pair(family, random_head=True).train(mode == "train")
    output = pair(**{**BATCH, "labels": torch.full_like(BATCH["labels"], -100)})
    assert output.loss.item() == 0.0
    if mode == "train":
        output.loss.backward()
        assert all(p.grad is None or not p.grad.any() for p in pair.parameters())


@pytest.mark.parametrize(("label", "family"), [(VOCAB, "llama"), (VOCAB + 7, "t5"), (-1, "llama"), (-7, "t5")])
@pytest.mark.parametrize("training", [True, False])
def test_labels_past_the_vocabulary_are_refused(label, family, training):
    pair = make_pair(family).train(training)
    labels = BATCH["labels"].clone()
    labels[1, 2] = label
    with pytest.raises(
        ValueError, match=rf"label {label} \(row 1, position 2\) is outside the vocabulary of 23 tokens"
    ):
        pair(**{**BATCH, "labels": labels})


# ---- training ----


def spoil(pilot, value, step=2):
    """From some step on the Pilot's logits hold a bad number in row 1."""
    calls = []

    def hook(module, arguments, output):
        calls.extend([None] * (len(output.logits) > 1))  # one row alone tells what its family does after its head
        if len(calls) > step:
            output.logits = output.logits.clone()
            output.logits[1, :, 4] = value
        return output

    pilot.register_forward_hook(hook)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("feedback", ["token", "observed"])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_bad_logits_name_round_and_rows_and_leave_all_as_it_was(tmp_path, family, feedback, value):
    pair = make_pair(family, error_feedback=feedback)
    trainer = make_trainer(tmp_path, pair, max_steps=5)
    spoil(pair.pilot, value)
    with pytest.raises(ValueError, match=r"round 2: the Pilot's logits hold NaN or inf in rows \[1\] of the batch"):
        trainer.train()
    assert trainer.mistake_log.round_numbers == [0, 1]
    assert all(tensor.isfinite().all() for tensor in state(pair).values())
    assert trainer.mistake_log.nbytes == sum(record.nbytes for record in trainer.mistake_log)


def test_bad_logits_in_the_middle_of_an_accumulated_round(tmp_path):
    pair = make_pair()
    trainer = make_trainer(tmp_path, pair, max_steps=5, gradient_accumulation_steps=2)
    spoil(pair.pilot, math.nan, step=3)
    with pytest.raises(ValueError, match="round 1: "):
        trainer.train()
    assert trainer.mistake_log.round_numbers == [0]


def test_a_token_that_the_pilot_rules_out_is_no_bad_logit(tmp_path):
    pair = make_pair()
    trainer = make_trainer(tmp_path, pair)
    pair.pilot.register_forward_hook(lambda m, a, out: out.logits.__setitem__((..., PAD), -math.inf) or out)
    trainer.train()
    assert len(trainer.mistake_log) == 4
    assert all(tensor.isfinite().all() for tensor in state(pair).values())


def test_padding_may_hold_anything():
    pair = make_pair(random_head=True).train()
    expected = pair(**BATCH)

    def spoil_padding(module, arguments, output):
        output.logits = output.logits.masked_fill(BATCH["attention_mask"].unsqueeze(-1) == 0, math.nan)
        return output

    pair.pilot.register_forward_hook(spoil_padding)
    output = pair(**BATCH)
    assert torch.equal(output.loss, expected.loss) and torch.equal(output.copilot_loss, expected.copilot_loss)


def test_a_model_that_is_no_pair_is_refused(tmp_path):
    arguments = CopilotTrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(TypeError, match=r"the model is a LlamaForCausalLM; give a pair, .*from_pilot"):
        CopilotTrainer(model=make_pilot(), args=arguments)
    plain = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(TypeError, match="`args` is a TrainingArguments; give CopilotTrainingArguments"):
        CopilotTrainer(model=make_pair(), args=plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mistake_log_rounds": 0}, "`mistake_log_rounds` is 0; it must be at least 1"),
        ({"mistake_log_max_bytes": -5}, "`mistake_log_max_bytes` is -5; it must be at least 1"),
        ({"copilot_steps_per_round": 0}, "`copilot_steps_per_round` is 0; it must be at least 1"),
        ({"held_out_mistakes": 1.0}, r"`held_out_mistakes` is 1.0; .* from 0 to below 1"),
        ({"held_out_mistakes": -0.1}, r"`held_out_mistakes` is -0.1; .* from 0 to below 1"),
        ({"mistake_log_dtype": "int8"}, "`mistake_log_dtype` is 'int8', which is not one of its values: 'bfloat16'"),
        ({"mistakes_from": "prompt"}, "`mistakes_from` is 'prompt', which is not one of its values: 'labels', 'all'"),
        ({"use_mistake_log": False, "copilot_steps_per_round": 2}, "without a Mistake Log there is only one round"),
    ],
)
def test_training_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        CopilotTrainingArguments(str(tmp_path), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"copilot_lr_scheduler_type": "nonsense"}, "nonsense is not a valid SchedulerType, please select one of"),
        (
            {"copilot_lr_scheduler_type": "reduce_lr_on_plateau"},
            "reduce_lr_on_plateau.* not a function of the step alone",
        ),
    ],
)
def test_schedules_that_cannot_be(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **arguments).train()


def test_a_stream_cannot_be_held_out_of(tmp_path):
    stream = datasets.Dataset.from_list(reversal_rows(8)).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"`held_out_mistakes` needs a training set of known length"):
        make_trainer(tmp_path, rows=stream, held_out_mistakes=0.1)
    with pytest.raises(ValueError, match=r"`held_out_mistakes` needs a training set of known length"):
        make_trainer(tmp_path, rows=reversal_rows(1), held_out_mistakes=0.1)


def test_rows_that_are_joined_cannot_be_held_out(tmp_path):
    collator = transformers.DataCollatorWithFlattening()
    with pytest.raises(ValueError, match="`held_out_mistakes` flags whole rows, but the collator made 1 of 4 examples"):
        make_trainer(tmp_path, data_collator=collator, held_out_mistakes=0.5).train()


def test_rows_without_labels_are_refused(tmp_path):
    def without_labels(rows):
        return {name: value for name, value in collate(rows).items() if name != "labels"}

    with pytest.raises(ValueError, match="a training batch has no `labels`, only .*'attention_mask', 'input_ids'"):
        make_trainer(tmp_path, data_collator=without_labels).train()


def test_a_round_larger_than_the_log(tmp_path):
    trainer = make_trainer(tmp_path, mistake_log_max_bytes=100)
    with pytest.raises(ValueError, match=r"one round takes [\d,]+ bytes, more than the log's `max_bytes` of 100"):
        trainer.train()
    assert len(trainer.mistake_log) == 0


# ---- files ----


def test_log_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no Mistake Log at"):
        MistakeLog.load(tmp_path / "nothing")
    make_pair().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a safetensors file, but no Mistake Log of format"):
        MistakeLog.load(tmp_path / "model.safetensors")
    log = MistakeLog(fingerprint={"vocab_size": 23})
    log.save(tmp_path / "log.safetensors")
    with pytest.raises(ValueError, match="is another model's: its vocab_size is 23, this Pilot's is 29"):
        MistakeLog.load(tmp_path / "log.safetensors", fingerprint={"vocab_size": 29})
    with pytest.raises(ValueError, match="the Mistake Log is empty"):
        log.sample()
    # Where only labelled positions were recorded, the others' mistakes are not whole; the other way round they are.
    MistakeLog(fingerprint={"mistakes_from": "labels"}).save(tmp_path / "labels.safetensors")
    with pytest.raises(ValueError, match="recorded with mistakes_from='labels': its rounds don't hold"):
        MistakeLog.load(tmp_path / "labels.safetensors", fingerprint={"mistakes_from": "all"})
    MistakeLog(fingerprint={"mistakes_from": "all"}).save(tmp_path / "all.safetensors")
    mixed = MistakeLog.load(tmp_path / "all.safetensors", fingerprint={"mistakes_from": "labels"})
    assert mixed.fingerprint["mistakes_from"] == "labels"
    for bounds in ({"max_rounds": 0}, {"max_bytes": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            MistakeLog(**bounds)


def test_a_checkpoint_without_its_copilot(tmp_path):
    make_pilot().save_pretrained(tmp_path / "pilot")
    with pytest.raises(ValueError, match=r"holds a model of type 'llama', not a pair .*from_pilot"):
        PilotCopilotForCausalLM.from_pretrained(tmp_path / "pilot")
    make_pair().save_pretrained(tmp_path / "pair")
    path = tmp_path / "pair" / "model.safetensors"
    whole = load_file(path)
    for kept in (lambda name: name.startswith("pilot."), lambda name: name != "copilot.norm.weight"):
        save_file({name: tensor for name, tensor in whole.items() if kept(name)}, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"holds no whole Copilot: \d+ of its weights are missing, copilot\."):
            PilotCopilotForCausalLM.from_pretrained(tmp_path / "pair")
