"""Adapters on either part: where they reach, what learns, what is saved, loaded and merged."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)
from transformers_copilot import (
    CopilotSeq2SeqTrainer,
    CopilotTrainer,
    CopilotTrainingArguments,
    PilotCopilotForCausalLM,
    PilotCopilotForSeq2SeqLM,
    paper_lora,
)


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


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("copilot", [{"form": "linear"}, {"form": "branch", "num_hidden_layers": 1}], ids=str)
def test_an_adapter_of_another_form_is_on_every_matrix_that_it_has(family, copilot, tmp_path):
    """A linear Copilot has one, and nothing besides; all that a branch has is a copy of its Pilot's."""
    pair = make_pair(family, copilot=copilot, random_head=True).eval()
    before = answers(pair)
    pair.add_adapters(copilot=paper_lora("copilot"))
    assert torch.equal(answers(pair), before)
    stir(pair)
    learning = {name for name, weight in pair.copilot.named_parameters() if weight.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    found = {name.rpartition(".base_layer")[0] for name, _ in pair.copilot.named_modules() if ".base_layer" in name}
    matrices = {
        name
        for name, module in make_pair(family, copilot=copilot).copilot.named_modules()
        if isinstance(module, (torch.nn.Linear, transformers.pytorch_utils.Conv1D))
    }
    assert found == matrices and found
    expected = answers(pair)
    assert (expected - before).abs().max() > 1e-3
    pair.save_pretrained(tmp_path)
    torch.testing.assert_close(answers(pair_class(family).from_pretrained(tmp_path)), expected, rtol=1e-5, atol=1e-5)
    pair.merge_adapters()
    torch.testing.assert_close(answers(pair), expected, rtol=1e-4, atol=1e-5)


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
    torch.testing.assert_close(answers(pair), expected, atol=1e-4, rtol=1e-4)  # of logits up to 4


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


WRITTEN_BY_HAND = {"fingerprint": None, "fields_fingerprint": None, "checksums": None}


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
        pairing |= {**WRITTEN_BY_HAND, "adapters": {"../pilot": "default"}}
        (tmp_path / "pairing.json").write_text(json.dumps(pairing))
        message = r"pairing\.json .* names an adapter of '\.\./pilot'"
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
    (tmp_path / "config.json").write_text(json.dumps({**config, **WRITTEN_BY_HAND, "adapters": None}))
    with pytest.raises(ValueError, match="saved with an adapter inside"):
        PilotCopilotForCausalLM.from_pretrained(tmp_path)


# ---- states that would not come back ----


def before(config=None, pilot=None):
    """A Pilot in its PeftModel."""
    torch.manual_seed(3)
    config = lora(["q_proj"], init_lora_weights=False) if config is None else config
    return peft.get_peft_model(make_pilot() if pilot is None else pilot, config)


def from_pilot(pilot):
    torch.manual_seed(1)
    return PilotCopilotForCausalLM.from_pilot(pilot, {"num_hidden_layers": 2}).eval()


def test_several_adapters_are_refused_before_anything_is_trained():
    two = before()
    two.add_adapter("second", lora(["v_proj"]))
    with pytest.raises(
        ValueError, match="has 2 adapters, default, second; a pair keeps one .*`delete_adapter`, or merge"
    ):
        from_pilot(two)
    two.delete_adapter("second")
    pair = from_pilot(two)
    pair.pilot.peft_config["second"] = lora(["v_proj"])  # as `add_adapter` of the PeftModel would
    with pytest.raises(ValueError, match="has 2 adapters"):
        pair.merge_adapters()
    mixed = peft.get_peft_model(make_pilot(), lora(["q_proj"]), mixed=True)
    with pytest.raises(ValueError, match="PeftMixedModel, which mixes several adapters"):
        from_pilot(mixed)


SWITCHES = {
    "merged": (lambda model: model.merge_adapter(), "is merged into the weights for now"),
    "switched off": (lambda model: model.base_model.disable_adapter_layers(), "is switched off"),
    "not active": (lambda model: model.base_model.set_adapter([]), "is switched off"),
}


@pytest.mark.parametrize(
    ("switch", "kind"),
    [
        *((switch, kind) for switch in SWITCHES for kind in ("LoRA", "IA3")),
        *((switch, kind) for switch in ("merged", "switched off") for kind in ("a copy of the head", "tokens")),
    ],
)
def test_what_would_come_back_otherwise_is_refused(tmp_path, switch, kind):
    change, message = SWITCHES[switch]
    config = {
        "LoRA": lora(["q_proj"], init_lora_weights=False),
        "a copy of the head": lora(["q_proj"], modules_to_save=["lm_head"]),
        "tokens": lora(["q_proj"], trainable_token_indices=[3]),
        "IA3": peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
    }[kind]
    changed = before(config)
    change(changed)
    with pytest.raises(ValueError, match=message):
        from_pilot(changed)
    given = before(config)
    pair = from_pilot(given)
    change(given)
    for save in (pair.save_pretrained, pair.save_adapters):
        with pytest.raises(ValueError, match=message):
            save(tmp_path)
    with pytest.raises(ValueError, match=message):
        pair.merge_adapters()


def test_an_adapter_that_is_only_read_stays_as_it_is(tmp_path):
    before().save_pretrained(tmp_path / "adapter")
    pair = from_pilot(peft.PeftModel.from_pretrained(make_pilot(), str(tmp_path / "adapter")))
    assert pair.pilot_is_frozen
    start = state(pair.pilot)
    make_trainer(tmp_path / "run", pair).train()
    assert largest_difference(state(pair.pilot), start) == 0.0
    expected = answers(pair)
    pair.save_pretrained(tmp_path / "whole")
    assert torch.equal(answers(PilotCopilotForCausalLM.from_pretrained(tmp_path / "whole")), expected)


def test_a_frozen_adapter_learns_again_alone():
    pair = from_pilot(before())
    learns = {name for name, weight in pair.pilot.named_parameters() if weight.requires_grad}
    for _ in range(2):
        pair.freeze_pilot()
        pair.freeze_pilot()
        assert pair.pilot_is_frozen
        pair.freeze_pilot(False)
        assert {name for name, weight in pair.pilot.named_parameters() if weight.requires_grad} == learns


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_model_that_peft_has_changed_in_place_is_known(tmp_path, when):
    """`get_peft_model` returns a PeftModel, and changes what it was given: either may come to a pair."""
    pilot = make_pilot()
    if when == "before":
        before(pilot=pilot)
        pair = from_pilot(pilot)
    else:
        pair = from_pilot(pilot)
        before(pilot=pair.pilot)
    stir(pair)
    expected = answers(pair)
    pair.save_pretrained(tmp_path / "whole")
    pair.save_adapters(tmp_path / "adapters")
    assert torch.equal(answers(PilotCopilotForCausalLM.from_pretrained(tmp_path / "whole")), expected)
    again = PilotCopilotForCausalLM.from_pilot(make_pilot(), copilot=str(tmp_path / "adapters"))
    assert torch.equal(answers(again), expected)
    pair.merge_adapters()
    torch.testing.assert_close(answers(pair), expected)


def test_weights_outside_the_layers_need_the_peft_model():
    pilot = make_pilot()
    before(peft.VBLoRAConfig(r=2, num_vectors=6, vector_length=4, target_modules=["q_proj"]), pilot)
    with pytest.raises(ValueError, match="VBLORA keeps weights outside the layers.*Give the PeftModel itself"):
        from_pilot(pilot)


def test_layers_of_an_adapter_that_was_deleted_are_refused():
    left = before()
    left.delete_adapter("default")
    with pytest.raises(ValueError, match=r"has no adapter any more, but its layers.*`unload\(\)`"):
        from_pilot(left)
    pilot = left.base_model.model
    del pilot.peft_config
    with pytest.raises(ValueError, match="the pilot has 2 layers of an adapter that was deleted.*`unload\\(\\)`"):
        from_pilot(pilot)
    unloaded = before().unload()
    assert answers(from_pilot(unloaded)).isfinite().all()


def test_transformers_own_adapters(tmp_path):
    """Where transformers takes the PEFT that is installed; a pair itself does not need it to."""
    given = before()
    with torch.no_grad():
        expected = given.eval()(**collate(reversal_rows(3))).logits
    given.save_pretrained(tmp_path / "adapter")
    pilot = make_pilot()
    try:
        pilot.load_adapter(str(tmp_path / "adapter"))
    except ValueError as error:
        if "version of PEFT" not in str(error):
            raise
        pytest.skip(str(error))
    pair = from_pilot(pilot)
    with torch.no_grad():
        assert torch.equal(pair(**collate(reversal_rows(3))).pilot_logits, expected)
    pair.save_pretrained(tmp_path / "whole")
    assert torch.equal(answers(PilotCopilotForCausalLM.from_pretrained(tmp_path / "whole")), answers(pair))


def test_the_id_or_path_of_an_adapter_is_no_pilot(tmp_path):
    before().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds an adapter and not the model.*AutoPeftModelForCausalLM"):
        from_pilot(str(tmp_path))


@pytest.mark.parametrize("targets", [["q_proj", "norm"], ["embed_tokens", "rotary_emb"]])
def test_half_an_adapter_is_not_left_behind(tmp_path, targets):
    """PEFT replaces module after module, and stops at one that it does not know."""
    pair = make_pair(random_head=True)
    start, expected = state(pair), answers(pair)
    with pytest.raises((ValueError, TypeError), match="not supported"):
        pair.add_adapters(pilot=lora(targets))
    assert largest_difference(state(pair), start) == 0.0 and torch.equal(answers(pair), expected)
    assert all(weight.requires_grad for weight in pair.parameters())
    pair.save_pretrained(tmp_path)
    pair.add_adapters(pilot=lora(["q_proj"]))


def test_weights_that_are_not_finite_are_not_merged():
    pair = adapted()
    with torch.no_grad():
        next(weight for name, weight in pair.copilot.named_parameters() if "lora_B" in name)[0, 0] = torch.inf
    start = state(pair)
    with pytest.raises(ValueError, match="the copilot's adapter cannot be merged: .*lora_B.* is not finite"):
        pair.merge_adapters()
    after = state(pair)
    assert all(torch.equal(after[name], tensor) for name, tensor in start.items()), "the Pilot's was not merged either"


def test_adapters_stay_float32_beside_a_bfloat16_pilot(tmp_path):
    pair = from_pilot(make_pilot().to(torch.bfloat16))
    pair.add_adapters(pilot=lora(["q_proj"], init_lora_weights=False))
    pair.save_pretrained(tmp_path)
    again = PilotCopilotForCausalLM.from_pretrained(tmp_path, dtype="auto")
    for each in (pair, again):
        assert {w.dtype for name, w in each.pilot.named_parameters() if "lora_" in name} == {torch.float32}
        assert {w.dtype for name, w in each.pilot.named_parameters() if "lora_" not in name} == {torch.bfloat16}
    assert torch.equal(answers(again), answers(pair))


def test_writers_side_by_side_each_write_all_of_it(tmp_path):
    pair = adapted()
    expected = answers(pair)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: pair.save_pretrained(tmp_path / str(number)), range(8)))
    for number in range(8):
        assert torch.equal(answers(PilotCopilotForCausalLM.from_pretrained(tmp_path / str(number))), expected)


