"""Every method of PEFT's, and LoRA's options: trained, saved, loaded and merged in a pair, or refused by name.

`METHODS` in the package says which; here each has a configuration, and the table of `docs/adapters.md` is held to it.
"""

import copy
import dataclasses
import functools
import gc
import re
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.paths import ROOT
from tests.helpers.training_helpers import (
    collate,
    largest_difference,
    make_pair,
    make_pilot,
    make_trainer,
    reversal_rows,
    state,
)
from tests.training.test_trainer import plain_trainer
from transformers_copilot import PilotCopilotForCausalLM
from transformers_copilot.adapters.adapter_methods import _REFUSED_OPTIONS, METHODS


peft = pytest.importorskip("peft")
lora_parts = pytest.importorskip("peft.tuners.lora")
# PEFT 0.21's `PeftModel` asks transformers by the old name of `is_activation_checkpointing`.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QV = ["q_proj", "v_proj"]


@pytest.fixture(scope="module", autouse=True)
def short_collections():
    """Every training begins with a garbage collection, which takes longer than the training does here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    trained.cache_clear()
    saved_whole.cache_clear()
    _FOLDERS.cleanup()


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration, made anew for every use, and the Pilot that it is for."""

    config: object
    family: str = "llama"
    merges: str | None = None  # what an attempt is refused with
    alone: bool = True  # whether `save_adapters` can save it
    changes: tuple = ()  # of the Pilot's configuration

    def pilot(self):
        return make_pilot(self.family, **dict(self.changes))


def lora(targets=QV, **options):
    return Case(lambda: peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, **options))


def of(config_class, targets=QV, **options):
    return Case(lambda: getattr(peft, config_class)(target_modules=targets, **options))


