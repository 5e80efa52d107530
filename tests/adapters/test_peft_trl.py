"""Beside PEFT's adapters and under TRL's SFTTrainer."""

import copy
from dataclasses import dataclass

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    logged,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)
from tests.training.test_trainer import plain_trainer
from transformers_copilot import CopilotTrainerMixin, MistakeLog
from transformers_copilot.training.arguments import CopilotArguments


peft = pytest.importorskip("peft")
# TRL's own default goes by the old name of `activation_checkpointing`, and so does PEFT 0.21's `PeftModel`.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`(is_)?gradient_checkpointing(_disable|_enable)?` is deprecated:FutureWarning",
)


# ---- adapters ----


def lora(**options):
    return peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)


def adapted(when, **options):
    """A pair whose Pilot has a LoRA adapter, added before the pair was made or after."""
    pilot = make_pilot()
    torch.manual_seed(3)
    if when == "before":
        return make_pair(pilot=peft.get_peft_model(pilot, lora()), **options)
    pair = make_pair(pilot=pilot, **options)
    torch.manual_seed(3)
    pair.add_adapters(pilot=lora())
    return pair


@pytest.mark.parametrize("head", ["own", "pilot"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_only_adapters_and_the_copilot_move(tmp_path, when, head):
    pair = adapted(when, head=head)
    before = state(pair)
    trainer = make_trainer(tmp_path, pair, weight_decay=0.1, copilot_steps_per_round=2)
    trainer.train()
    after = state(pair)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    adapters = {name for name in before if "lora_" in name}
    assert {name for name in moved if name.startswith("pilot.")} == adapters and len(adapters) == 8
    assert len([name for name in moved if name.startswith("copilot.")]) > 10
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for name, p in pair.named_parameters() if p.requires_grad}
    assert trainer.mistake_log[0].question is None  # the embedding is frozen: tokens say it all
    assert trainer.evaluate()["eval_mistake_size"] > 0


def test_the_copilot_starts_from_the_base_layers_of_an_adapted_pilot():
    plain, pair = make_pair(), adapted("before")
    assert largest_difference(state(plain.copilot), state(pair.copilot)) == 0.0


def test_the_pilot_learns_as_it_would_alone(tmp_path):
    pair = adapted("before")
    alone = make_pilot()
    torch.manual_seed(3)
    alone = peft.get_peft_model(alone, lora())
    make_trainer(tmp_path, pair).train()
    plain_trainer(tmp_path, alone).train()
    assert largest_difference(state(pair.pilot), state(alone.get_base_model())) < 1e-6


def test_an_adapted_pair_generates():
    pair = adapted("before", random_head=True).eval()
    prompt = collate(reversal_rows(2))["input_ids"][:, :4]
    assert torch.equal(
        pair.generate(prompt, max_new_tokens=4, copilot_weight=0.0, do_sample=False),
        pair.pilot.generate(prompt, max_new_tokens=4, do_sample=False),
    )


def test_training_of_an_adapted_pair_is_resumed(tmp_path):
    given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, adapted("before"), **given)
    whole.train()
    fresh = adapted("before")
    with torch.no_grad():
        for parameter in fresh.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    again = make_trainer(tmp_path, fresh, **given)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert largest_difference(state(whole.pair), state(fresh)) == 0.0


# ---- SFTTrainer ----

