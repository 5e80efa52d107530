"""A Pilot in 8 or 4 bits beside a Copilot in full precision: trained, generating, saved, with LoRA."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, TorchAoConfig

from tests.helpers.training_helpers import collate, make_pair, make_pilot, make_trainer, reversal_rows, state
from transformers_copilot import MistakeRecord, PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM, paper_lora
from transformers_copilot.pair.quantization import adopt_quantization


quantization = pytest.importorskip("torchao.quantization")
torchao_utils = pytest.importorskip("torchao.utils")
# PEFT 0.21 asks transformers by the old name of `is_activation_checkpointing`.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# What torchao 0.18 runs on a CPU. Its packed int4 (`Int4WeightOnlyConfig`) asks for a GPU's or other kernels.
KINDS = {
    "8 bits": lambda: quantization.Int8WeightOnlyConfig(),
    "4 bits": lambda: quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=quantization.PerGroup(32)),
    "8 bits, activations too": lambda: quantization.Int8DynamicActivationInt8WeightConfig(),
}
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_key_value_heads": 4}
T5_SIZES = {"d_model": 32, "d_ff": 64, "d_kv": 8}
every_kind = pytest.mark.parametrize("kind", KINDS)


def quantized(module):
    """Names of the weights that are quantized."""
    return {name for name, weight in module.named_parameters() if isinstance(weight, torchao_utils.TorchAOBaseTensor)}


@pytest.fixture
def folder(tmp_path):
    make_pilot(**SIZES).save_pretrained(tmp_path / "pilot")
    return str(tmp_path / "pilot")


def quantized_pair(folder, kind="8 bits", **options):
    """A pair whose f is not zero, beside a Pilot that is quantized while it is loaded."""
    options = {"head": "pilot", **options}
    torch.manual_seed(1)
    pair = PilotCopilotForCausalLM.from_pilot(
        folder, {"num_hidden_layers": 2}, quantization_config=TorchAoConfig(KINDS[kind]()), **options
    )
    with torch.no_grad():
        pair.copilot.correction_head.weight.normal_(0.0, 0.1)
    return pair.eval()


def answers(pair):
    with torch.no_grad():
        return pair(**collate(reversal_rows(3, seq2seq=pair.config.is_encoder_decoder))).logits


@every_kind
def test_only_the_pilot_is_quantized(folder, kind):
    pair = quantized_pair(folder, kind)
    assert len(quantized(pair)) == 14 and all(name.startswith("pilot.model.layers.") for name in quantized(pair))
    assert {weight.dtype for weight in pair.copilot.parameters()} == {torch.float32}
    assert pair.pilot_is_frozen and all(weight.requires_grad for weight in pair.copilot.parameters())
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    batch = collate(reversal_rows(3))
    with torch.no_grad():
        gap = (pair(**batch).pilot_logits - plain(**batch).logits).abs().max()
    assert 0 < gap < 0.2


@every_kind
@pytest.mark.parametrize("head", ["own", "pilot"])
def test_it_trains_and_generates(folder, tmp_path, kind, head):
    pair = quantized_pair(folder, kind, head=head)
    before, answered = state(pair.copilot), answers(pair)
    kept = {n: weight.clone() for n, weight in pair.pilot.named_parameters() if n not in quantized(pair.pilot)}
    trainer = make_trainer(tmp_path / "run", pair, copilot_steps_per_round=2)
    trainer.train()
    after = state(pair.copilot)
    assert all(not torch.equal(before[name], after[name]) for name in before if "rationale_norm" not in name)
    assert all(torch.equal(pair.pilot.get_parameter(name), weight) for name, weight in kept.items())
    pair.eval()
    assert not torch.equal(answers(pair), answered)
    prompt = collate(reversal_rows(2))["input_ids"][:, :3]
    greedy = {"max_new_tokens": 4, "do_sample": False}
    assert pair.generate(prompt, num_beams=2, **greedy).shape == (2, 7)
    alone = pair.generate(prompt, copilot_weight=0.0, **greedy)
    assert torch.equal(alone, pair.pilot.generate(prompt, **greedy))


@every_kind
@pytest.mark.parametrize(
    ("copilot", "options"),
    [
        ({"form": "linear"}, {}),
        ({"num_hidden_layers": 2, "rationale": "depths"}, {"error_feedback": "token", "head": "pilot"}),
    ],
    ids=["linear", "depths"],
)
def test_copilots_that_read_no_mistakes_train_and_generate(folder, tmp_path, kind, copilot, options):
    """A logged round is made again with the Pilot's head, which is not quantized; what the head reads is kept."""
    torch.manual_seed(1)
    pilot_options = {"quantization_config": TorchAoConfig(KINDS[kind]()), **options}
    pair = PilotCopilotForCausalLM.from_pilot(folder, copilot, **pilot_options).train()
    batch = collate(reversal_rows(4))
    current = pair(**batch, return_mistakes=True)
    again = pair(mistake_round=MistakeRecord.from_batch(current.mistakes, torch.float32).to_batch())
    torch.testing.assert_close(again.copilot_loss, current.copilot_loss, rtol=1e-4, atol=1e-5)
    before, answered = state(pair.copilot), answers(pair.eval())
    make_trainer(tmp_path / "run", pair, copilot_steps_per_round=2).train()
    assert any(not torch.equal(before[name], weight) for name, weight in state(pair.copilot).items())
    assert not torch.equal(answers(pair.eval()), answered)
    prompt, greedy = batch["input_ids"][:2, :3], {"max_new_tokens": 4, "do_sample": False}
    written = pair.generate(prompt, **greedy)
    assert torch.equal(pair.generate(prompt, output_logits=True, **greedy), written)
    assert torch.equal(pair.generate(prompt, use_cache=False, **greedy), written)