# One configuration of each method that a pair can have, by PEFT's type.
TYPES = {
    "LORA": lora(),
    "ADAMSS": of("AdamssConfig", r=4, num_subspaces=2),
    "ADAPTION_PROMPT": Case(
        lambda: peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=2, task_type="CAUSAL_LM"),
        merges="ADAPTION_PROMPT lets attention read a learnt prompt",
    ),
    "BEFT": dataclasses.replace(of("BeftConfig"), changes=(("attention_bias", True),)),
    "BOFT": of("BOFTConfig", boft_block_size=4),
    "C3A": of("C3AConfig", block_size=4),
    "DEFT": of("DeftConfig", r=2),
    "DELORA": of("DeloraConfig", r=2),
    "FOURIERFT": of("FourierFTConfig", n_frequency=8, scaling=2.0),
    "FROD": of("FrodConfig", sparse_rate=0.2, progressbar=False),
    "GLORA": of("GloraConfig", r=2),
    "GRALORA": of("GraloraConfig", r=4, gralora_k=2),
    "HIRA": of("HiraConfig", r=2),
    "HRA": of("HRAConfig", r=2),
    "IA3": of("IA3Config", ["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LILY": dataclasses.replace(of("LilyConfig", r=2), merges="LILY chooses among its matrices"),
    "LN_TUNING": of("LNTuningConfig", ["input_layernorm", "norm"]),
    "LOHA": of("LoHaConfig", r=2),
    "LOKR": of("LoKrConfig", r=2),
    "MISS": of("MissConfig", r=2),
    "OFT": of("OFTConfig", oft_block_size=4),
    "OSF": of("OSFConfig", effective_rank=2),
    "PEANUT": of("PeanutConfig", r=2),
    "PSOFT": of("PsoftConfig", r=4),
    "PVERA": of("PveraConfig", r=4),
    "RANDLORA": of("RandLoraConfig", r=2),
    "ROAD": of("RoadConfig", group_size=4),
    "SHIRA": of("ShiraConfig", r=2),
    "SUPERTUNING": of("SupertuningConfig", sparsity=0.5),
    "TINYLORA": of("TinyLoraConfig", r=2, u=4),
    "TRAINABLE_TOKENS": of("TrainableTokensConfig", ["embed_tokens"], token_indices=[3, 4]),
    "UNILORA": of("UniLoraConfig", r=2, theta_d_length=16),
    "VBLORA": of("VBLoRAConfig", r=2, num_vectors=6, vector_length=4),
    "VERA": of("VeraConfig", r=4),
    "WAVEFT": of("WaveFTConfig", n_frequency=8),
}

# What else can be said in a configuration, LoRA's above all.
OPTIONS = {
    "DoRA": lora(use_dora=True),
    "rank-stabilised": lora(use_rslora=True),
    **{f"started {way!r}": lora(init_lora_weights=way) for way in ("gaussian", "orthogonal", "mica", False)},
    **{
        f"started {way!r}": dataclasses.replace(lora(init_lora_weights=way), alone=False)
        for way in ("pissa", "pissa_niter_2", "olora")
    },
    "a copy of the head": lora(modules_to_save=["lm_head"]),
    "a copy of the embeddings": lora(modules_to_save=["embed_tokens"]),
    "a copy of a norm": lora(modules_to_save=["norm"]),
    "a copy around an adapter": lora(["q_proj", "up_proj"], modules_to_save=["mlp"]),
    "some tokens": lora(trainable_token_indices=[3, 4]),
    "some tokens of each": lora(trainable_token_indices={"embed_tokens": [3], "lm_head": [4]}),
    "on embeddings and head": lora(["embed_tokens", "lm_head"]),
    "one layer": lora(layers_to_transform=[1], layers_pattern="layers"),
    "patterns": lora(rank_pattern={"q_proj": 3}, alpha_pattern={"v_proj": 3}),
    "excluded": lora(exclude_modules=["layers.0.self_attn.q_proj"]),
    "a parameter": lora([], target_parameters=["q_proj.weight"]),
    "experts": dataclasses.replace(
        lora(["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]), family="mixtral"
    ),
    "all biases": dataclasses.replace(lora(bias="all"), changes=(("attention_bias", True),)),
    "its biases": dataclasses.replace(lora(bias="lora_only"), changes=(("attention_bias", True),)),
    "a bias of its own": dataclasses.replace(lora(lora_bias=True), merges="it learnt a bias, and .*q_proj has none"),
    "BEFT without biases": dataclasses.replace(of("BeftConfig"), merges="it learnt a bias, and .*q_proj has none"),
    "fan-in, fan-out": dataclasses.replace(lora(["c_attn"], fan_in_fan_out=True), family="gpt2"),
    "QA-LoRA": lora(use_qalora=True, qalora_group_size=4),
    "BD-LoRA": Case(
        lambda: peft.LoraConfig(
            r=2,
            target_modules=QV,
            use_bdlora=lora_parts.BdLoraConfig(
                nblocks=2, target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"]
            ),
        )
    ),
    "VeLoRA": Case(
        lambda: peft.LoraConfig(r=2, target_modules=QV, velora_config=lora_parts.VeloraConfig(num_groups=4))
    ),
    "MiSS 'bat'": of("MissConfig", r=2, init_weights="bat"),
    "VeRA without its projections": of("VeraConfig", r=4, save_projection=False),
    "PVeRA without its projections": of("PveraConfig", r=4, save_projection=False),
    "FRoD without its projections": of("FrodConfig", sparse_rate=0.2, progressbar=False, save_projection=False),
    "TinyLoRA without its projections": of("TinyLoraConfig", r=2, u=4, save_projection=False),
    "Uni-LoRA with its indices": of("UniLoraConfig", r=2, theta_d_length=16, save_indices=True),
    # Head and embeddings are one weight.
    **{
        f"tied, {name}": dataclasses.replace(case, family="llama-tied")
        for name, case in {
            "a copy of the head": lora(modules_to_save=["lm_head"]),
            "a copy of the embeddings": lora(modules_to_save=["embed_tokens"]),
            "a copy of both": lora(modules_to_save=["embed_tokens", "lm_head"]),
            "one copy of both": lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
            "one copy of both, by the head": lora(modules_to_save=["lm_head"], ensure_weight_tying=True),
            "some tokens": lora(trainable_token_indices=[3, 4]),
            "some tokens of both": lora(trainable_token_indices={"embed_tokens": [3, 4], "lm_head": [3, 4]}),
            "some tokens alone": TYPES["TRAINABLE_TOKENS"],
            "other tokens of each": dataclasses.replace(
                lora(trainable_token_indices={"embed_tokens": [3], "lm_head": [4]}), merges="share one weight"
            ),
            "on the embeddings": dataclasses.replace(lora(["embed_tokens"]), merges="share one weight"),
            "on the head": dataclasses.replace(lora(["lm_head", "q_proj"]), merges="share one weight"),
            "on both": dataclasses.replace(lora(["lm_head", "embed_tokens"]), merges="share one weight"),
            "one on both": dataclasses.replace(
                lora(["embed_tokens"], ensure_weight_tying=True), merges="share one weight"
            ),
            "on the embeddings, a copy of the head": lora(["embed_tokens"], modules_to_save=["lm_head"]),
        }.items()
    },
}

CASES = {**TYPES, **OPTIONS}
every_case = pytest.mark.parametrize("name", CASES)

_TASK = {"task_type": "CAUSAL_LM"}
REFUSED = {
    "ADALORA": lambda: peft.AdaLoraConfig(init_r=3, target_r=2, total_step=20, target_modules=QV),
    "POLY": lambda: peft.PolyConfig(r=2, target_modules=QV, **_TASK),
    "SHADOW": lambda: peft.ShadowConfig(**_TASK),
    "XLORA": lambda: peft.XLoraConfig(hidden_size=16, adapters={}, **_TASK),
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(num_virtual_tokens=2, **_TASK),
    "MULTITASK_PROMPT_TUNING": lambda: peft.MultitaskPromptTuningConfig(num_virtual_tokens=2, **_TASK),
    "P_TUNING": lambda: peft.PromptEncoderConfig(num_virtual_tokens=2, **_TASK),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(num_virtual_tokens=2, **_TASK),
    "CPT": lambda: peft.CPTConfig(cpt_token_ids=[3, 4], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2], **_TASK),
    "CARTRIDGE": lambda: peft.CartridgeConfig(num_virtual_tokens=2, **_TASK),
}


# ---- none is forgotten ----


def test_every_method_of_pefts_is_in_one_group():
    """A method that a newer PEFT adds fails here until somebody has tried it."""
    types = {kind.value for kind in peft.PeftType}
    assert not types - METHODS.keys(), "put these into METHODS, and here into TYPES or REFUSED"
    assert types == {kind.value for kind in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING}
    works = {kind for kind, method in METHODS.items() if method.refused is None}
    assert works == TYPES.keys() and METHODS.keys() - works == REFUSED.keys()
    unmerged = {kind for kind, method in METHODS.items() if method.not_merged is not None}
    assert unmerged == {kind for kind, case in TYPES.items() if case.merges is not None}


# Fields of LoRA's configuration that no case above sets, and why none has to.
_NOTHING_TO_TRY = {
    **dict.fromkeys(("task_type", "peft_type", "auto_mapping", "peft_version"), "a label"),
    **dict.fromkeys(("base_model_name_or_path", "revision"), "written anew: `test_a_saved_adapter_is_pefts_own`"),
    "inference_mode": "an adapter that is only read: `test_an_adapter_that_is_only_read_stays_as_it_is`",
    "megatron_core": "says where Megatron is, for `megatron_config`",
    "lora_dropout": "draws random numbers: `test_adapters.py` trains with it",
    **dict.fromkeys(("eva_config", "corda_config", "lora_ga_config"), "for ways to start that read data, see below"),
    "loftq_config": "for a way to start that quantizes; changes the weights below as 'pissa' does",
    "runtime_config": "is not saved, and only says where PiSSA is worked out",
}


def test_every_option_of_lora_is_in_one_group():
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    plain = peft.LoraConfig()
    tried = set()
    for case in CASES.values():
        config = case.config()
        if type(config) is peft.LoraConfig:
            tried |= {name for name in fields if getattr(config, name) != getattr(plain, name)}
    tried -= {"peft_type"}
    groups = [tried, fields & _REFUSED_OPTIONS.keys(), fields & _NOTHING_TO_TRY.keys()]
    assert set().union(*groups) == fields and sum(map(len, groups)) == len(fields)


def test_the_table_in_the_docs_says_the_same():
    text = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \|(.*)\|$", text, flags=re.MULTILINE)
    table = {kind: [cell.strip() for cell in cells.split("|")] for kind, cells in rows}
    assert len(rows) == len(table) and table.keys() == METHODS.keys()
    for kind, (before, after, train, saved, merged, *_) in table.items():
        method = METHODS[kind]
        can = "no" if method.refused else "yes"
        assert [before, after, train, saved] == [can] * 4, kind
        assert merged.startswith("no" if method.refused or method.not_merged else "yes"), kind


# ---- what works ----


def answers(pair):
    with torch.no_grad():
        return pair.eval()(**collate(reversal_rows(3))).logits


SGD = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.1}


def start(name, when):
    """A pair whose Pilot has an adapter, put in before it was paired or after."""
    pilot, config = CASES[name].pilot(), CASES[name].config()
    pair = make_pair(pilot=pilot, random_head=True) if when == "after" else None
    torch.manual_seed(5)
    if pair is None:
        return make_pair(pilot=peft.get_peft_model(pilot, config), random_head=True)
    pair.add_adapters(pilot=config)
    return pair


def trained_anew(name, when="after", **arguments):
    pair = start(name, when)
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(folder, pair, **{**SGD, **arguments}).train()
    return pair.eval()


_FOLDERS = tempfile.TemporaryDirectory()  # of pairs that several tests read
trained = functools.cache(trained_anew)  # for tests that only read it


@functools.cache
def saved_whole(name):
    folder = Path(_FOLDERS.name, str(len(list(Path(_FOLDERS.name).iterdir()))))
    trained(name).save_pretrained(folder)
    return folder


@functools.cache
def names_in_a_plain_file(family, changes):
    with tempfile.TemporaryDirectory() as folder:
        make_pair(pilot=make_pilot(family, **dict(changes))).save_pretrained(folder)
        return load_file(Path(folder, "model.safetensors")).keys()


@every_case
def test_the_pilot_learns_what_it_would_alone(name, tmp_path):
    pilot = CASES[name].pilot()
    torch.manual_seed(5)
    alone = peft.get_peft_model(pilot, CASES[name].config())
    untrained = state(pilot)
    plain_trainer(tmp_path, alone, **SGD).train()
    learnt = state(pilot)
    assert largest_difference(untrained, learnt) > 1e-6, "nothing was learnt, so nothing is compared"
    assert largest_difference(state(trained(name).pilot), learnt) < 1e-6
    if name in TYPES or name.startswith("tied"):
        assert largest_difference(state(trained_anew(name, "before").pilot), learnt) < 1e-6


@every_case
def test_saved_whole_it_comes_back(name):
    pair, folder = trained(name), saved_whole(name)
    torch.manual_seed(99)
    again = PilotCopilotForCausalLM.from_pretrained(folder)
    assert torch.equal(answers(again), answers(pair))
    assert largest_difference(state(again), state(pair)) == 0.0
    for each in ("pilot", "copilot"):
        learns = [
            {name for name, weight in getattr(model, each).named_parameters() if weight.requires_grad}
            for model in (again, pair)
        ]
        assert learns[0] == learns[1]


@every_case
def test_every_weight_of_the_plain_model_is_in_the_file(name):
    """Under its plain name: what wraps a module must not take its weights along, however deep it lies."""
    held = load_file(saved_whole(name) / "model.safetensors").keys()
    assert held == names_in_a_plain_file(CASES[name].family, CASES[name].changes)


@every_case
def test_saved_as_an_adapter_it_joins_the_plain_pilot(name, tmp_path):
    pair = trained(name)
    if not CASES[name].alone:
        with pytest.raises(ValueError, match="took a part out of the Pilot's own weights.*save_pretrained"):
            pair.save_adapters(tmp_path)
        assert list(tmp_path.iterdir()) == []
        return
    pair.save_adapters(tmp_path)
    torch.manual_seed(99)
    again = PilotCopilotForCausalLM.from_pilot(CASES[name].pilot(), copilot=str(tmp_path))
    assert torch.equal(answers(again), answers(pair))
    alone = peft.PeftModel.from_pretrained(CASES[name].pilot(), str(tmp_path / "pilot_adapter")).eval()
    batch = collate(reversal_rows(3))
    with torch.no_grad():
        assert torch.equal(alone(**batch).logits, pair(**batch).pilot_logits)


@every_case
def test_merged_it_is_a_plain_pair(name, tmp_path):
    pair, case = trained(name), CASES[name]
    expected, before = answers(pair), state(pair)
    if case.merges is not None:
        with pytest.raises(ValueError, match=case.merges):
            pair.merge_adapters()
        assert largest_difference(state(pair), before) == 0.0, "refused, it is as it was"
        assert torch.equal(answers(pair), expected)
        return
    pair = copy.deepcopy(pair)
    pair.merge_adapters()
    torch.testing.assert_close(answers(pair), expected, atol=5e-6, rtol=1e-5)
    assert pair.pilot.state_dict().keys() == case.pilot().state_dict().keys()
    assert all(weight.requires_grad for weight in pair.parameters())
    if name in OPTIONS and not name.startswith("tied"):
        return
    pair.save_pretrained(tmp_path)
    assert torch.equal(answers(PilotCopilotForCausalLM.from_pretrained(tmp_path)), answers(pair))


@pytest.mark.parametrize("name", TYPES)
def test_at_no_weight_it_writes_what_its_pilot_writes(name):
    pair = trained(name)
    prompt = collate(reversal_rows(2))["input_ids"][:, :3]
    given = {"max_new_tokens": 3, "do_sample": False}
    alone = pair.pilot.generate(prompt, **given)
    assert torch.equal(pair.generate(prompt, copilot_weight=0.0, **given), alone)
    assert pair.generate(prompt, **given).shape == alone.shape


RESUMED = ("LORA", "VERA", "VBLORA", "OSF", "FROD", "started 'pissa'", "some tokens", "tied, a copy of the head")


@pytest.mark.parametrize(
    "name", [*RESUMED, *(pytest.param(kind, marks=pytest.mark.slow) for kind in TYPES if kind not in RESUMED)]
)
def test_training_is_resumed(name, tmp_path):
    given = {**SGD, "max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, start(name, "after"), **given)
    whole.train()
    again = make_trainer(tmp_path, start(name, "after"), **given)
    with torch.no_grad():
        for weight in again.pair.parameters():
            if weight.requires_grad:
                weight.zero_()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert largest_difference(state(whole.pair), state(again.pair)) == 0.0


@pytest.mark.parametrize("name", [*TYPES, "a copy around an adapter", "some tokens", "tied, one copy of both"])
def test_the_copilot_starts_from_the_layers_below_the_adapter(name):
    plain = make_pair(pilot=CASES[name].pilot(), random_head=True)
    assert largest_difference(state(plain.copilot), state(start(name, "before").copilot)) == 0.0


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in ("ADAPTION_PROMPT", "TRAINABLE_TOKENS")])
def test_the_copilot_can_have_it_too(kind, tmp_path):
    config = TYPES[kind].config()
    if kind == "LN_TUNING":
        config.target_modules = {"norm"}
    if kind == "IA3":
        config.target_modules, config.feedforward_modules = {"k_proj", "down_proj"}, {"down_proj"}
    pair = make_pair(random_head=True)
    pair.freeze_pilot()
    torch.manual_seed(5)
    pair.add_adapters(copilot=config)
    batch = collate(reversal_rows(3))
    pair.train()(**batch).loss.backward()
    with torch.no_grad():
        for name, weight in pair.copilot.named_parameters():
            if weight.grad is not None and name.startswith(("layers.", "norm.")):
                weight -= 0.5 * weight.grad
    expected = answers(pair)
    pair.save_adapters(tmp_path)
    again = PilotCopilotForCausalLM.from_pilot(make_pilot(), copilot=str(tmp_path))
    assert torch.equal(answers(again), expected)
    if METHODS[kind].not_merged is None and kind != "BEFT":  # the Copilot's matrices have no biases
        pair.merge_adapters()
        torch.testing.assert_close(answers(pair), expected, atol=5e-6, rtol=1e-5)


