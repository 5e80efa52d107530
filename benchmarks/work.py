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
        copilot_body: The Copilot's, without vocabulary matrices.
        copilot_memory: Those of `copilot_body` that see every position twice, as question and as rationale: keys and
            values of cross-attention.
        copilot_head: The matrix that makes the correction: V × d_C of its own, or the Pilot's head again.
        head_is_pilots: Whether that matrix is the Pilot's, which then gets no gradient from the Copilot.
        stored: All weights of the Pilot, and of the Copilot.
    """

    pilot_body: int
    pilot_head: int
    copilot_body: int
    copilot_memory: int
    copilot_head: int
    head_is_pilots: bool
    stored: tuple[int, int]

    def training(self, tokens: int, supervised: int) -> float:
        """Operations of a training step, the pair over the Pilot alone.

        A token costs 2 operations a weight forward and 4 backward (to the input and to the weight); where a weight is
        only read, 4 in all. The Copilot's head runs on supervised positions only. Attention scores, norms and the
        optimizer are left out: they grow much as the rest does.

            Pilot    = 6 · tokens · (body + head)
            Copilot  = 6 · tokens · (body + memory) + (4 or 6) · supervised · head

        Args:
            tokens: Tokens of a sequence.
            supervised: Those of them that have a label.
        """
        pilot = 6 * tokens * (self.pilot_body + self.pilot_head)
        of_head = (4 if self.head_is_pilots else 6) * supervised * self.copilot_head
        return 1 + (6 * tokens * (self.copilot_body + self.copilot_memory) + of_head) / pilot

    def prefill(self, tokens: int) -> float:
        """Operations of reading a prompt. The Pilot alone needs logits of the last token only; the pair needs them of
        every token, since each is a mistake to read.

            Pilot = tokens · body + head
            pair  = tokens · (body + head) + tokens · (Copilot's body + memory) + Copilot's head

        Args:
            tokens: Tokens of the prompt.
        """
        return self._prefill(tokens)[1] / self._prefill(tokens)[0]

    def _prefill(self, tokens: int) -> tuple[int, int]:
        alone = tokens * self.pilot_body + self.pilot_head
        copilot = tokens * (self.copilot_body + self.copilot_memory) + self.copilot_head
        return alone, tokens * (self.pilot_body + self.pilot_head) + copilot

    def generation(self, prompt: int, new_tokens: int) -> float:
        """Operations of a prompt and of every new token, each of which runs all of both (2 operations a weight).

        Args:
            prompt: Tokens of the prompt.
            new_tokens: Tokens generated; the prompt's pass gives the first of them.
        """
        alone, pair = self._prefill(prompt)
        step = self.pilot_body + self.pilot_head
        copilot_step = self.copilot_body + self.copilot_memory + self.copilot_head
        return (pair + (new_tokens - 1) * (step + copilot_step)) / (alone + (new_tokens - 1) * step)

    def weights_read(self) -> float:
        """Bytes of weights read for a token of a single sequence, where both have the same type.

            pair / Pilot = 1 + (Copilot's body + Copilot's own head) / (body + head)

        The Pilot's head counts once: where the Copilot borrows it, one reading serves both.
        """
        own_head = 0 if self.head_is_pilots else self.copilot_head
        return 1 + (self.copilot_body + own_head) / (self.pilot_body + self.pilot_head)

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
    config = pair.config.copilot
    borrowed = config.head == "pilot"
    pilot_head = pair.get_output_embeddings().weight.numel()
    # Shared weights are counted once by `parameters()`; every embedding table is looked up, not multiplied.
    tables = {id(m.weight): m.weight.numel() for m in pair.pilot.modules() if isinstance(m, nn.Embedding)}
    tables[id(pair.get_output_embeddings().weight)] = pilot_head
    pilot, copilot = _count(pair.pilot), _count(pair.copilot)
    own_matrices = 0 if borrowed else 2 * config.vocab_size * config.hidden_size
    cross = [layer.cross_attn for layer in pair.copilot.layers if layer.cross_attn is not None]
    return Parameters(
        pilot_body=pilot - sum(tables.values()),
        pilot_head=pilot_head,
        copilot_body=copilot - own_matrices,
        copilot_memory=sum(_count(attention.k_proj) + _count(attention.v_proj) for attention in cross),
        copilot_head=pilot_head if borrowed else own_matrices // 2,
        head_is_pilots=borrowed,
        stored=(pilot, copilot),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
