"""λ by kind of token and a gate: both find what is there to be found, and neither finds what is not."""

import torch

from benchmarks.experiments.copilot_gates import GRID, KINDS, Tokens, by_kind, compare, gate, one_weight
from transformers_copilot.pair.fusion import rectify


VOCAB, COUNT = 6, 240


def tokens(helps: torch.Tensor, seed: int = 0) -> Tokens:
    """Tokens of 40 questions, whose correction is right where `helps` says so and wrong elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(VOCAB, (COUNT,), generator=generator)
    logits = torch.randn(COUNT, VOCAB, generator=generator)
    towards = torch.where(helps, true, (true + 1) % VOCAB)
    correction = 1.5 * torch.nn.functional.one_hot(towards, VOCAB).float()
    features = torch.randn(COUNT, 4, generator=generator)
    features[:, 1] = helps.float() + 0.1 * features[:, 1]
    kind = (~helps).long()
    return Tokens(logits, correction, true, torch.arange(COUNT) % 40, kind, features)


def test_a_tokens_loss_is_that_of_the_packages_fusion() -> None:
    made = tokens(torch.ones(COUNT, dtype=torch.bool))
    fused = rectify(made.logits, made.correction, 0.7, "logits")
    expected = torch.nn.functional.cross_entropy(fused, made.true, reduction="none")
    torch.testing.assert_close(made.losses(torch.full((COUNT,), 0.7)), expected)


def test_one_weight_is_the_best_of_the_grid() -> None:
    made = tokens(torch.ones(COUNT, dtype=torch.bool))
    chosen = float(one_weight(made)(made)[0])
    losses = {weight: float(made.losses(torch.full((COUNT,), weight)).sum()) for weight in GRID}
    assert losses[chosen] == min(losses.values()) and chosen == max(GRID)


def test_each_kind_has_its_own_weight() -> None:
    helps = torch.arange(COUNT) % 2 == 0
    made = tokens(helps)
    chosen = by_kind(made)(made)
    assert set(chosen[helps].tolist()) == {max(GRID)} and set(chosen[~helps].tolist()) == {0.0}
    assert len(KINDS) == 3


def test_a_gate_opens_where_the_correction_helps() -> None:
    helps = torch.arange(COUNT) % 2 == 0
    made = tokens(helps)
    chosen = gate(made)(made)
    assert float(chosen[helps].min()) > float(chosen[~helps].max())


def test_what_is_chosen_is_scored_on_questions_that_it_has_not_seen() -> None:
    helps = torch.arange(COUNT) % 2 == 0
    found = compare(tokens(helps), tokens(helps, seed=1))
    assert [line["way"] for line in found] == ["λ by kind of token", "a gate"]
    assert all(line[part]["low"] > 0 for line in found for part in ("dev", "test"))
    # Where the correction helps or harms by chance, nothing says where to use it.
    by_chance = torch.rand(COUNT, generator=torch.Generator().manual_seed(2)) < 0.5
    noise = tokens(by_chance)
    noise.features = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(3))
    noise.kind = torch.arange(COUNT) % 3
    assert all(line["dev"]["low"] < 0 for line in compare(noise, noise))