# ---- what is refused ----


def refused_around(kind, tmp_path):
    """A PeftModel of a refused method."""
    pilot, config = make_pilot(use_cache=False), REFUSED[kind]()
    if kind == "XLORA":
        peft.get_peft_model(make_pilot(), peft.LoraConfig(r=2, target_modules=QV)).save_pretrained(tmp_path)
        config.adapters = {"0": str(tmp_path)}
    return peft.get_peft_model(pilot, config)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_method_that_needs_more_than_the_layers_is_refused(kind, tmp_path):
    with pytest.raises(ValueError, match=f"PeftModel with {kind}, which a pair cannot have: {kind} .*(Use|Train with)"):
        PilotCopilotForCausalLM.from_pilot(refused_around(kind, tmp_path))
    pair = make_pair()
    before = state(pair)
    with pytest.raises(ValueError, match=f"the pilot cannot have this adapter: {kind} "):
        pair.add_adapters(pilot=REFUSED[kind]())
    with pytest.raises(ValueError, match=f"the copilot cannot have this adapter: {kind} "):
        pair.add_adapters(copilot=REFUSED[kind]())
    assert largest_difference(state(pair), before) == 0.0


def test_a_method_that_nobody_has_tried_is_refused(monkeypatch):
    monkeypatch.delitem(METHODS, "VERA")
    with pytest.raises(ValueError, match="VERA is a method that this version of the package does not know"):
        make_pair().add_adapters(pilot=TYPES["VERA"].config())