# ---- around a pair, instead of inside its parts ----


def test_a_peft_model_of_a_pair_is_refused(tmp_path):
    around = peft.get_peft_model(make_pair(), lora(["q_proj"]))
    advice = r"around a pair.*`model.unload\(\)`.*`pair.add_adapters\(pilot=config\)`"
    with pytest.raises(ValueError, match=advice):
        from_pilot(around)
    for trainer in (CopilotTrainer, CopilotSeq2SeqTrainer):
        with pytest.raises(ValueError, match=advice):
            trainer(around, CopilotTrainingArguments(str(tmp_path), report_to=[], use_cpu=True))
    with pytest.raises(ValueError, match=advice):
        make_trainer(tmp_path, around)
    assert from_pilot(around.unload().pilot).config.adapters is None


def test_a_trainers_own_peft_config_goes_into_the_pilot_and_nothing_else(tmp_path):
    config, pair = lora(["q_proj"]), make_pair()
    trainer = make_trainer(tmp_path, pair, trainer_kwargs={"peft_config": config})
    assert list(pair.pilot.peft_config) == ["default"] and not hasattr(pair.copilot, "peft_config")
    assert {name.split(".")[0] for name in state(pair) if "lora_" in name} == {"pilot"}
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = PilotCopilotForCausalLM.from_pretrained(tmp_path / "saved")
    assert largest_difference(state(loaded), state(pair)) == 0.0


