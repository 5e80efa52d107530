"""A loaded task: its data, its metric, and how replies are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from ..metrics import OfflineMetric
from .base import QuestionTask
from .constrained import TargetTrie
from .sequences import SequenceTask


@dataclass
class Task:
    """A task to train on and to be tested on. No test question stands in `train` or `dev`.

    Args:
        definition ([`QuestionTask`] or [`SequenceTask`]): what the task is.
        dataset (`datasets.DatasetDict`): `train`, `dev` and `test`, with the string columns `id`, `task`, `question`,
            `prompt`, `target` and `answer`. The target goes on where the prompt ends and begins with a space.
        test_size (`int`): questions in the test file.
        left_out (`dict[str, int]`): how many of them were left out for standing in `train`, in `dev`, in `either`.
        dev_from_train (`bool`): whether dev was taken out of the training questions.
        metric ([`~transformers_copilot.metrics.OfflineMetric`]): scores answers; made for this object.
    """

    definition: QuestionTask | SequenceTask
    dataset: DatasetDict
    test_size: int
    left_out: dict[str, int]
    dev_from_train: bool = False
    metric: OfflineMetric = field(init=False)

    def __post_init__(self) -> None:
        self.metric = self.definition.metric

    @property
    def name(self) -> str:
        """The task's name."""
        return self.definition.name

    @property
    def group(self) -> str:
        """`arithmetic`, `commonsense` or `recommendation`."""
        return self.definition.group

    @property
    def max_new_tokens(self) -> int:
        """Tokens to generate for a reply: room for the target of all but freak questions."""
        return self.definition.max_new_tokens

    def extract_answer(self, reply: str) -> str | None:
        """Read the answer out of a reply.

        Args:
            reply (`str`): what the model wrote, without the prompt.

        Returns:
            `str`, *optional*: the answer as the `answer` column has it, `None` where the reply has none.
        """
        return self.definition.extract_answer(reply)


@dataclass
class RecommendationTask(Task):
    """A recommendation task, which also knows all valid items, for decoding over these only.

    Args:
        items (`tuple[str, ...]`): ids of all items that any user has had.
    """

    definition: SequenceTask
    items: tuple[str, ...] = ()

    def target_trie(self, tokenizer: PreTrainedTokenizerBase) -> TargetTrie:
        """The targets of all items as a tree of tokens, for beams over valid items only.

            trie = task.target_trie(tokenizer)
            model.generate(**inputs, num_beams=20, num_return_sequences=20, max_new_tokens=trie.longest,
                           prefix_allowed_tokens_fn=trie.prefix_allowed_tokens_fn(prompt_length))

        Args:
            tokenizer (`PreTrainedTokenizerBase`): the model's tokenizer; it needs an end-of-text token.

        Returns:
            [`TargetTrie`]: build it once, it serves every batch.
        """
        return TargetTrie.of_texts([self.definition.target_of(item) for item in self.items], tokenizer)


__all__ = ["RecommendationTask", "Task"]