def test_a_branch_of_a_quantized_pilot_is_refused(folder):
    """It would be a copy of layers that can't learn."""
    given = {"quantization_config": TorchAoConfig(KINDS["8 bits"]())}
    with pytest.raises(ValueError, match="are quantized.*form='linear' or 'decoder'"):
        PilotCopilotForCausalLM.from_pilot(folder, {"form": "branch", "num_hidden_layers": 1}, **given)


@every_kind
def test_a_quantized_pair_is_saved_loaded_and_trained_on(folder, tmp_path, kind):
    pair = quantized_pair(folder, kind)
    pair.save_pretrained(tmp_path / "pair")
    again = PilotCopilotForCausalLM.from_pretrained(tmp_path / "pair").eval()
    assert torch.equal(answers(again), answers(pair)) and quantized(again) == quantized(pair)
    assert {weight.dtype for weight in again.copilot.parameters()} == {torch.float32}
    assert again.pilot_is_frozen
    run = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path / "run", again, **run)
    whole.train()
    resumed = make_trainer(tmp_path / "run", PilotCopilotForCausalLM.from_pretrained(tmp_path / "pair"), **run)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    torch.testing.assert_close(state(resumed.pair.copilot), state(whole.pair.copilot))


def test_a_whole_pair_is_quantized_while_loading_without_its_copilot(folder, tmp_path):
    plain = PilotCopilotForCausalLM.from_pilot(folder, {"num_hidden_layers": 2}, head="pilot")
    plain.save_pretrained(tmp_path / "pair")
    pair = PilotCopilotForCausalLM.from_pretrained(
        tmp_path / "pair", quantization_config=TorchAoConfig(KINDS["8 bits"]()), dtype=torch.bfloat16
    )
    assert len(quantized(pair)) == 14 and all(name.startswith("pilot.model.layers.") for name in quantized(pair))
    assert {weight.dtype for weight in pair.copilot.parameters()} == {torch.float32}
    # Unless asked: the Copilot is a model like any other.
    quantization.quantize_(pair.copilot.layers, KINDS["8 bits"]())
    assert any(name.startswith("copilot.") for name in quantized(pair))
    assert answers(pair.eval()).isfinite().all()


def test_a_sequence_to_sequence_pilot(tmp_path):
    make_pilot("t5", **T5_SIZES).save_pretrained(tmp_path / "t5")
    pair = PilotCopilotForSeq2SeqLM.from_pilot(
        str(tmp_path / "t5"), {"num_hidden_layers": 2}, quantization_config=TorchAoConfig(KINDS["8 bits"]())
    )
    assert quantized(pair) and all(name.startswith("pilot.") for name in quantized(pair))
    make_trainer(tmp_path / "run", pair).train()
    pair.eval().save_pretrained(tmp_path / "pair")
    assert torch.equal(answers(PilotCopilotForSeq2SeqLM.from_pretrained(tmp_path / "pair").eval()), answers(pair))


