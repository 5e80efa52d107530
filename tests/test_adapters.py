"""Adapters on either part: where they reach, what learns, what is saved, loaded and merged."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_helpers import (
    collate,
    largest_difference,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)

from transformers_copilot import PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM, paper_lora


peft = pytest.importorskip("peft")
# PEFT 0.21's `PeftModel` asks transformers by the old name of `is_activation_checkpointing`.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def lora(targets, **options):
    return peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, **options)


def stir(pair, seed=3):
    """Move every adapter off its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in pair.named_parameters():
            if any(part in name for part in ("lora_", "ia3_", "modules_to_save")):
                weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return pair


def adapted(family="llama", pilot="paper", copilot="paper", **options):
    pair = make_pair(family, random_head=True, **options).eval()
    pair.add_adapters(
        pilot=paper_lora("pilot") if pilot == "paper" else pilot,
        copilot=paper_lora("copilot") if copilot == "paper" else copilot,
    )
    return stir(pair)


def answers(pair):
    batch = collate(reversal_rows(3, seq2seq=pair.config.is_encoder_decoder))
    with torch.no_grad():
        return pair.eval()(**batch).logits


def pair_class(family):
    return PilotCopilotForSeq2SeqLM if family == "t5" else PilotCopilotForCausalLM


# ---- where an adapter reaches ----


def test_the_papers_adapters_are_on_every_matrix_of_the_layers():
    pair = adapted(head="own")
    for part, layers in (("pilot", "model.layers."), ("copilot", "layers.")):
        model = getattr(pair, part)
        found = {name.rpartition(".base_layer")[0] for name, _ in model.named_modules() if ".base_layer" in name}
        plain = make_pair(head="own")
        matrices = {
            name
            for name, module in getattr(plain, part).named_modules()
            if isinstance(module, torch.nn.Linear) and name.startswith(layers)
        }
        assert found == matrices and len(matrices) == 14
        config = model.peft_config["default"]
        assert (config.r, config.lora_alpha) == (32, 64)
        assert config.lora_dropout == {"pilot": 0.05, "copilot": 0.08}[part]


@pytest.mark.parametrize("part", ["pilot", "copilot"])
def test_a_name_that_both_parts_have_reaches_one_of_them(part):
    pair = make_pair()
    pair.add_adapters(**{part: lora(["q_proj", "v_proj"])})
    reached = {name.split(".")[0] for name, _ in pair.named_parameters() if "lora_" in name}
    assert reached == {part}


def test_an_adapter_that_has_learnt_nothing_changes_nothing():
    pair = make_pair(random_head=True)
    before = answers(pair)
    pair.add_adapters(pilot=paper_lora("pilot"), copilot=paper_lora("copilot"))
    assert torch.equal(answers(pair), before)


# ---- what learns ----


@pytest.mark.parametrize("parts", [("pilot",), ("copilot",), ("pilot", "copilot")])
def test_gradients_reach_the_adapters_and_what_is_declared_and_nothing_else(tmp_path, parts):
    pair = make_pair(head="pilot", random_head=True)
    pair.add_adapters(**{part: lora(["q_proj", "o_proj"], lora_dropout=0.1) for part in parts})
    before = state(pair)
    trainer = make_trainer(tmp_path, pair, weight_decay=0.1, copilot_steps_per_round=2, max_steps=3)
    trainer.train()
    moved = {name for name, tensor in state(pair).items() if not torch.equal(tensor, before[name])}
    lessons = {name for name in before if "lora_" in name}
    pilots = {name for name in before if name.startswith("pilot.")}
    new_parts = {
        f"copilot.{name}"
        for name in ("segments", "mistake_projection.weight", "correction_head.weight")
        + ("question_norm.weight", "rationale_norm.weight")
    }
    of_pilot = lessons & pilots if "pilot" in parts else pilots
    of_copilot = (lessons - pilots) | new_parts if "copilot" in parts else set(before) - pilots
    assert moved == of_pilot | of_copilot


def test_the_new_parts_of_a_copilot_can_be_left_alone():
    pair = make_pair()
    pair.add_adapters(copilot=lora(["q_proj"]), train_new_parts=False)
    assert {name for name, weight in pair.copilot.named_parameters() if weight.requires_grad} == {
        name for name, _ in pair.copilot.named_parameters() if "lora_" in name
    }


# ---- saved and loaded ----


