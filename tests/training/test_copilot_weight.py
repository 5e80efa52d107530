"""λ fitted on a validation set."""

import json

import pytest
import torch

from tests.helpers.training_helpers import collate, make_pair, make_trainer, reversal_rows
from transformers_copilot import PilotCopilotForCausalLM, fit_copilot_weight
from transformers_copilot.pair.fusion import weight_of_call


ROWS = reversal_rows(11, seed=5)


def pair_of(fusion="probability", scale=0.05, family="llama", seed=0, **options):
    """A pair whose corrections are random, of about a size."""
    pair = make_pair(family, fusion=fusion, **options).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        pair.copilot.correction_head.weight.normal_(0.0, scale)
    return pair


def fit(pair, rows=ROWS, **options):
    return fit_copilot_weight(pair, rows, data_collator=collate, progress=False, **options)


def token_by_token(pair, rows=ROWS):
    """p̂, ℓ and f at every supervised token, a sequence at a time."""
    found = []
    for row in rows:
        batch = collate([row])
        with torch.no_grad():
            output = pair(**batch, copilot_weight=1.0, return_correction=True)
        for position in range(len(row["input_ids"]) - 1):
            true = row["labels"][position + 1]
            if true != -100:
                p = output.pilot_logits[0, position].softmax(-1)
                found.append(
                    (p, torch.nn.functional.one_hot(torch.tensor(true), 23) - p, output.correction[0, position])
                )
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


def sizes_at(pair, weight, rows=ROWS):
    """E‖p − p̃‖² as the pair itself rectifies, and E‖p − p̂‖²."""
    p, mistakes, f = token_by_token(pair, rows)
    fused = (p + weight * f).clamp_min(1e-12)
    fused = fused / fused.sum(-1, keepdim=True)
    return float((p + mistakes - fused).square().sum(-1).mean()), float(mistakes.square().sum(-1).mean())


def useful(pair, rows=ROWS):
    """The pair with Σ⟨ℓ, f⟩ made positive, and its closed-form λ."""
    _, mistakes, f = token_by_token(pair, rows)
    weight = float((mistakes * f).sum() / f.square().sum())
    if weight < 0:
        with torch.no_grad():
            pair.copilot.correction_head.weight.neg_()
    return pair, abs(weight)


def test_least_squares_is_the_closed_form():
    pair, expected = useful(pair_of(scale=0.01))
    _, mistakes, f = token_by_token(pair)
    grid = torch.linspace(0, 2, 4001)
    brute = grid[torch.stack([(mistakes - x * f).square().sum() for x in grid]).argmin()]
    assert 0.1 < expected < 2.0 and float(brute) == pytest.approx(expected, abs=2e-3)
    result = fit(pair)
    assert result.weight == pytest.approx(expected, rel=1e-4) and pair.config.copilot_weight == result.weight
    assert (result.method, result.criterion, result.set_size) == ("least_squares", "mistake_size", len(ROWS))
    with_copilot, alone = sizes_at(pair, result.weight)
    assert result.scores == pytest.approx({"0": -alone, f"{result.weight:g}": -with_copilot}, rel=1e-4)


def test_least_squares_is_within_its_bounds():
    pair, expected = useful(pair_of(scale=0.00005))
    assert expected > 20.0 and fit(pair).weight == 20.0


