"""Nothing may see what comes after it, or what stands in another document."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.conftest import DECODER_ONLY, some_ids
from transformers_copilot.pair.mistake_batch import MistakeBatch


RATIONALES = ("preceding", "current", "last", "depths")
# Copilots of every kind: a decoder with each rationale and both kinds of feedback, and the forms that read neither.
KINDS: dict[str, dict[str, Any]] = {
    **{name: {"copilot": {"num_hidden_layers": 4, "rationale": name}} for name in RATIONALES},
    "depths and tokens": {"copilot": {"num_hidden_layers": 4, "rationale": "depths"}, "error_feedback": "token"},
    "linear": {"copilot": {"form": "linear"}},
    "branch": {"copilot": {"form": "branch", "num_hidden_layers": 1}},
}
PairOf = Callable[..., PreTrainedModel]


def fused(pair: PreTrainedModel, ids: Tensor, **kwargs: object) -> Tensor:
    """p̃ at every position."""
    with torch.no_grad():
        return pair(ids, **kwargs).logits.softmax(-1)


def correction(pair: PreTrainedModel, ids: Tensor, **kwargs: object) -> Tensor:
    """f at every position: the Copilot alone, with nothing of the Pilot's own logits in it."""
    with torch.no_grad():
        return pair(ids, return_correction=True, **kwargs).correction


