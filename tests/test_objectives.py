"""Mistakes, fusions and objectives against values worked out by hand."""

import math

import pytest
import torch
from training_helpers import collate, make_pair, reversal_rows

from transformers_copilot.fusion import rectified_log_probabilities, rectify, rectify_shift
from transformers_copilot.mistakes import (
    draw_tail,
    full_probabilities,
    mistake_size,
    observed_mistake,
    pilot_distribution,
    probability_of,
    sparse_vector,
)
from transformers_copilot.objectives import copilot_objective


OBJECTIVES = ("rmse", "mse", "kl", "cross_entropy")
# Two positions over three tokens; the true ones are 0 and 1, so ℓ = (0.5, -0.3, -0.2) and (-0.1, 0.9, -0.8).
PILOT = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
TRUE = torch.tensor([0, 1])
MISTAKES = torch.tensor([[0.5, -0.3, -0.2], [-0.1, 0.9, -0.8]])
CORRECTION = torch.tensor([[0.2, -0.1, 0.0], [0.0, 0.0, 0.0]])
# ‖f − ℓ‖² is 0.09 + 0.04 + 0.04 and 0.01 + 0.81 + 0.64.
SQUARED = (0.17, 1.46)


def objective(name, correction=CORRECTION, fusion="logits", rows=slice(None), **options):
    return copilot_objective(correction[rows], PILOT[rows], TRUE[rows], name, fusion, **options)


def divergence(mistake, correction):
    """KL(softmax(ℓ) ‖ softmax(f)), written out."""
    p, q = ([math.exp(x) / sum(map(math.exp, values)) for x in values] for values in (mistake, correction))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_mse_and_rmse_by_hand():
    assert objective("mse").item() == pytest.approx(sum(SQUARED) / 2)
    assert objective("rmse").item() == pytest.approx(math.sqrt(sum(SQUARED) / 2))


def test_the_root_is_over_the_mini_batch_and_not_per_token():
    per_token = sum(math.sqrt(value) for value in SQUARED) / 2
    assert abs(objective("rmse").item() - per_token) > 0.05


def test_kl_by_hand():
    expected = sum(divergence(m, f) for m, f in zip(MISTAKES.tolist(), CORRECTION.tolist(), strict=True)) / 2
    assert objective("kl").item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_with_logits_fusion_by_hand():
    unnormed = [0.5 * math.exp(0.2), 0.3 * math.exp(-0.1), 0.2]
    expected = (-math.log(unnormed[0] / sum(unnormed)) - math.log(0.1)) / 2
    assert objective("cross_entropy").item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_with_probability_fusion_by_hand():
    expected = (-math.log(0.7 / 1.1) - math.log(0.1)) / 2
    assert objective("cross_entropy", fusion="probability").item() == pytest.approx(expected, rel=1e-5)
    clamped = torch.tensor([[0.2, -0.4, 0.0], [0.0, 0.0, 0.0]])  # 0.3 − 0.4 is clamped to about zero
    expected = (-math.log(0.7 / 0.9) - math.log(0.1)) / 2
    assert objective("cross_entropy", clamped, "probability").item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["mse", "kl", "cross_entropy"])
def test_parts_of_a_round_add_up_to_the_whole(name):
    parts = [objective(name, rows=slice(row, row + 1), num_items=2) for row in range(2)]
    assert sum(parts).item() == pytest.approx(objective(name).item(), rel=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("fusion", ["logits", "probability"])
@pytest.mark.parametrize("start", ["zero", "exact fit"])
def test_gradients_are_finite_where_a_root_or_a_logarithm_could_fail(name, fusion, start):
    correction = (torch.zeros(2, 3) if start == "zero" else MISTAKES.clone()).requires_grad_()
    pilot = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.1, 0.8]])  # and a token that the Pilot rules out
    loss = copilot_objective(correction, PILOT if start == "exact fit" else pilot, TRUE, name, fusion)
    loss.backward()
    assert loss.isfinite() and correction.grad.isfinite().all()
    if start == "exact fit" and name in ("mse", "rmse"):
        assert loss.item() < 1e-5 and correction.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_correction_in_bfloat16_is_scored_in_float32(name):
    assert objective(name, CORRECTION.bfloat16()).dtype == torch.float32