@pytest.mark.parametrize(
    ("make", "config", "arguments", "message"),
    [
        (adapted, lora(["q_proj"]), {}, "the Pilot has the adapter 'default' already. Leave `peft_config` out"),
        (make_pair, lora(["q_proj"]), {"freeze_pilot": True}, "learns nothing with `freeze_pilot=True`"),
        (make_pilot, lora(["q_proj"]), {}, "`model` is a LlamaForCausalLM. Give the pair itself"),
        (make_pair, lora(["no_such_module"]), {}, "no_such_module"),
        (make_pair, peft.PromptTuningConfig(num_virtual_tokens=2), {}, "the pilot cannot have this adapter"),
    ],
    ids=["a second one", "frozen", "no pair", "other modules", "refused method"],
)
def test_a_peft_config_that_cannot_be_put_in_is_refused(tmp_path, make, config, arguments, message):
    model = make()
    before = state(model)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, model, trainer_kwargs={"peft_config": config}, **arguments)
    assert list(before) == list(state(model))


def test_training_with_a_peft_config_is_resumed(tmp_path):
    given = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    config = {"peft_config": lora(["q_proj"])}
    whole = make_trainer(tmp_path, make_pair(), trainer_kwargs=config, **given)
    whole.train()
    again = make_trainer(tmp_path, make_pair(), trainer_kwargs=config, seed=7, data_seed=42, **given)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert largest_difference(state(whole.pair.pilot), state(again.pair.pilot)) == 0.0
    assert any("lora_B" in name and weight.abs().max() > 0 for name, weight in state(again.pair).items())