REFUSED_OPTIONS = {
    "alora_invocation_tokens": lambda: peft.LoraConfig(target_modules=QV, alora_invocation_tokens=[5], **_TASK),
    "arrow_config": lambda: peft.LoraConfig(target_modules=QV, arrow_config=peft.ArrowConfig()),
    "kasa_config": lambda: peft.LoraConfig(r=2, target_modules=QV, kasa_config=lora_parts.KasaConfig()),
    "layer_replication": lambda: peft.LoraConfig(target_modules=QV, layer_replication=[[0, 2], [0, 2]]),
    "megatron_config": lambda: peft.LoraConfig(target_modules=QV, megatron_config={"tensor_model_parallel_size": 1}),
    "monteclora_config": lambda: peft.LoraConfig(target_modules=QV, monteclora_config=lora_parts.MontecloraConfig()),
    "save_only_topk_weights": lambda: peft.VBLoRAConfig(
        target_modules=QV, num_vectors=6, vector_length=4, save_only_topk_weights=True
    ),
    "use_asa": lambda: peft.AdamssConfig(r=4, num_subspaces=2, target_modules=QV, use_asa=True),
}


@pytest.mark.parametrize("option", _REFUSED_OPTIONS)
def test_an_option_that_needs_more_than_the_layers_is_refused(option):
    pair = make_pair()
    with pytest.raises(ValueError, match=f"with `{option}` .*(Leave it out|Save the deeper model)"):
        pair.add_adapters(pilot=REFUSED_OPTIONS[option]())
    if option in ("arrow_config", "megatron_config"):  # which PEFT itself can't put in here
        return
    with pytest.raises(ValueError, match=f"which a pair cannot have: .* with `{option}` "):
        PilotCopilotForCausalLM.from_pilot(peft.get_peft_model(make_pilot(), REFUSED_OPTIONS[option]()))


@pytest.mark.parametrize("way", ["eva", "corda", "lora_ga"])
def test_a_start_that_reads_data_is_made_on_the_model_alone(way):
    with pytest.raises(ValueError, match=f"init_lora_weights='{way}'` reads data.*give the PeftModel to `from_pilot`"):
        make_pair().add_adapters(pilot=peft.LoraConfig(target_modules=QV, init_lora_weights=way))