# ---- fusion ----


def test_logits_fusion_by_hand():
    unnormed = [0.5 * math.exp(0.1), 0.3 * math.exp(-0.05), 0.2]  # λ = 0.5
    fused = rectified_log_probabilities(PILOT[:1].log(), CORRECTION[:1], 0.5, "logits").exp()
    assert fused[0].tolist() == pytest.approx([value / sum(unnormed) for value in unnormed])


def test_probability_fusion_by_hand():
    fused = rectified_log_probabilities(PILOT[:1].log(), CORRECTION[:1], 0.5, "probability").exp()
    assert fused[0].tolist() == pytest.approx([0.6 / 1.05, 0.25 / 1.05, 0.2 / 1.05])
    fused = rectified_log_probabilities(PILOT[:1].log(), torch.tensor([[0.2, -0.4, 0.0]]), 1.0, "probability").exp()
    assert fused[0].tolist() == pytest.approx([0.7 / 0.9, 0.0, 0.2 / 0.9], abs=1e-6)
    assert (fused > 0).all()


@pytest.mark.parametrize("fusion", ["logits", "probability"])
def test_rectified_logits_keep_the_pilots_normaliser_and_what_it_rules_out(fusion):
    torch.manual_seed(0)
    logits, correction = 3 * torch.randn(5, 7), torch.randn(5, 7)
    logits[0, 3] = -torch.inf
    rectified = rectify(logits, correction, 0.7, fusion)
    expected = rectified_log_probabilities(logits.log_softmax(-1), correction, 0.7, fusion)
    # Row 0 is left out: the token that is ruled out keeps the mass that fusion gave it from the others.
    torch.testing.assert_close(rectified[1:].log_softmax(-1), expected[1:])
    torch.testing.assert_close(rectified[1:].logsumexp(-1), logits[1:].logsumexp(-1))
    assert rectified[0, 3] == -torch.inf and rectified[0].softmax(-1).isfinite().all()
    assert rectify(logits, correction, 0.0, fusion) is logits
    assert not rectify_shift(logits[1:], torch.zeros(4, 7), 1.0, fusion).abs().max() > 1e-5


# ---- mistakes ----


@pytest.mark.parametrize("top_k", [None, 11, 4, 1])
def test_a_sparse_mistake_holds_the_true_token_and_the_most_probable(top_k):
    torch.manual_seed(0)
    logits, true = 2 * torch.randn(6, 11), torch.randint(11, (6,))
    sparse = observed_mistake(pilot_distribution(logits, top_k), true, probability_of(logits, true))
    dense = torch.zeros(6, 11).scatter_add(-1, sparse.token_ids, sparse.values)
    exact = torch.nn.functional.one_hot(true, 11) - logits.softmax(-1)
    kept = torch.zeros(6, 11, dtype=torch.bool).scatter(-1, logits.topk(top_k or 11).indices, True)
    kept.scatter_(-1, true.unsqueeze(-1), True)
    torch.testing.assert_close(dense, torch.where(kept, exact, 0.0))


def test_a_dense_vector_keeps_its_largest_entries():
    vector = torch.tensor([[0.1, -0.9, 0.3, 0.0]])
    sparse = sparse_vector(vector, 1)
    assert dict(zip(sparse.token_ids[0].tolist(), sparse.values[0].tolist(), strict=True)) == pytest.approx(
        {1: -0.9, 2: 0.3}
    )
    assert torch.equal(torch.zeros(1, 4).scatter_add(-1, *sparse_vector(vector, None)), vector)


@pytest.mark.parametrize("top_k", [1, 3, 9, 10, None])
def test_full_probabilities_sum_to_one_and_are_exact_where_known(top_k):
    torch.manual_seed(0)
    logits, true = 2 * torch.randn(40, 10), torch.randint(10, (40,))
    belief = pilot_distribution(logits, top_k)
    full = full_probabilities(belief, true, probability_of(logits, true), 10)
    torch.testing.assert_close(full.sum(-1), torch.ones(40))
    torch.testing.assert_close(full.gather(-1, belief.token_ids), belief.probabilities)
    torch.testing.assert_close(full.gather(-1, true.unsqueeze(-1)), logits.softmax(-1).gather(-1, true.unsqueeze(-1)))
    assert (full >= 0).all()
    if top_k in (9, 10, None):
        torch.testing.assert_close(full, logits.softmax(-1), atol=1e-6, rtol=1e-4)


