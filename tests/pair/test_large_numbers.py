"""float16 and bfloat16 Pilots with logits as large as float16 goes, and corrections that go past it: all finite."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.conftest import TINY, build_pair, build_pilot, some_ids
from transformers_copilot.pair.fusion import rectify
from transformers_copilot.pair.pilot_head import finite_product, narrowed


LARGEST = 6e4  # of 65,504
COPILOTS: dict[str, dict[str, Any]] = {
    "linear": {"copilot": {"form": "linear"}},
    "branch": {"copilot": {"form": "branch", "num_hidden_layers": 1}},
    "decoder": {"copilot": {"num_hidden_layers": 2}},
    "decoder with the Pilot's head": {"copilot": {"num_hidden_layers": 2}, "head": "pilot"},
    "probability": {"copilot": {"num_hidden_layers": 2}, "fusion": "probability", "objective": "rmse"},
}


def large_pair(family: str, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """A pair in a narrow type. Its Pilot's largest logit is about `LARGEST`, and its Copilot's output many times so."""
    pilot = build_pilot(*TINY[family])
    ids = some_ids(200, 9)
    given = {"input_ids": ids, **({"decoder_input_ids": ids} if pilot.config.is_encoder_decoder else {})}
    with torch.no_grad():
        for _ in range(3):  # a tied head is the embedding, too
            pilot.get_output_embeddings().weight *= LARGEST / float(pilot(**given).logits.abs().max())
        pair = build_pair(pilot, **options)
        for name, weight in pair.copilot.named_parameters():
            if weight.dim() == 2 and ("proj" in name or "head" in name or "map" in name):
                weight *= 30.0
    return pair.to(dtype)


def inputs_of(pair: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, **({"decoder_input_ids": ids} if pair.config.is_encoder_decoder else {})}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", COPILOTS.values(), ids=COPILOTS)
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_large_logits_stay_finite(family: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    pair, ids = large_pair(family, dtype, **options), some_ids(2, 6)
    with torch.no_grad():
        outputs = pair(**inputs_of(pair, ids), labels=ids, return_correction=True)
    assert outputs.pilot_logits.dtype == dtype and 0.5 * LARGEST < float(outputs.pilot_logits.abs().max()) < 65_504
    for name in ("logits", "correction", "loss", "pilot_loss", "copilot_loss"):
        assert outputs[name].isfinite().all(), name
    pair.train()
    trained = pair(**inputs_of(pair, ids), labels=ids)
    trained.copilot_loss.backward()
    assert trained.copilot_loss.isfinite()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in pair.copilot.parameters())
    pair.eval()
    for settings in ({}, {"do_sample": True}, {"num_beams": 2}):
        torch.manual_seed(0)
        written = pair.generate(
            ids, max_new_tokens=3, pad_token_id=0, output_scores=True, return_dict_in_generate=True, **settings
        )
        assert not any(scores.isnan().any() or scores.isposinf().any() for scores in written.scores)


@pytest.mark.parametrize("weight", [1.0, 20.0])
def test_fusion_past_float16_is_the_same_distribution(weight: float) -> None:
    logits = torch.tensor([[6.0e4, 6.0e4, 0.0, -6.0e4, -torch.inf]])
    correction = torch.tensor([[3.2e4, 3.2e4 - 2.0, 4.0, -3.2e4, 1.0]])
    exact = torch.softmax(rectify(logits, correction, weight, "logits"), dim=-1)
    fused = rectify(logits.half(), correction, weight, "logits")
    assert fused.dtype == torch.float16 and fused[:, :-1].isfinite().all() and fused[0, -1] == -torch.inf
    assert torch.allclose(torch.softmax(fused.float(), dim=-1), exact, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    states = torch.tensor([[value, 1e6, -1e6]])
    assert not narrowed(states, torch.float16)[0, 0].isfinite()
    assert narrowed(states, torch.float16)[0, 1:].tolist() == [65504.0, -65504.0]
    assert finite_product(torch.tensor([float("nan")], dtype=torch.float16)).isnan().all()


PairOf = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("wrong", [64, -1, 10**9])
@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_token_id_outside_the_vocabulary_is_named(tiny_pair: PairOf, family: str, wrong: int, weight: float) -> None:
    pair, ids = tiny_pair(family), some_ids(2, 5)
    bad = ids.clone()
    bad[1, 3] = wrong
    message = rf"`{{}}` has the token id {wrong} \(row 1, position 3\), which is outside the vocabulary of 64 tokens"
    for name in inputs_of(pair, ids):
        with pytest.raises(ValueError, match=message.format(name)):
            pair(**{**inputs_of(pair, ids), name: bad}, copilot_weight=weight)
    with pytest.raises(ValueError, match=message.format("inputs")):
        pair.generate(bad, max_new_tokens=2, copilot_weight=weight)
    with pytest.raises(ValueError, match=message.format("input_ids")):
        pair.generate(input_ids=bad, max_new_tokens=2, copilot_weight=weight)