CONFIGS = {
    "the paper's": lambda: ("paper", "paper"),
    "Pilot alone": lambda: (lora(["q_proj", "up_proj"]), None),
    "Copilot alone": lambda: (None, lora(None)),
    "ranks and modules to save": lambda: (
        lora(r".*\.self_attn\.[qv]_proj", rank_pattern={"layers.1.self_attn.q_proj": 5}, modules_to_save=["lm_head"]),
        lora(r"layers\.\d\..*_proj", rank_pattern={"layers.0.mlp.up_proj": 3}),
    ),
    "DoRA and IA3": lambda: (
        lora(["q_proj"], use_dora=True),
        peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_saved_adapters_come_back(tmp_path, kind):
    pilot, copilot = CONFIGS[kind]()
    pair = adapted(pilot=pilot, copilot=copilot, copilot_weight=0.6)
    if pilot is None:
        pair.freeze_pilot()
    pair.save_adapters(tmp_path / "adapters")
    again = PilotCopilotForCausalLM.from_pilot(make_pilot(), copilot=str(tmp_path / "adapters"))
    assert torch.equal(answers(again), answers(pair)) and again.config.copilot_weight == 0.6
    weights = {name: weight.requires_grad for name, weight in again.named_parameters() if "lora_" in name}
    assert all(weights.values()), "they learn on"
    pair.save_pretrained(tmp_path / "whole")
    whole = PilotCopilotForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(answers(whole), answers(pair))
    assert largest_difference(state(whole), state(pair)) == 0.0


@pytest.mark.parametrize("family", ["gpt2", "t5", "llama-tied"])
def test_other_families_adapters_come_back(tmp_path, family):
    pair = adapted(family, pilot=lora("all-linear"))
    pair.save_adapters(tmp_path / "adapters")
    again = pair_class(family).from_pilot(make_pilot(family), copilot=str(tmp_path / "adapters"))
    assert torch.equal(answers(again), answers(pair))
    pair.save_pretrained(tmp_path / "whole")
    expected = answers(pair)
    assert torch.equal(answers(pair_class(family).from_pretrained(tmp_path / "whole")), expected)
    pair.merge_adapters()
    torch.testing.assert_close(answers(pair), expected)


def test_a_saved_adapter_is_pefts_own_and_names_no_folder(tmp_path):
    make_pilot().save_pretrained(tmp_path / "pilot")
    pair = PilotCopilotForCausalLM.from_pilot(str(tmp_path / "pilot"), {"num_hidden_layers": 2})
    pair.add_adapters(pilot=lora(["q_proj"]))
    stir(pair).save_adapters(tmp_path / "saved")
    for file in (tmp_path / "saved").rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file
    alone = peft.PeftModel.from_pretrained(make_pilot(), str(tmp_path / "saved" / "pilot_adapter")).eval()
    batch = collate(reversal_rows(3))
    with torch.no_grad():
        assert torch.equal(alone(**batch).logits, pair.eval()(**batch).pilot_logits)


def test_training_with_adapters_is_resumed(tmp_path):
    given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, adapted(), **given)
    whole.train()
    again = make_trainer(tmp_path, stir(adapted(), seed=9), **given)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert largest_difference(state(whole.pair), state(again.pair)) == 0.0
    loaded = PilotCopilotForCausalLM.from_pretrained(tmp_path / "checkpoint-4")
    assert largest_difference(state(whole.pair), state(loaded)) == 0.0


# ---- merged ----


@pytest.mark.parametrize("kind", CONFIGS)
def test_merged_adapters_leave_a_plain_pair(tmp_path, kind):
    pilot, copilot = CONFIGS[kind]()
    pair = adapted(pilot=pilot, copilot=copilot)
    expected = answers(pair)
    pair.merge_adapters()
    torch.testing.assert_close(answers(pair), expected, atol=1e-5, rtol=1e-4)
    assert pair.state_dict().keys() == make_pair().state_dict().keys()
    assert all(weight.requires_grad for weight in pair.parameters())
    pair.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).get("adapters") is None
    assert not [file for file in tmp_path.iterdir() if file.is_dir()]
    assert torch.equal(answers(PilotCopilotForCausalLM.from_pretrained(tmp_path)), answers(pair))
    pair.add_adapters(pilot=lora(["q_proj"]))  # and it takes others


# ---- a Pilot that has adapters already ----