TEXTS = [f"{a}+{b}={a + b}." for a in range(3, 9) for b in range(2, 8)]


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of single characters."""
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<end>", *"0123456789+=."])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")


def sft_parts():
    trl = pytest.importorskip("trl")

    class SFTCopilotTrainer(CopilotTrainerMixin, trl.SFTTrainer):
        pass

    @dataclass
    class Arguments(CopilotArguments, trl.SFTConfig):
        pass

    return SFTCopilotTrainer, Arguments


def sft_trainer(folder, rows, pair=None, **arguments):
    trainer_class, arguments_class = sft_parts()
    tokenizer = letters()
    sizes = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    pair = make_pair(pilot=make_pilot(**sizes, bos_token_id=None)) if pair is None else pair
    given = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": [],
    }
    given = {**given, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "bf16": False, **arguments}
    return trainer_class(
        model=pair,
        args=arguments_class(str(folder), **given),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(rows[:6]),
        processing_class=tokenizer,
    )


PROMPTS = [{"prompt": text.split("=")[0] + "=", "completion": text.split("=")[1]} for text in TEXTS]


@pytest.mark.parametrize(
    ("rows", "arguments"),
    [
        ([{"text": text} for text in TEXTS], {}),
        (PROMPTS, {}),
        (PROMPTS, {"gradient_accumulation_steps": 2, "copilot_steps_per_round": 2, "copilot_learning_rate": 1e-3}),
        (PROMPTS, {"bf16": True, "freeze_pilot": True}),
    ],
    ids=["text", "prompt and completion", "accumulation", "bfloat16, frozen"],
)
def test_sft_trainer_trains_a_pair(tmp_path, rows, arguments):
    trainer = sft_trainer(tmp_path, rows, **arguments)
    before = state(trainer.pair)
    trainer.train()
    after = state(trainer.pair)
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == ({"copilot"} if arguments.get("freeze_pilot") else {"pilot", "copilot"})
    assert len(trainer.mistake_log) == 4 and isinstance(trainer.mistake_log, MistakeLog)
    assert len(logged(trainer, "pilot_loss")) == len(logged(trainer, "copilot_loss")) == 4
    assert {group["part"] for group in trainer.optimizer.param_groups} >= {"copilot"}
    metrics = trainer.evaluate()
    assert abs(metrics["eval_mistake_removed"]) < 1 and metrics["eval_loss"] > 0


def test_sft_trains_on_completions_alone(tmp_path):
    trainer = sft_trainer(tmp_path, PROMPTS, max_steps=1)
    trainer.train()
    record = trainer.mistake_log[0]
    tokenizer = letters()
    texts = [tokenizer.decode(ids) for ids in record.token_ids.long().split(record.lengths.tolist())]
    labels = [tokenizer.decode(ids[ids >= 0]) for ids in record.labels.long().split(record.lengths.tolist())]
    for text, label in zip(texts, labels, strict=True):
        assert text.split("=")[1].removesuffix("<end>") == label.removesuffix("<end>")


def test_sft_holds_rows_out(tmp_path):
    trainer = sft_trainer(tmp_path, PROMPTS, held_out_mistakes=0.5)
    pair = trainer.pair
    seen = []
    trained = pair.forward

    def watched(*args, **kwargs):
        if pair.training and kwargs.get("input_ids") is not None:
            seen.append(kwargs.get("held_out"))
        return trained(*args, **kwargs)

    pair.forward = watched
    trainer.train()
    assert all(flags is not None for flags in seen)
    assert 0 < sum(int(flags.sum()) for flags in seen) < 16


def test_sft_packs_documents_without_mixing_them(tmp_path):
    sizes = {"vocab_size": len(letters()), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    pair = make_pair(pilot=make_pilot(**sizes))
    start = copy.deepcopy(pair).train()
    given = {"packing": True, "max_length": 32, "padding_free": True, "mistake_log_dtype": "float32"}
    trainer = sft_trainer(tmp_path, [{"text": text} for text in TEXTS], pair, **given)
    trainer.train()
    record, begin = trainer.mistake_log[0], 0
    assert len(record.lengths) > 4  # documents, not rows
    for length in record.lengths.tolist():
        tokens = slice(begin, begin + length)
        ids = record.token_ids[tokens].long().unsqueeze(0)
        assert letters().decode(ids[0]).count("=") == 1
        with torch.no_grad():
            alone = start(input_ids=ids, labels=ids, return_mistakes=True).mistakes
        torch.testing.assert_close(record.rationale[tokens], alone.rationale[0])
        torch.testing.assert_close(record.next_probabilities[tokens][:-1], alone.next_probabilities[0, :-1])
        begin += length


SFT_SETTINGS = {
    "plain": {},
    "dft": {"loss_type": "dft"},
    "smoothed": {"label_smoothing_factor": 0.1},
    "accumulated": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "packed": {"packing": True, "max_length": 32, "padding_free": True, "eval_packing": True},
    "completions and prompts": {"completion_only_loss": False},
}


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated in `SFTTrainer`:FutureWarning")
@pytest.mark.parametrize("name", SFT_SETTINGS)
def test_sft_teaches_the_pilot_what_it_teaches_it_alone(tmp_path, name):
    """Its losses, its packing and its own metrics; to rounding, since its fused head sums in another order."""
    trl = pytest.importorskip("trl")
    sizes = {"vocab_size": len(letters()), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    alone = make_pilot(**sizes)
    rows = [{"text": text} for text in TEXTS] if name == "packed" else PROMPTS
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 3, "max_grad_norm": 0.0, **SFT_SETTINGS[name]}
    trainer = sft_trainer(tmp_path, rows, make_pair(pilot=copy.deepcopy(alone), random_head=True), **settings)
    trainer.train()
    given = {"per_device_train_batch_size": 4, "logging_steps": 1, "report_to": [], "save_strategy": "no", **settings}
    plain = trl.SFTTrainer(
        model=alone,
        args=trl.SFTConfig(str(tmp_path), disable_tqdm=True, use_cpu=True, bf16=False, **given),
        train_dataset=datasets.Dataset.from_list(rows),
        eval_dataset=datasets.Dataset.from_list(rows[:6]),
        processing_class=letters(),
    )
    plain.train()
    assert largest_difference(state(trainer.pair.pilot), state(alone)) < 1e-6
    assert logged(trainer, "pilot_loss") == pytest.approx(logged(plain, "loss"), abs=2e-4)
    for metric in ("entropy", "mean_token_accuracy", "num_tokens"):
        assert logged(trainer, metric) == pytest.approx(logged(plain, metric), abs=1e-4), metric
    metrics, expected = trainer.evaluate(copilot_weight=0.0), plain.evaluate()
    for metric in ("eval_loss", "eval_entropy", "eval_mean_token_accuracy"):
        assert metrics[metric] == pytest.approx(expected[metric], abs=1e-5), metric


def test_sft_keeps_the_routers_loss(tmp_path):
    trl = pytest.importorskip("trl")
    sizes = {"vocab_size": len(letters()), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    alone = make_pilot("mixtral", **sizes)
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 3, "max_grad_norm": 0.0, "router_aux_loss_coef": 0.5}
    trainer = sft_trainer(tmp_path, PROMPTS, make_pair(pilot=copy.deepcopy(alone)), **settings)
    trainer.train()
    given = {"per_device_train_batch_size": 4, "logging_steps": 1, "report_to": [], "save_strategy": "no", **settings}
    plain = trl.SFTTrainer(
        model=alone,
        args=trl.SFTConfig(str(tmp_path), disable_tqdm=True, use_cpu=True, bf16=False, **given),
        train_dataset=datasets.Dataset.from_list(PROMPTS),
        processing_class=letters(),
    )
    plain.train()
    assert largest_difference(state(trainer.pair.pilot), state(alone)) < 1e-6
    assert logged(trainer, "aux_loss") == pytest.approx(logged(plain, "aux_loss"), abs=1e-4)
    assert len(logged(plain, "aux_loss")) == 3


def test_sft_does_not_teach_the_pilot_the_rows_that_are_held_out(tmp_path):
    """Whatever stands in held-out rows, the Pilot becomes the same; the Copilot does not."""
    sizes = {"vocab_size": len(letters()), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 4, "held_out_mistakes": 0.5, "max_grad_norm": 0.0}
    ends = []
    for changed in (False, True):
        trainer = sft_trainer(tmp_path, PROMPTS, make_pair(pilot=make_pilot(**sizes), random_head=True), **settings)

        def collated(rows, collate=trainer.data_collator, changed=changed):
            batch = collate(rows)
            if changed:  # another answer to every question that is held out
                other = (batch["labels"] >= 0) & batch["held_out"].unsqueeze(-1)
                batch["labels"] = batch["labels"].masked_fill(other, sizes["vocab_size"] - 1)
            return batch

        trainer.data_collator = collated
        trainer.train()
        ends.append((state(trainer.pair.pilot), state(trainer.pair.copilot)))
    assert largest_difference(ends[0][0], ends[1][0]) == 0.0
    assert largest_difference(ends[0][1], ends[1][1]) > 1e-4


# ---- TRL's trainers without the mixin, and those that no mixin helps ----

SIZES = {"vocab_size": 15, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
PREFERRED = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": row["completion"][::-1] + "9"} for row in PROMPTS
]


def trl_trainer(folder, kind, model, mixin=False, peft_config=None, **arguments):
    """One of TRL's trainers of a model; with `mixin`, behind CopilotTrainerMixin."""
    trl = pytest.importorskip("trl")
    base, config = getattr(trl, f"{kind}Trainer"), getattr(trl, f"{kind}Config")
    if mixin:
        base = type("Trained", (CopilotTrainerMixin, base), {})
        config = dataclass(type("Arguments", (CopilotArguments, config), {}))
    given = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": [], "save_strategy": "no", **arguments}
    if kind == "GRPO":
        given = {"num_generations": 4, **given}
    others = {
        "SFT": {},
        "DPO": {"ref_model": make_pilot(**SIZES)},
        "GRPO": {"reward_funcs": lambda completions, **_: [float(len(text)) for text in completions]},
        "Distillation": {"teacher_model": make_pilot(**SIZES)},
    }
    return base(
        model=model,
        args=config(str(folder), disable_tqdm=True, use_cpu=True, bf16=False, **given),
        train_dataset=datasets.Dataset.from_list(PREFERRED if kind == "DPO" else PROMPTS),
        processing_class=letters(),
        peft_config=peft_config,
        **others[kind],
    )