def test_an_encoder_decoder_is_fitted():
    pair, rows = pair_of(family="t5"), reversal_rows(11, seed=5, seq2seq=True)
    result = fit(pair, rows)
    pair.eval()
    sizes = {}
    for weight in (0.0, result.weight):
        with torch.no_grad():
            logits = [pair(**collate([row]), copilot_weight=weight).logits[0] for row in rows]
        true = torch.cat([torch.nn.functional.one_hot(torch.tensor(row["labels"]), 23) for row in rows])
        sizes[weight] = float((true - torch.cat(logits).softmax(-1)).square().sum(-1).mean())
    assert sizes[result.weight] <= sizes[0.0]
    assert result.scores["0"] == pytest.approx(-sizes[0.0], rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batches_do_not_matter(batch_size):
    weights = [fit(pair_of(fusion=fusion), batch_size=batch_size).weight for fusion in ("probability", "logits")]
    assert weights == pytest.approx(
        [fit(pair_of(fusion=fusion)).weight for fusion in ("probability", "logits")], rel=1e-5
    )


@pytest.mark.parametrize("tokens", [1, 3])
def test_least_squares_never_worsens_the_mistake(tokens):
    """Also where clamping and renormalising move p̂ + λf far from where least squares put it, as for seeds 1 and 17."""
    row = ROWS[0]
    rows = [{**row, "labels": [-100] * (len(row["labels"]) - tokens) + row["labels"][-tokens:]}]
    refused = 0
    for seed in range(18):
        pair, closed_form = useful(pair_of(scale=1.0, seed=seed), rows)
        with torch.no_grad():
            for parameter in pair.pilot.parameters():
                parameter.mul_(3.0)  # a Pilot that is sure of itself
        result = fit(pair, rows)
        with_copilot, alone = sizes_at(pair, result.weight, rows)
        assert with_copilot <= alone + 1e-6, (seed, result)
        refused += result.weight == 0.0 and closed_form > 0.0
    assert refused or tokens > 1


def test_a_correction_of_the_wrong_sign_gets_no_weight():
    pair, _ = useful(pair_of())
    with torch.no_grad():
        pair.copilot.correction_head.weight.neg_()
    assert fit(pair).weight == 0.0


def test_an_untrained_copilot_gets_no_weight():
    for fusion in ("probability", "logits"):
        assert fit(make_pair(fusion=fusion)).weight == 0.0


@pytest.mark.parametrize("criterion", ["loss", "mistake_size"])
@pytest.mark.parametrize("fusion", ["logits", "probability"])
def test_the_grid_is_searched_by_what_was_asked_for(fusion, criterion):
    pair, grid = pair_of(fusion=fusion, seed=3), (0.0, 0.4, 1.1)
    p, mistakes, f = token_by_token(pair)
    expected = {}
    for weight in grid:
        if fusion == "logits":
            fused = (p.log() + weight * f).softmax(-1)
        else:
            fused = (p + weight * f).clamp_min(1e-12)
            fused = fused / fused.sum(-1, keepdim=True)
        true = p + mistakes
        score = (true * fused.log()).sum(-1) if criterion == "loss" else -(true - fused).square().sum(-1)
        expected[f"{weight:g}"] = float(score.mean())
    result = fit(pair, grid=grid, method="grid", criterion=criterion)
    assert result.method == "grid" and result.criterion == criterion
    assert result.scores == pytest.approx(expected, rel=1e-4)
    assert f"{result.weight:g}" == max(expected, key=expected.get)


def test_the_grid_is_searched_by_a_metric():
    pair, seen = pair_of(), []

    def metric(given, weight):
        assert given is pair
        seen.append(weight)
        return -((weight - 0.5) ** 2)

    result = fit(pair, metric=metric, grid=(0.0, 0.3, 0.5, 1.0))
    assert seen == [0.0, 0.3, 0.5, 1.0]
    assert (result.weight, result.method, result.criterion) == (0.5, "grid", "metric")


def test_of_equal_weights_the_smaller_is_taken():
    assert fit(pair_of(), metric=lambda pair, weight: 1.0, grid=(1.0, 0.5, 0.0, 2.0)).weight == 0.0


def test_it_is_stored_saved_and_loaded(tmp_path):
    pair = pair_of(fusion="logits")
    result = fit(pair, set_name="held-out questions", grid=(0.7,))
    assert pair.config.copilot_weight == result.weight == 0.7
    assert pair.config.copilot_weight_fit["set_name"] == "held-out questions"
    assert pair.config.copilot_weight_fit["set_size"] == len(ROWS)
    pair.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["copilot_weight"] == 0.7 and written["copilot_weight_fit"]["method"] == "grid"
    again = PilotCopilotForCausalLM.from_pretrained(tmp_path)
    assert again.config.copilot_weight == 0.7
    assert again.config.copilot_weight_fit == pair.config.copilot_weight_fit
    batch = collate(ROWS[:2])
    assert torch.allclose(again.eval()(**batch).logits, pair(**batch, copilot_weight=0.7).logits)


@pytest.mark.parametrize("training", [True, False])
def test_the_pair_is_left_in_the_mode_it_was_in(training):
    pair = pair_of().train(training)
    fit(pair)
    assert pair.training is training
    with pytest.raises(ValueError, match="no token of the validation set has a label"):
        fit(pair, [{"input_ids": [3, 4], "labels": [-100, -100]}])
    assert pair.training is training


def test_a_trained_pair_gains_on_held_out_rows(tmp_path):
    pair = make_pair(fusion="probability", objective="rmse", mistake_top_k=None)
    arguments = {"max_steps": 60, "freeze_pilot": True, "per_device_train_batch_size": 16, "logging_steps": 30}
    make_trainer(tmp_path, pair, rows=reversal_rows(160, seed=2), **arguments).train()
    pair.eval()
    result = fit(pair, reversal_rows(40, seed=9))
    with_copilot, alone = sizes_at(pair, result.weight, reversal_rows(40, seed=9))
    assert result.weight > 0.1 and with_copilot < alone - 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "`method` is 'newton', which is not one of its values: 'auto', 'least_squares', 'grid'"),
        ({"criterion": "bleu"}, "`criterion` is 'bleu', which is not one of its values: 'loss', 'mistake_size'"),
        ({"method": "least_squares"}, 'least squares is exact for fusion="probability" only'),
        ({"grid": ()}, "empty"),
        ({"grid": (0.5, 30.0)}, r"`copilot_weight` \(λ\) is 30.0"),
        ({"rows": []}, "empty"),
    ],
)
def test_what_cannot_be_fitted_is_refused(options, message):
    pair = pair_of(fusion="logits")
    rows = options.pop("rows", ROWS)
    with pytest.raises(ValueError, match=message):
        fit(pair, rows, **options)
    assert pair.config.copilot_weight == 1.0


def test_the_fitted_weight_is_what_generate_uses():
    """A λ that was put into the generation configuration before would go before the fitted one."""
    pair = make_pair(random_head=True)
    pair.generation_config.copilot_weight = 7.0
    found = fit(pair, reversal_rows(4))
    assert pair.generation_config.copilot_weight is None
    assert weight_of_call(pair, None, None) == found.weight == pair.config.copilot_weight
