"""`generate` of plain transformers with a slow model: what a pair's `generate` has to equal at λ > 0.

The slow model is the Pilot's own class. Its `forward` gives the Pilot's logits, rectified by Algorithm 2 as it is
written in `reference_inference`: row by row, token by token, without a cache, a logits processor or anything of the
package. So every setting of `generate` acts on it as transformers means it to.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.helpers.reference_inference import SlowPair, Step


def slow_model(pair: PreTrainedModel, weight: float = 1.0) -> PreTrainedModel:
    """A model of the Pilot's class that says what the pair says; give its `generate` `use_cache=False`.

    Args:
        pair: a decoder-only pair, with observed feedback or that of the token alone.
        weight: λ.
    """
    known: dict[tuple[int, ...], tuple[Step, Tensor]] = {}
    slow = SlowPair(pair)

    def read(text: tuple[int, ...]) -> tuple[Step, Tensor]:
        """What the Pilot leaves at a text's last token, and the mistake before it."""
        if text not in known:
            step = slow.pilot.step(torch.tensor(text))
            before = read(text[:-1])[0] if len(text) > 1 else None
            steps = [step] if before is None else [before, step]
            known[text] = (step, slow.given(steps, torch.tensor(text[-2:]))[-1])
        return known[text]

    rectified: dict[tuple[int, ...], Tensor] = {}

    def last_logits(text: tuple[int, ...]) -> Tensor:
        if text not in rectified:
            read_so_far = [read(text[: end + 1]) for end in range(len(text))]
            steps, entries = ([one[place] for one in read_so_far] for place in (0, 1))
            # The level counts: `repetition_penalty` asks for a logit's sign.
            rectified[text] = slow.rectified(steps[-1].logits, slow.correct(steps, entries)[-1], weight)
        return rectified[text]

    class Slow(type(pair.pilot)):  # type: ignore[misc]
        """The Pilot's class, with the reference for a `forward`."""

        @torch.no_grad()
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
            rows = []
            for index, row in enumerate(input_ids):
                seen = row if attention_mask is None else row[attention_mask[index].bool()]
                rows.append(last_logits(tuple(seen.tolist())).float())
            return CausalLMOutputWithPast(logits=torch.stack(rows).unsqueeze(1))

    with torch.device("meta"):
        model = Slow(pair.pilot.config)
    model = model.to_empty(device="cpu").eval()
    model.load_state_dict(pair.pilot.state_dict())
    model.generation_config = pair.generation_config
    return model
