"""Fresh arithmetic questions for the demonstration, spelt digit by digit, and a tokenizer for them.

`37+45=82`, `5-218=-213`, `24*13=312`: no question is made twice, so a model that is trained on a stream of them sees
every one once, and a test question never stands in the training stream.
"""

import random
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHARACTERS = "0123456789+-*="
PAD, END = "<pad>", "<end>"


@dataclass(frozen=True)
class Sum:
    """One question.

    Args:
        prompt: Its text up to the equals sign, `37+45=`.
        answer: What follows, `82`.
    """

    prompt: str
    answer: str


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each digit and sign, one for padding and one for the end.

    Returns:
        The tokenizer, of 16 tokens.
    """
    vocabulary = {token: index for index, token in enumerate((PAD, END, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


class SumStream:
    """Makes questions, never one twice.

    Args:
        seed: Seed of the questions.
        largest: Largest operand of a sum or difference.
        largest_factor: Largest operand of a product.
    """

    def __init__(self, seed: int, largest: int = 999, largest_factor: int = 99) -> None:
        self._random = random.Random(seed)
        self._limits = {"+": largest, "-": largest, "*": largest_factor}
        self._made: set[str] = set()

    def take(self, count: int) -> list[Sum]:
        """Make questions, sums, differences and products alike.

        Args:
            count: How many.

        Returns:
            The questions, none of which this stream has made before.

        Raises:
            ValueError: The operands' range has too few questions left.
        """
        room = sum((limit + 1) ** 2 for limit in self._limits.values())
        if len(self._made) + count > room // 2:
            raise ValueError(f"{count} more questions beside {len(self._made)} ask for too much of {room}.")
        questions: list[Sum] = []
        while len(questions) < count:
            question = self._draw()
            if question.prompt not in self._made:
                self._made.add(question.prompt)
                questions.append(question)
        return questions

    def _draw(self) -> Sum:
        sign = self._random.choice("+-*")
        left, right = (self._random.randint(0, self._limits[sign]) for _ in range(2))
        result = {"+": left + right, "-": left - right, "*": left * right}[sign]
        return Sum(f"{left}{sign}{right}=", str(result))