def test_the_tests_below_can_fail(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(1, 8)
    changed = ids.clone()
    changed[0, 2] = (ids[0, 2] + 1) % 60
    difference = (correction(pair, changed) - correction(pair, ids)).abs().amax(-1)[0]
    assert (difference[2:] > 1e-3).all()


@pytest.mark.parametrize("family", [*DECODER_ONLY, "t5"])
@pytest.mark.parametrize(
    ("kind", "head"),
    [*product(RATIONALES, ("own", "pilot")), ("depths and tokens", "own"), ("linear", "pilot"), ("branch", "pilot")],
)
def test_changing_later_tokens_changes_nothing_earlier(tiny_pair: PairOf, family: str, kind: str, head: str):
    pair, ids = tiny_pair(family, head=head, **KINDS[kind]), some_ids(2, 8)
    source = {"input_ids": some_ids(2, 5, seed=9)} if family == "t5" else {}
    name = "decoder_input_ids" if family == "t5" else "input_ids"
    for position in range(1, 8):
        changed = ids.clone()
        changed[:, position:] = 3 + (ids[:, position:] + 17) % 60
        with torch.no_grad():
            before, after = (
                pair(**source, **{name: text}, return_correction=True).correction[:, :position]
                for text in (ids, changed)
            )
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_differ_in_what_they_see_of_the_position_itself_and_of_earlier_ones(tiny_pair: PairOf, kind: str):
    """A change of the Pilot's hidden state at j alone moves f_j, except under "preceding", where it moves f_{j+1}
    first. A linear Copilot sees f_j's state and nothing else; a branch reads the layer before the one moved here."""
    pair, ids = tiny_pair(**KINDS[kind]), some_ids(1, 6)
    layers = pair.pilot.model.layers

    def move(module: torch.nn.Module, args: tuple, output: Tensor) -> Tensor:
        return output + torch.zeros_like(output).index_fill(1, torch.tensor([3]), 5.0)

    found = {}
    before = correction(pair, ids)
    for number in (1, 2):
        # In front of the recorder's own hook; the Pilot's logits at 3 change too, which f reads one position later.
        handle = layers[number].register_forward_hook(move, prepend=True)
        found[number] = ((correction(pair, ids) - before).abs().amax(-1)[0] > 1e-4).tolist()
        handle.remove()
    later = [False, False, False, kind != "preceding", True, True]
    at_last = [False, False, False, True, False, False] if kind in ("linear", "branch") else later
    # Moved earlier, it reaches the later positions through the Pilot's own attention.
    assert found == {1: later, 2: at_last}


def test_tokens_alone_tell_nothing_of_what_the_pilot_believed(tiny_pair: PairOf):
    """The Pilot's head moves its logits and none of its states: f of mistakes changes, f of tokens does not."""
    for feedback, reads in (("observed", True), ("token", False)):
        pair, ids = tiny_pair(error_feedback=feedback, head="own"), some_ids(1, 6)
        before = correction(pair, ids)
        with torch.no_grad():
            pair.pilot.lm_head.weight.mul_(0.5)
        moved = (correction(pair, ids) - before).abs().amax(-1)[0] > 1e-4
        assert moved.tolist() == [False, *[reads] * 5]


@pytest.mark.parametrize("feedback", ["observed", "predicted", "token"])
@pytest.mark.parametrize("form", ["linear", "branch"])
def test_the_other_forms_read_no_feedback_at_all(tiny_pair: PairOf, form: str, feedback: str):
    """Asked for by name it is refused; said by a configuration as a whole, it changes nothing."""
    ids, pair = some_ids(2, 6), tiny_pair(**KINDS[form])
    with pytest.raises(ValueError, match=f"error_feedback='{feedback}'` is given for a Copilot of the form '{form}'"):
        tiny_pair(error_feedback=feedback, **KINDS[form])
    before = correction(pair, ids)
    pair.config.error_feedback = feedback
    assert torch.equal(correction(pair, ids), before)


@pytest.mark.parametrize(
    ("family", "kind"), [*[(family, "preceding") for family in DECODER_ONLY], *[("llama", kind) for kind in KINDS][1:]]
)
def test_right_padding_changes_nothing_with_or_without_a_mask(tiny_pair: PairOf, family: str, kind: str):
    pair, ids = tiny_pair(family, **KINDS[kind]), some_ids(1, 6)
    padded = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    mask = torch.tensor([[1] * 6 + [0] * 3])
    alone = fused(pair, ids)
    torch.testing.assert_close(fused(pair, padded)[:, :6], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(fused(pair, padded, attention_mask=mask)[:, :6], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_padding_changes_nothing(tiny_pair: PairOf, kind: str):
    pair, ids = tiny_pair(**KINDS[kind]), some_ids(1, 8)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    other = ids.clone()
    other[0, :3] = 5
    before, after = (fused(pair, text, attention_mask=mask, position_ids=positions)[:, 3:] for text in (ids, other))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "mistral"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_documents_are_scored_as_separate_ones(tiny_pair: PairOf, family: str, kind: str):
    """transformers packs where `position_ids` start again, without a mask and without a cache."""
    pair = tiny_pair(family, **KINDS[kind])
    documents = [some_ids(1, length, seed=length) for length in (4, 1, 5, 2)]
    positions = torch.cat([torch.arange(text.shape[1]) for text in documents])[None]
    packed = fused(pair, torch.cat(documents, dim=1), position_ids=positions, use_cache=False)
    alone = torch.cat([fused(pair, text) for text in documents], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


def test_packed_rows_of_a_batch_may_be_packed_differently(tiny_pair: PairOf):
    pair, ids = tiny_pair(), some_ids(2, 6)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 3]])
    packed = fused(pair, ids, position_ids=positions, use_cache=False)
    torch.testing.assert_close(packed[0], fused(pair, ids[:1])[0], atol=1e-5, rtol=0)
    alone = torch.cat([fused(pair, ids[1:, :2]), fused(pair, ids[1:, 2:])], dim=1)
    torch.testing.assert_close(packed[1], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mistakes_from", ["labels", "all"])
def test_training_sees_what_scoring_sees(tiny_pair: PairOf, kind: str, mistakes_from: str):
    """The Copilot's loss in a training pass is its loss in an evaluation pass: one path, one set of masks."""
    pair = tiny_pair(mistakes_from=mistakes_from, **KINDS[kind])
    ids = some_ids(2, 7)
    labels = ids.clone()
    if mistakes_from == "labels":
        labels[:, :3] = -100
    in_evaluation = pair(ids, labels=labels).copilot_loss
    in_training = pair.train()(ids, labels=labels).copilot_loss
    torch.testing.assert_close(in_training, in_evaluation, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_later_label_reaches_the_copilots_loss_of_an_earlier_position(tiny_pair: PairOf, kind: str):
    """Only position 2 is supervised: tokens after the one that it predicts must not move its loss."""
    pair, ids = tiny_pair(**KINDS[kind]).train(), some_ids(1, 7)
    labels = torch.full_like(ids, -100)
    labels[0, 3] = ids[0, 3]
    changed = ids.clone()
    changed[0, 4:] = 9
    losses = [pair(text, labels=labels).copilot_loss for text in (ids, changed)]
    torch.testing.assert_close(losses[1], losses[0], atol=1e-6, rtol=0)


def test_packed_rows_lend_each_other_no_mistake_in_training(tiny_pair: PairOf):
    """With `mistakes_from="all"` the last token of a document is no lesson: the next one belongs to another."""
    pair, ids = tiny_pair(mistakes_from="all"), some_ids(1, 6)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    labels = torch.full_like(ids, -100)
    labels[0, 1] = ids[0, 1]
    out = pair.train()(ids, position_ids=positions, labels=labels, return_mistakes=True)
    assert isinstance(out.mistakes, MistakeBatch)
    assert out.mistakes.supervised("all")[0].tolist() == [True, True, False, True, True, False]
    assert (out.mistakes.feedback().values[0, [0, 3]] == 0).all()


def test_a_labels_boundary_between_packed_documents_is_the_callers(tiny_pair: PairOf):
    """A label at a document's first token would teach the last position of the one before; collators put -100 there."""
    pair, ids = tiny_pair(), some_ids(1, 6)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    labels = ids.clone()
    labels[0, [0, 3]] = -100
    packed = pair(ids, position_ids=positions, labels=labels, use_cache=False).copilot_loss
    apart = torch.stack([pair(ids[:, part], labels=ids[:, part]).copilot_loss for part in (slice(0, 3), slice(3, 6))])
    torch.testing.assert_close(packed, apart.mean(), atol=1e-5, rtol=1e-5)
