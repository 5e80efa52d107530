"""A pair's vocabulary is its Pilot's: embeddings, head, and their size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from .adapted import has_adapter
from .rationale import RationaleRecorder


# A mixin of the pair; type checkers are told so.
_PairBase: Any = PreTrainedModel if TYPE_CHECKING else object


class PairVocabularyMixin(_PairBase):
    """The part of a pair that shows the Pilot's embeddings, head and decoder as its own."""

    recorder: RationaleRecorder

    def get_input_embeddings(self) -> nn.Module:
        """The Pilot's embedding layer.

        Returns:
            `nn.Module`
        """
        return self.pilot.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the Pilot's embedding layer.

        Args:
            value (`nn.Module`): the new one.
        """
        self.pilot.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The Pilot's language model head.

        Returns:
            `nn.Module`
        """
        return self.pilot.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the Pilot's language model head.

        Args:
            new_embeddings (`nn.Module`): the new one.
        """
        self.pilot.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        """The Pilot's decoder.

        Returns:
            `nn.Module`
        """
        return self.pilot.get_decoder()

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie what the Pilot ties. With an adapter in the Pilot it is tied already, below the adapter; above it, PEFT
        decides what is a copy of its own.

        Args:
            *args: as of any model's.
            **kwargs: as of any model's.
        """
        if not has_adapter(self.pilot):
            super().tie_weights(*args, **kwargs)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Change the vocabulary of both parts; new tokens start uncorrected (f = 0).

        Args:
            new_num_tokens (`int`, *optional*): the new size; `None` changes nothing.
            *args: handed on to the Pilot.
            **kwargs: handed on to the Pilot.

        Returns:
            `nn.Module`: the Pilot's embedding layer.
        """
        embeddings = self.pilot.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        self.copilot.resize_vocabulary(self.pilot.config.get_text_config(decoder=True).vocab_size)
        self.recorder.remove()
        self.recorder = RationaleRecorder(self.pilot)  # the embedding layer is a new one
        return embeddings


__all__ = ["PairVocabularyMixin"]