def test_a_trainer_that_cannot_be_made_leaves_no_adapter_behind(tmp_path):
    pair = make_pair()
    names, learning = list(state(pair)), [parameter.requires_grad for parameter in pair.parameters()]
    with pytest.raises(ValueError, match="didn't pass an `eval_dataset`"):
        config = {"peft_config": lora(["q_proj"]), "eval_dataset": None}
        make_trainer(tmp_path, pair, eval_strategy="epoch", trainer_kwargs=config)
    assert list(state(pair)) == names and [parameter.requires_grad for parameter in pair.parameters()] == learning
    make_trainer(tmp_path, pair, trainer_kwargs={"peft_config": lora(["q_proj"])}).train()  # the second try


def test_a_checkpoint_with_other_adapters_is_not_resumed_from(tmp_path):
    given = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    make_trainer(tmp_path, adapted(), **given).train()
    with pytest.raises(ValueError, match="holds another pair than the one that trains.*`add_adapters`"):
        make_trainer(tmp_path, make_pair(), **given).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    make_trainer(tmp_path / "plain", make_pair(), **given).train()
    with pytest.raises(ValueError, match="holds another pair than the one that trains.*`add_adapters`"):
        make_trainer(tmp_path, adapted(), **given).train(
            resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-2")
        )


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")  # 5.23 knows no other name
@pytest.mark.parametrize("reentrant", [True, False])
def test_adapters_learn_through_gradient_checkpointing(tmp_path, reentrant):
    plain, checkpointed = adapted(), adapted()
    given = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.1, "freeze_pilot": False}
    make_trainer(tmp_path, plain, **given).train()
    kwargs = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    make_trainer(tmp_path, checkpointed, **given, **kwargs).train()
    assert largest_difference(state(plain.pilot), state(checkpointed.pilot)) < 1e-6
