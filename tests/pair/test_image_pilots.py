"""Pilots that read images: what belongs to an image reaches the Pilot in training, evaluation and `generate`.

The question X̃ of an image's placeholder is the placeholder's embedding; what the image shows reaches the Copilot
through the rationales, which are the layers' states at those positions.
"""

import copy

import pytest
import torch
import transformers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from tests.conftest import SPECIAL, shake
from tests.helpers.training_helpers import largest_difference, state
from transformers_copilot import CopilotTrainer, CopilotTrainingArguments, PilotCopilotForCausalLM


IMAGE = 63  # the placeholder's token; a text that is read anew would need an image for each that was written
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **SPECIAL,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def llava() -> PreTrainedModel:
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, projection_dim=16),
        text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_seq_length=4,
    )
    return transformers.LlavaForConditionalGeneration(config)


def gemma3() -> PreTrainedModel:
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=4),
        vision_config=transformers.SiglipVisionConfig(**VISION),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        boi_token_index=62,
        eoi_token_index=61,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def qwen2_vl() -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "in_channels": 3, "patch_size": 2}
    vision = {**vision, "spatial_merge_size": 2, "temporal_patch_size": 2, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=62,
        vision_start_token_id=61,
        vision_end_token_id=60,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


FAMILIES = {"llava": llava, "gemma3": gemma3, "qwen2_vl": qwen2_vl}


def image_pilot(family: str, seed: int = 0) -> PreTrainedModel:
    """A tiny image Pilot whose distributions are far from flat."""
    torch.manual_seed(seed)
    pilot = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in pilot.parameters():
            parameter += 0.12 * torch.randn_like(parameter)
    pilot.generation_config.eos_token_id = None
    return pilot


def image_row(family: str, seed: int) -> dict[str, Tensor]:
    """An image of four placeholders, and a question about it."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, 60, (5,), generator=generator).tolist()
    start, end = {"llava": ([], []), "gemma3": ([62], [61]), "qwen2_vl": ([61], [60])}[family]
    ids = torch.tensor([1, *start, *[IMAGE] * 4, *end, *text])
    row = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family == "qwen2_vl":
        row["pixel_values"] = torch.randn(16, 3 * 2 * 2 * 2, generator=generator)
        row["image_grid_thw"] = torch.tensor([1, 4, 4])
        row["mm_token_type_ids"] = (ids == IMAGE).long()
    else:
        row["pixel_values"] = torch.randn(3, 8, 8, generator=generator)
    if family == "gemma3":
        row["token_type_ids"] = (ids == IMAGE).long()
    return row


def image_batch(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows of one length; Qwen2-VL's patches are one long row of all images."""
    joined = torch.cat if "image_grid_thw" in rows[0] else torch.stack
    return {
        name: joined([row[name] for row in rows]) if name == "pixel_values" else torch.stack([r[name] for r in rows])
        for name in rows[0]
    }


def image_pair(pilot: PreTrainedModel, **options: object) -> PreTrainedModel:
    torch.manual_seed(1)
    pair = PilotCopilotForCausalLM.from_pilot(copy.deepcopy(pilot), {"num_hidden_layers": 2}, **options)
    return pair.eval()


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@torch.no_grad()
def test_an_image_pilot_in_a_pair_writes_what_it_writes_alone(family: str):
    pilot, batch = image_pilot(family), image_batch([image_row(family, seed) for seed in (1, 2)])
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
    assert not torch.equal(pilot(**other).logits, pilot(**batch).logits), "the image says nothing"
    pair = image_pair(pilot)
    torch.testing.assert_close(pair(**batch).logits.softmax(-1), pilot(**batch).logits.softmax(-1))  # untrained
    shake(pair)
    found = pair(**batch)
    assert torch.equal(found.pilot_logits, pilot(**batch).logits) and not torch.equal(found.logits, found.pilot_logits)
    for how in ({}, {"num_beams": 3}, {"do_sample": True, "top_k": 0}, {"use_cache": False}):
        written = []
        for model, weight in ((pilot, {}), (pair, {"copilot_weight": 0.0})):
            torch.manual_seed(5)
            asked = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [IMAGE], **how, **weight}
            written.append(model.generate(**batch, **asked))
        assert torch.equal(*written), how