def test_drawn_tokens_stand_for_the_rest_of_the_distribution():
    """Over many draws it is p̂ itself, whatever is kept; spread evenly it is not."""
    torch.manual_seed(0)
    logits, true = 2 * torch.randn(1, 30).expand(2_000, 30), torch.tensor([5]).expand(2_000)
    belief, probabilities = pilot_distribution(logits, 3), probability_of(logits, true)
    assert 5 not in belief.token_ids[0]
    before = torch.random.get_rng_state()
    tail_ids = draw_tail(logits, belief, 5, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)  # dropout and order of the data stay what they were
    assert torch.equal(tail_ids, draw_tail(logits, belief, 5, seed=1))
    assert not (tail_ids.unsqueeze(-1) == belief.token_ids.unsqueeze(1)).any()
    full = full_probabilities(belief, true, probabilities, 30, tail_ids)
    only_true = (tail_ids == 5).all(dim=-1)
    torch.testing.assert_close(full.sum(-1)[~only_true], torch.ones(int((~only_true).sum())))
    torch.testing.assert_close(full.gather(-1, belief.token_ids), belief.probabilities)
    torch.testing.assert_close(full[:, 5], probabilities)
    exact = logits[0].softmax(-1)
    torch.testing.assert_close(full[~only_true].mean(0), exact, atol=4e-3, rtol=0.0)
    even = full_probabilities(belief, true, probabilities, 30)
    assert (even[0] - exact).abs().max() > 0.02


def test_nothing_is_drawn_where_nothing_is_left():
    logits = torch.tensor([[0.0, -300.0, -300.0, -300.0]])
    belief = pilot_distribution(logits, 1)
    full = full_probabilities(belief, torch.tensor([0]), torch.ones(1), 4, draw_tail(logits, belief, 6, seed=0))
    assert full.tolist() == [[1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("fusion", ["logits", "probability"])
def test_a_right_pilot_with_a_flat_distribution_leaves_nothing_to_correct(fusion):
    """Where the true tokens are as frequent as the Pilot says, no f is better than none: at f = 0 the gradient is zero
    on average. With the rest of p̂ spread evenly it is not, and a Copilot unlearns what the Pilot knows."""
    torch.manual_seed(0)
    rows, vocab = 20_000, 40
    logits = torch.randn(1, vocab).expand(rows, vocab)
    true = torch.multinomial(logits[0].softmax(-1), rows, replacement=True)
    belief, probabilities = pilot_distribution(logits, 4), probability_of(logits, true)
    gradients = {}
    for name, tail_ids in (("drawn", draw_tail(logits, belief, 16, seed=2)), ("even", None), ("exact", "all")):
        full = (
            logits.softmax(-1)
            if tail_ids == "all"
            else full_probabilities(belief, true, probabilities, vocab, tail_ids)
        )
        correction = torch.zeros(rows, vocab, requires_grad=True)
        copilot_objective(correction, full, true, "cross_entropy" if fusion == "logits" else "mse", fusion).backward()
        gradients[name] = correction.grad.sum(0)
    noise = float((gradients["exact"]).abs().max())
    assert float((gradients["drawn"] - gradients["exact"]).abs().max()) < noise
    assert float((gradients["even"] - gradients["exact"]).abs().max()) > 3 * noise


def test_mistake_size_is_the_squared_distance():
    torch.manual_seed(0)
    logits, true = 2 * torch.randn(5, 7), torch.randint(7, (5,))
    exact = (torch.nn.functional.one_hot(true, 7) - logits.softmax(-1)).square().sum(-1)
    torch.testing.assert_close(mistake_size(logits, true), exact)


@pytest.mark.parametrize("head", ["own", "pilot"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_pair_that_keeps_every_token_has_the_dense_loss(head, name):
    losses = []
    for top_k in (None, 23):
        pair = make_pair(head=head, objective=name, random_head=True, mistake_top_k=top_k).train()
        losses.append(pair(**collate(reversal_rows(4))).copilot_loss)
    torch.testing.assert_close(losses[1], losses[0])