@pytest.mark.parametrize("peft_config", [None, lora()], ids=["whole", "peft_config"])
@pytest.mark.parametrize(
    ("kind", "mixin", "message"),
    [
        ("SFT", False, r"SFTTrainer alone can't train a pair.*class MyTrainer\(CopilotTrainerMixin, SFTTrainer\)"),
        ("DPO", False, r"TRL's trainer 'dpo' can't train a pair.*`model=pair.pilot`"),
        ("GRPO", False, r"TRL's trainer 'grpo' can't train a pair.*`model=pair.pilot`"),
        ("Distillation", False, r"TRL's trainer 'distillation' can't train a pair.*`model=pair.pilot`"),
        ("DPO", True, r"TRL's trainer 'dpo' can't train a pair.*`model=pair.pilot`"),
        ("GRPO", True, r"TRL's trainer 'grpo' can't train a pair.*`model=pair.pilot`"),
    ],
)
def test_a_trl_trainer_that_cannot_teach_both_parts_is_refused_when_it_is_made(
    tmp_path, kind, mixin, message, peft_config
):
    with pytest.raises(ValueError, match=message):
        trl_trainer(tmp_path, kind, make_pair(pilot=make_pilot(**SIZES)), mixin, peft_config)


def test_a_trainer_with_the_mixin_lets_no_later_one_without_it_through(tmp_path):
    pair = make_pair(pilot=make_pilot(**SIZES))
    trl_trainer(tmp_path, "SFT", pair, mixin=True).train()
    assert pair.model_tags == ["trl", "sft"]
    with pytest.raises(ValueError, match="SFTTrainer alone can't train a pair"):
        trl_trainer(tmp_path, "SFT", pair)