@torch.no_grad()
def test_an_image_pair_scores_as_it_writes(family: str):
    pair = shake(image_pair(image_pilot(family), mistake_top_k=None))
    batch = image_batch([image_row(family, seed) for seed in (1, 2)])
    asked = {"max_new_tokens": 5, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    asked["suppress_tokens"] = [IMAGE]
    cached = pair.generate(**batch, **asked)
    anew = pair.generate(**batch, **asked, use_cache=False)
    assert torch.equal(cached.sequences, anew.sequences)
    for left, right in zip(cached.scores, anew.scores, strict=True):
        torch.testing.assert_close(left.softmax(-1), right.softmax(-1), atol=2e-5, rtol=0.0)


@pytest.mark.parametrize(
    "arguments", [{}, {"gradient_accumulation_steps": 2}, {"label_smoothing_factor": 0.1}], ids=str
)
def test_an_image_pilot_in_a_pair_learns_what_it_learns_alone(tmp_path, family: str, arguments: dict):
    """Trainer keeps the columns that the Pilot's `forward` names, so images reach it."""
    rows = [{**row, "labels": row["input_ids"]} for row in (image_row(family, seed) for seed in range(12))]
    alone = image_pilot(family)
    start = state(alone)
    given = {"max_steps": 3, "per_device_train_batch_size": 2, "optim": "sgd", "learning_rate": 0.05, **arguments}
    given = {**given, "report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    pair = image_pair(alone)
    shared = {"train_dataset": rows, "eval_dataset": rows[:3], "data_collator": image_batch}
    trainer = CopilotTrainer(model=pair, args=CopilotTrainingArguments(str(tmp_path), **given), **shared)
    trainer.train()
    plain = Trainer(model=alone, args=TrainingArguments(str(tmp_path), **given), **shared)
    plain.train()
    assert largest_difference(start, state(alone)) > 1e-3
    assert largest_difference(state(pair.pilot), state(alone)) == 0.0
    losses = trainer.evaluate(copilot_weight=0.0), plain.evaluate()
    assert losses[0]["eval_loss"] == pytest.approx(losses[1]["eval_loss"], abs=1e-6)
    assert len(trainer.mistake_log) == 3


@torch.no_grad()
def test_an_image_pair_is_saved_and_loaded(tmp_path, family: str):
    pilot, batch = image_pilot(family), image_batch([image_row(family, 1)])
    pair = shake(image_pair(pilot))
    pair.save_pretrained(tmp_path / "pair")
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        loaded = auto_class.from_pretrained(tmp_path / "pair").eval()
        assert type(loaded.pilot) is type(pilot)
        assert torch.equal(loaded(**batch).logits, pair(**batch).logits)
    pilot.save_pretrained(tmp_path / "pilot")
    pair.save_copilot(tmp_path / "copilot")
    joined = PilotCopilotForCausalLM.from_pilot(str(tmp_path / "pilot"), copilot=str(tmp_path / "copilot")).eval()
    assert type(joined.pilot) is type(pilot)
    assert torch.equal(joined(**batch).logits, pair(**batch).logits)


# ---- refused ----


def test_an_image_pilot_that_the_copilot_cannot_follow_is_refused():
    vision = {**VISION, "num_hidden_layers": 1}
    text = {**TEXT, "num_hidden_layers": 4}
    tiles = {"max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]]}
    mllama = transformers.MllamaConfig(
        text_config={**text, "cross_attention_layers": [1, 3]},
        vision_config={**vision, "attention_heads": 2, "num_global_layers": 1, "vision_output_dim": 16, **tiles},
    )
    with pytest.raises(ValueError, match="decoder layers of MllamaForConditionalGeneration were not found"):
        PilotCopilotForCausalLM.from_pilot(transformers.MllamaForConditionalGeneration(mllama))
    blip = transformers.Blip2Config(
        vision_config={**vision, "qkv_bias": True},
        qformer_config={
            "vocab_size": 64,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "encoder_hidden_size": 16,
        },
        text_config={"model_type": "opt", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "ffn_dim": 16}
        | {"num_attention_heads": 2, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
        num_query_tokens=2,
    )
    with pytest.raises(ValueError, match="Blip2ForConditionalGeneration has its own .*`generate`"):
        PilotCopilotForCausalLM.from_pilot(transformers.Blip2ForConditionalGeneration(blip))
