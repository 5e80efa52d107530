"""Mistakes, fusions and objectives against values worked out by hand."""

import math

import pytest
import torch

from transformers_copilot.pair.fusion import rectified_log_probabilities, rectify, rectify_shift
from transformers_copilot.pair.mistakes import (
    mistake_size,
    observed_mistake,
    pilot_distribution,
    probability_of,
    sparse_vector,
)
from transformers_copilot.pair.objectives import copilot_objective, rectified_cross_entropy


OBJECTIVES = ("rmse", "mse", "kl", "cross_entropy")
# Two positions over three tokens; the true ones are 0 and 1, so ℓ = (0.5, -0.3, -0.2) and (-0.1, 0.9, -0.8).
PILOT = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
TRUE = torch.tensor([0, 1])
MISTAKES = torch.tensor([[0.5, -0.3, -0.2], [-0.1, 0.9, -0.8]])
CORRECTION = torch.tensor([[0.2, -0.1, 0.0], [0.0, 0.0, 0.0]])
# ‖f − ℓ‖² is 0.09 + 0.04 + 0.04 and 0.01 + 0.81 + 0.64.
SQUARED = (0.17, 1.46)


def objective(name, correction=CORRECTION, fusion="logits", rows=slice(None), **options):
    return copilot_objective(correction[rows], PILOT.log()[rows], TRUE[rows], name, fusion, **options)


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
    whole = rectified_cross_entropy(PILOT.log() + CORRECTION, TRUE)  # z + f, made by one product
    assert whole.item() == pytest.approx(expected, rel=1e-5)
    assert rectified_cross_entropy(PILOT.log() + CORRECTION, TRUE, 8).item() == pytest.approx(expected / 4, rel=1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("fusion", ["logits", "probability"])
def test_the_level_of_the_pilots_logits_says_nothing(name, fusion):
    """A Pilot's logits are no log-probabilities: a number added to all of a position's changes no distribution."""
    levels = torch.tensor([[11.0], [-7.0]])
    moved = copilot_objective(CORRECTION, PILOT.log() + levels, TRUE, name, fusion)
    torch.testing.assert_close(moved, objective(name, fusion=fusion))


@pytest.mark.parametrize("fusion", ["logits", "probability"])
def test_a_loss_in_pieces_is_the_loss_of_the_whole(fusion, monkeypatch):
    """A pass over many positions goes a cacheful at a time."""
    torch.manual_seed(0)
    logits, correction, true = 2 * torch.randn(7, 11), 0.1 * torch.randn(7, 11), torch.randint(11, (7,))
    whole = copilot_objective(correction, logits, true, "cross_entropy", fusion)
    monkeypatch.setattr("transformers_copilot.pair.mistakes._NUMBERS_AT_ONCE", 3 * 11)
    torch.testing.assert_close(copilot_objective(correction, logits, true, "cross_entropy", fusion), whole)
    if fusion == "logits":
        torch.testing.assert_close(rectified_cross_entropy(logits + correction, true), whole)


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
    logits = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.1, 0.8]]).log()  # with a token that the Pilot rules out
    correction = torch.zeros(2, 3)
    if start == "exact fit":
        logits = PILOT.log()
        correction = torch.nn.functional.one_hot(TRUE, 3) - logits.softmax(-1)  # MISTAKES, to the last digit
        torch.testing.assert_close(correction, MISTAKES)
    correction.requires_grad_()
    loss = copilot_objective(correction, logits, TRUE, name, fusion)
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
def test_rectified_logits_have_the_level_that_is_promised_and_keep_what_the_pilot_rules_out(fusion):
    """Under logits fusion they are z + λf, as a plain model's would be; under probability fusion the log-normaliser is
    the Pilot's own."""
    torch.manual_seed(0)
    logits, correction = 3 * torch.randn(5, 7), torch.randn(5, 7)
    logits[0, 3] = -torch.inf
    rectified = rectify(logits, correction, 0.7, fusion)
    expected = rectified_log_probabilities(logits.log_softmax(-1), correction, 0.7, fusion)
    # Row 0 is left out: the token that is ruled out keeps the mass that fusion gave it from the others.
    torch.testing.assert_close(rectified[1:].log_softmax(-1), expected[1:])
    if fusion == "logits":
        torch.testing.assert_close(rectified, logits + 0.7 * correction)
        torch.testing.assert_close(rectify_shift(logits, correction, 0.7, fusion)[1:], 0.7 * correction[1:])
    else:
        torch.testing.assert_close(rectified[1:].logsumexp(-1), logits[1:].logsumexp(-1))
    assert rectified[0, 3] == -torch.inf and rectified[0].softmax(-1).isfinite().all()
    assert rectify(logits, correction, 0.0, fusion) is logits
    assert not rectify_shift(logits[1:], torch.zeros(4, 7), 1.0, fusion).abs().max() > 1e-5


@pytest.mark.parametrize("fusion", ["logits", "probability"])
def test_what_is_added_to_log_probabilities_leaves_log_probabilities(fusion):
    """Beams add it to log p̂, and rank their texts by the sum: it has to be log p̃, normed."""
    torch.manual_seed(0)
    logits, correction = 3 * torch.randn(5, 7), torch.randn(5, 7)
    logits[0, 3] = -torch.inf
    shift = rectify_shift(logits, correction, 0.7, fusion, of_probabilities=True)
    beams = logits.log_softmax(-1) + shift
    expected = rectified_log_probabilities(logits.log_softmax(-1), correction, 0.7, fusion)
    torch.testing.assert_close(beams[1:], expected[1:])
    torch.testing.assert_close(beams[1:].exp().sum(-1), torch.ones(4))
    assert beams[0, 3] == -torch.inf and shift[0].isfinite().all()


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


@pytest.mark.parametrize("fusion", ["logits", "probability"])
def test_a_right_pilot_with_a_flat_distribution_leaves_nothing_to_correct(fusion):
    """Where the true tokens are as frequent as the Pilot says, no f is better than none: at f = 0 the gradient is zero
    on average. With the unlikely tokens of p̂ left out it is not, and a Copilot unlearns what the Pilot knows."""
    torch.manual_seed(0)
    rows, vocab = 20_000, 40
    logits = torch.randn(1, vocab).expand(rows, vocab)
    true = torch.multinomial(logits[0].softmax(-1), rows, replacement=True)
    truncated = logits.masked_fill(logits < logits.topk(8).values[:, -1:], -torch.inf)
    truncated = truncated.scatter(-1, true.unsqueeze(-1), logits.gather(-1, true.unsqueeze(-1)))
    gradients = {}
    for name, given in (("whole", logits), ("truncated", truncated)):
        correction = torch.zeros(rows, vocab, requires_grad=True)
        copilot_objective(correction, given, true, "cross_entropy" if fusion == "logits" else "mse", fusion).backward()
        gradients[name] = correction.grad.sum(0)
    expected = (true.bincount(minlength=vocab) / rows - logits[0].softmax(-1)).abs().max() * (1 + (fusion != "logits"))
    noise = float(gradients["whole"].abs().max())
    assert noise == pytest.approx(float(expected), rel=1e-3)  # what these very tokens are off p̂, and nothing else
    assert float((gradients["truncated"] - gradients["whole"]).abs().max()) > 3 * noise


def test_mistake_size_is_the_squared_distance():
    torch.manual_seed(0)
    logits, true = 2 * torch.randn(5, 7), torch.randint(7, (5,))
    exact = (torch.nn.functional.one_hot(true, 7) - logits.softmax(-1)).square().sum(-1)
    torch.testing.assert_close(mistake_size(logits, true), exact)