def test_the_copilot_of_a_quantized_pilot_joins_the_plain_one(folder, tmp_path):
    pair = quantized_pair(folder)
    pair.save_copilot(tmp_path / "copilot")
    plain = PilotCopilotForCausalLM.from_pilot(folder, copilot=str(tmp_path / "copilot")).eval()
    assert not quantized(plain)
    gap = (answers(plain).softmax(-1) - answers(pair).softmax(-1)).abs().max()
    assert 0 < gap < 0.05
    both = {"quantization_config": TorchAoConfig(KINDS["8 bits"]())}
    again = PilotCopilotForCausalLM.from_pilot(folder, copilot=str(tmp_path / "copilot"), **both).eval()
    assert torch.equal(answers(again), answers(pair))


def test_adapters_on_a_quantized_pilot(folder, tmp_path):
    pytest.importorskip("peft")
    pair = quantized_pair(folder)
    pair.add_adapters(pilot=paper_lora("pilot"), copilot=paper_lora("copilot"))
    learning = {name for name, weight in pair.pilot.named_parameters() if weight.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    run = make_trainer(tmp_path / "run", pair, save_strategy="steps", save_steps=2, max_steps=2)
    before = state(pair.copilot)
    run.train()
    pair.eval()
    assert any(weight.abs().sum() > 0 for name, weight in pair.named_parameters() if "lora_B" in name)
    assert any(not torch.equal(before[name], tensor) for name, tensor in state(pair.copilot).items())
    expected = answers(pair)
    pair.save_adapters(tmp_path / "saved")
    joined = PilotCopilotForCausalLM.from_pilot(
        folder, copilot=str(tmp_path / "saved"), quantization_config=TorchAoConfig(KINDS["8 bits"]())
    )
    assert torch.equal(answers(joined.eval()), expected)
    whole = PilotCopilotForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-2").eval()
    assert torch.equal(answers(whole), expected) and quantized(whole)
    pair.merge_adapters()
    assert (answers(pair).softmax(-1) - expected.softmax(-1)).abs().max() < 0.05, "quantized anew"


def test_what_cannot_be_done_is_refused(folder, tmp_path):
    pilot = make_pilot(**SIZES)
    quantization.quantize_(pilot, KINDS["8 bits"]())  # every matrix, the head too
    with pytest.raises(ValueError, match="head='pilot' reads the Pilot's vocabulary matrices.*use head='own'"):
        PilotCopilotForCausalLM.from_pilot(pilot, {"num_hidden_layers": 2}, head="pilot")
    pair = PilotCopilotForCausalLM.from_pilot(pilot, {"num_hidden_layers": 2})
    assert pair.pilot_is_frozen and answers(pair).isfinite().all()
    with pytest.raises(ValueError, match="quantized in place .* save the Copilot alone with `save_copilot`"):
        pair.save_pretrained(tmp_path / "pair")
    pair.save_copilot(tmp_path / "copilot")
    assert json.loads((tmp_path / "copilot" / "config.json").read_text())["head"] == "own"


@pytest.mark.parametrize(("bits", "device", "refused"), [(4, "cpu", True), (8, "cpu", False), (4, "meta", False)])
def test_a_quantizer_that_changes_what_is_only_read_is_refused(bits, device, refused):
    """bitsandbytes 0.50.2: on a CPU `state_dict` unpacks a Linear4bit's weights wrongly."""
    pair = make_pair()
    config = SimpleNamespace(quant_method="bitsandbytes", load_in_4bit=bits == 4)
    pair.pilot.to(device).hf_quantizer = SimpleNamespace(quantization_config=config)
    if not refused:
        adopt_quantization(pair)
        assert pair.pilot_is_frozen
        return
    with pytest.raises(ValueError, match="4 bits of bitsandbytes on a CPU.*load_in_8bit=True"):
        adopt_quantization(pair)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes needs a GPU")
@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes_on_a_gpu(folder, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    pair = PilotCopilotForCausalLM.from_pilot(
        folder, {"num_hidden_layers": 2}, head="pilot", quantization_config=config, device_map={"": 0}
    )
    assert pair.pilot_is_frozen and {weight.dtype for weight in pair.copilot.parameters()} == {torch.float32}
    batch = {name: tensor.to(pair.device) for name, tensor in collate(reversal_rows(3)).items()}
    pair.train()
    pair(**batch).loss.backward()
    assert pair.copilot.correction_head.weight.grad is not None
    pair.eval().save_pretrained(tmp_path / "pair")
    again = PilotCopilotForCausalLM.from_pretrained(tmp_path / "pair", device_map={"": 0}).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, pair(**batch).logits)
