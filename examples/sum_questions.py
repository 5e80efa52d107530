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
    """Makes questions, never one twice: sums and differences of numbers of 1 to 4 digits, each length as likely as
    another, and products of such a number with one of a single digit.

    Args:
        seed: Seed of the questions.
        digits: Most digits of a number.
    """

    def __init__(self, seed: int, digits: int = 4) -> None:
        self._random = random.Random(seed)
        self._digits = digits
        self._made: set[str] = set()

    def take(self, count: int) -> list[Sum]:
        """Make questions, sums, differences and products alike.

        Args:
            count: How many.

        Returns:
            The questions, none of which this stream has made before.

        Raises:
            ValueError: There are too few questions of such numbers left.
        """
        # Two numbers of the most digits alone make this many sums; far fewer are taken before repeats become common.
        room = 10 ** (2 * self._digits) // 10
        if len(self._made) + count > room:
            raise ValueError(f"{count} more questions beside {len(self._made)} ask for too much of {room}.")
        questions: list[Sum] = []
        while len(questions) < count:
            question = self._draw()
            if question.prompt not in self._made:
                self._made.add(question.prompt)
                questions.append(question)
        return questions

    def _number(self, digits: int) -> int:
        return self._random.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)

    def _draw(self) -> Sum:
        sign = self._random.choice("+-*")
        left = self._number(self._random.randint(1, self._digits))
        right = self._number(1 if sign == "*" else self._random.randint(1, self._digits))
        result = {"+": left + right, "-": left - right, "*": left * right}[sign]
        return Sum(f"{left}{sign}{right}=", str(result))
