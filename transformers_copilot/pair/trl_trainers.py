"""Which of TRL's trainers a pair is trained by: a trainer tells its name when it is made, by `add_model_tags`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


_TEACHES_BOTH: ContextVar[bool] = ContextVar("teaches_both_parts", default=False)


@contextmanager
def trainer_that_teaches_both() -> Iterator[None]:
    """While a trainer with `CopilotTrainerMixin` is made, which adds the Copilot's loss to the Pilot's."""
    token = _TEACHES_BOTH.set(True)
    try:
        yield
    finally:
        _TEACHES_BOTH.reset(token)


def check_trl_trainer(tags: str | Iterable[str]) -> None:
    """Refuse a trainer of TRL's that the Copilot, or a whole pair, can't learn in.

    Args:
        tags (`str` or iterable of `str`): what a trainer tags its model with, such as `["trl", "dpo"]`. Tags of others,
            and `"trl"` alone, say nothing about a trainer.

    Raises:
        ValueError: it is a trainer other than SFT's, or SFT's without `CopilotTrainerMixin`.
    """
    named = [tags] if isinstance(tags, str) else list(tags)
    others = [tag for tag in named if tag != "trl"]
    if "trl" not in named or not others:
        return
    if "sft" not in others:
        raise ValueError(
            f"TRL's trainer {others[0]!r} can't train a pair: its loss isn't that of labelled tokens, from which a "
            "Copilot learns its mistakes. Train the Pilot alone with it (`model=pair.pilot`), then the "
            "Copilot on what the Pilot still gets wrong (`CopilotTrainer` with `freeze_pilot=True`)."
        )
    if not _TEACHES_BOTH.get():
        raise ValueError(
            "TRL's SFTTrainer alone can't train a pair: it makes its loss without the pair's own, and the Copilot "
            "would learn nothing. Put CopilotTrainerMixin before it: `class MyTrainer(CopilotTrainerMixin, "
            "SFTTrainer)`, with arguments of `@dataclass class MyArguments(CopilotArguments, SFTConfig)`."
        )


__all__ = ["check_trl_trainer", "trainer_that_teaches_both"]