def test_a_peft_model_is_a_pilot(tmp_path):
    torch.manual_seed(3)
    wrapped = peft.get_peft_model(make_pilot(), lora(["q_proj"], init_lora_weights=False)).eval()
    batch = collate(reversal_rows(3))
    with torch.no_grad():
        alone = copy.deepcopy(wrapped)(**batch).logits
    pair = PilotCopilotForCausalLM.from_pilot(wrapped, {"num_hidden_layers": 2}).eval()
    with torch.no_grad():
        assert torch.equal(pair(**batch).pilot_logits, alone)
    assert list(pair.pilot.peft_config) == ["default"]
    pair.save_adapters(tmp_path)
    again = PilotCopilotForCausalLM.from_pilot(make_pilot(), copilot=str(tmp_path))
    assert torch.equal(answers(again), answers(pair))
    merged = answers(pair)
    pair.merge_adapters()
    torch.testing.assert_close(answers(pair), merged)


# ---- refused ----


def test_what_would_lose_something_is_refused(tmp_path):
    pair = adapted()
    with pytest.raises(ValueError, match="`save_copilot` would lose: use `save_adapters`"):
        pair.save_copilot(tmp_path)
    with pytest.raises(ValueError, match="has the adapter 'default' already; merge it first"):
        pair.add_adapters(pilot=lora(["q_proj"]))
    pair.pilot.model.norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"1 of the Pilot's own weights learn too, model.norm.weight first"):
        pair.save_adapters(tmp_path)
    with pytest.raises(ValueError, match="the pair has no adapter; `save_copilot`"):
        make_pair().save_adapters(tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing was written"


def test_configurations_that_do_not_fit_are_refused_and_leave_the_pair_as_it_was():
    pair = make_pair()
    before = answers(pair)
    with pytest.raises(TypeError, match="the pilot's adapter is a dict; give a PEFT configuration"):
        pair.add_adapters(pilot={"r": 8})
    with pytest.raises(ValueError, match="no_such_module"):
        pair.add_adapters(copilot=lora(["no_such_module"]))
    with pytest.raises(ValueError, match="PROMPT_TUNING learns a prompt"):
        pair.add_adapters(pilot=peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompted = peft.get_peft_model(make_pilot(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ValueError, match="PeftModel with PROMPT_TUNING"):
        PilotCopilotForCausalLM.from_pilot(prompted, {"num_hidden_layers": 2})
    with pytest.raises(ValueError, match="`part` is 'navigator'"):
        paper_lora("navigator")
    pair.add_adapters(copilot=lora(["q_proj"]))
    assert torch.equal(answers(pair), before)


def test_a_tied_head_is_not_merged():
    pair = make_pair("llama-tied")
    pair.add_adapters(pilot=lora(["lm_head"]))
    with pytest.raises(ValueError, match="share one weight"):
        pair.merge_adapters()


@pytest.mark.parametrize("what", ["weight", "file", "part"])
def test_an_adapter_that_is_not_whole_is_refused(tmp_path: Path, what):
    adapted().save_adapters(tmp_path)
    file = tmp_path / "copilot_adapter" / "adapter_model.safetensors"
    kind, message = ValueError, "the adapter of the copilot in .* does not fit it: 1 weights are missing"
    if what == "weight":
        weights = load_file(file)
        weights.popitem()
        save_file(weights, file)
    elif what == "file":
        file.unlink()
        kind, message = OSError, "adapter_model.safetensors"
    else:
        pairing = json.loads((tmp_path / "pairing.json").read_text())
        (tmp_path / "pairing.json").write_text(json.dumps({**pairing, "adapters": {"../pilot": "default"}}))
        message = "names an adapter of '../pilot'"
    with pytest.raises(kind, match=message):
        PilotCopilotForCausalLM.from_pilot(make_pilot(), copilot=str(tmp_path))


def test_a_checkpoint_with_an_adapter_inside_is_refused(tmp_path):
    """As transformers alone would save one: its layers would come back random."""
    pair = adapted()
    pair.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    plain = load_file(weights)
    inside = {
        name.replace("q_proj.", "q_proj.base_layer.") if name.startswith("pilot.") else name: t
        for name, t in plain.items()
    }
    save_file(inside, weights, {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "adapters": None}))
    with pytest.raises(ValueError, match="saved with an adapter inside"):
        PilotCopilotForCausalLM.from_pretrained(tmp_path)
