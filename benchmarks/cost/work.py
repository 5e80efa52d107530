"""What bounds the ratios: floating-point operations and bytes of weights, from the numbers of parameters."""

from dataclasses import dataclass

from torch import nn

from transformers_copilot import PilotCopilotForCausalLM


@dataclass
class Parameters:
    """Weights of a pair that are multiplied with every token, by part.

    Args:
        pilot_body: The Pilot's, without embeddings and language model head.
        pilot_head: The Pilot's language model head, V × d_P.
        copilot_body: The Copilot's layers, which run on every token.
        copilot_memory: Those of `copilot_body` that see every position twice, as question and as rationale: keys and
            values of a decoder's cross-attention.
        copilot_map: What runs only where a correction is made: the map of a linear Copilot, and that of a decoder into
            the Pilot's width.
        copilot_head: The vocabulary product of a correction: V × d_C of its own, or the Pilot's head again.
        head_is_pilots: Whether that matrix is the Pilot's, which then gets no gradient from the Copilot.
        reads_mistakes: Whether the Copilot reads the Pilot's mistakes, so that the Pilot's head runs on every token.
        stored: All weights of the Pilot, and of the Copilot.
    """

    pilot_body: int
    pilot_head: int
    copilot_body: int
    copilot_memory: int
    copilot_map: int
    copilot_head: int
    head_is_pilots: bool
    reads_mistakes: bool
    stored: tuple[int, int]

    def training(self, tokens: int, supervised: int) -> float:
        """Operations of a training step, the pair over the Pilot alone.

        A token costs 2 operations a weight forward and 4 backward (to the input and to the weight); where a weight is
        only read, 4 in all. Corrections are made at supervised positions only. Attention scores, norms and the
        optimizer are left out: they grow much as the rest does.

            Pilot    = 6 · tokens · (body + head)
            Copilot  = 6 · tokens · (body + memory) + supervised · (6 · map + (4 or 6) · head)

        Args:
            tokens: Tokens of a sequence.
            supervised: Those of them that have a label.
        """
        return 1 + self._lessons(tokens, supervised) / self._alone(tokens)

    def teaching(self, tokens: int, supervised: int) -> float:
        """Operations of a step beside a frozen Pilot, over a training step of the Pilot alone.

            Pilot, frozen = 2 · tokens · (body + head)

        Args:
            tokens: Tokens of a sequence.
            supervised: Those of them that have a label.
        """
        return 1 / 3 + self._lessons(tokens, supervised) / self._alone(tokens)

    def _alone(self, tokens: int) -> int:
        return 6 * tokens * (self.pilot_body + self.pilot_head)

    def _lessons(self, tokens: int, supervised: int) -> int:
        of_head = (4 if self.head_is_pilots else 6) * self.copilot_head
        return 6 * tokens * (self.copilot_body + self.copilot_memory) + supervised * (6 * self.copilot_map + of_head)

    def prefill(self, tokens: int) -> float:
        """Operations of one pass over a prompt. The Pilot alone needs logits of the last token only; so does a pair
        whose Copilot reads no mistakes. Where it does, each token's distribution is a mistake to read.

            Pilot = tokens · body + head
            pair  = tokens · body + (1 or tokens) · head + tokens · (Copilot's body + memory) + Copilot's map and head

        Args:
            tokens: Tokens of the prompt.
        """
        return self._prefill(tokens, self.copilot_head) / self._prefill_alone(tokens)

    def _prefill_alone(self, tokens: int) -> int:
        return tokens * self.pilot_body + self.pilot_head

    def _prefill(self, tokens: int, correction: int) -> int:
        seen = tokens if self.reads_mistakes else 1
        copilot = tokens * (self.copilot_body + self.copilot_memory) + self.copilot_map + correction
        return tokens * self.pilot_body + seen * self.pilot_head + copilot

    def generation(self, prompt: int, new_tokens: int) -> float:
        """Operations of a prompt and of every new token, each of which runs all of both (2 operations a weight).

        With the Pilot's head and no mistakes to read, the head reads the corrected state: one product serves both.

        Args:
            prompt: Tokens of the prompt.
            new_tokens: Tokens generated; the prompt's pass gives the first of them.
        """
        correction = 0 if self.head_is_pilots and not self.reads_mistakes else self.copilot_head
        step = self.pilot_body + self.pilot_head
        pair_step = step + self.copilot_body + self.copilot_memory + self.copilot_map + correction
        alone = self._prefill_alone(prompt) + (new_tokens - 1) * step
        return (self._prefill(prompt, correction) + (new_tokens - 1) * pair_step) / alone

    def weights_read(self) -> float:
        """Bytes of weights read for a token of a single sequence, where both have the same type.

            pair / Pilot = 1 + (Copilot's body and map + Copilot's own head) / (body + head)

        The Pilot's head counts once: where the Copilot borrows it, one reading serves both.
        """
        own_head = 0 if self.head_is_pilots else self.copilot_head
        return 1 + (self.copilot_body + self.copilot_map + own_head) / (self.pilot_body + self.pilot_head)

    def training_state(self) -> float:
        """Bytes of weights, gradients and AdamW's two moments, 16 a weight: all weights over the Pilot's."""
        return sum(self.stored) / self.stored[0]


def count_parameters(pair: PilotCopilotForCausalLM) -> Parameters:
    """Count a pair's weights by part.

    Args:
        pair: The pair.

    Returns:
        The numbers.
    """
    config, copilot = pair.config.copilot, pair.copilot
    borrowed, decoder = config.head == "pilot", config.form == "decoder"
    pilot_head = pair.get_output_embeddings().weight.numel()
    # Shared weights are counted once by `parameters()`; every embedding table is looked up, not multiplied.
    tables = {id(m.weight): m.weight.numel() for m in pair.pilot.modules() if isinstance(m, nn.Embedding)}
    tables[id(pair.get_output_embeddings().weight)] = pilot_head
    of_pilot, of_copilot = _count(pair.pilot), _count(copilot)
    own_matrices = 0 if borrowed else 2 * config.vocab_size * config.hidden_size
    late = _count(copilot.map) if config.form == "linear" else 0
    if decoder and borrowed:
        late = _count(copilot.correction_head)
    cross = [layer.cross_attn for layer in copilot.layers if layer.cross_attn is not None] if decoder else []
    return Parameters(
        pilot_body=of_pilot - sum(tables.values()),
        pilot_head=pilot_head,
        copilot_body=of_copilot - own_matrices - late,
        copilot_memory=sum(_count(attention.k_proj) + _count(attention.v_proj) for attention in cross),
        copilot_map=late,
        copilot_head=pilot_head if borrowed else own_matrices // 2,
        head_is_pilots=borrowed,
        reads_mistakes=decoder and pair.config.error_feedback != "token",
        stored=(of_pilot, of_copilot),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