def test_tags_of_a_users_own_are_kept():
    pair = make_pair()
    pair.add_model_tags("trl")
    pair.add_model_tags(["sft", "arithmetic"])
    assert pair.model_tags == ["trl", "sft", "arithmetic"]


def test_a_pilot_learns_by_dpo_and_its_copilot_afterwards(tmp_path):
    """What the refusal advises."""
    alone = make_pilot(**SIZES)
    pair = make_pair(pilot=copy.deepcopy(alone), random_head=True)
    trl_trainer(tmp_path, "DPO", pair.pilot, optim="sgd", learning_rate=0.1).train()
    trl_trainer(tmp_path, "DPO", alone, optim="sgd", learning_rate=0.1).train()
    assert largest_difference(state(pair.pilot), state(alone)) == 0.0
    before = state(pair)
    trl_trainer(tmp_path, "SFT", pair, mixin=True, freeze_pilot=True).train()
    moved = {name.split(".")[0] for name, value in state(pair).items() if not torch.equal(before[name], value)}
    assert moved == {"copilot"}


@pytest.mark.parametrize("checkpointing", [True, False])
def test_sft_with_a_peft_config_teaches_the_pilot_what_it_teaches_it_alone(tmp_path, checkpointing):
    settings = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 3, "max_grad_norm": 0.0}
    settings = {**settings, "gradient_checkpointing": checkpointing}
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    alone = make_pilot(**SIZES)
    pair = make_pair(pilot=copy.deepcopy(alone), random_head=True)
    trainers = []
    for model in (pair, alone):
        trainers.append(trl_trainer(tmp_path, "SFT", model, model is pair, config, **settings))
        trainers[-1].train()
    learnt, expected = state(pair.pilot), state(trainers[1].model.get_base_model())
    assert largest_difference(learnt, expected) < 1e-6
    assert any("lora_B" in name and weight.abs().max() > 0 for name, weight in learnt.items())
