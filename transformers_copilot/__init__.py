"""A Copilot for any Hugging Face language model: it learns from the model's mistakes and corrects it as it writes.

Importing the package registers its configurations and models with the Auto classes; the training parts are imported
when they are first asked for. The method is that of "Transformer Copilot" (arXiv 2505.16270).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__


_EXPORTS: dict[str, str] = {
    "CopilotConfig": "configuration_copilot",
    "PilotCopilotConfig": "configuration_pilot_copilot",
    "PilotCopilotSeq2SeqConfig": "configuration_pilot_copilot",
    "CopilotModel": "modeling_copilot",
    "PilotCopilotForCausalLM": "modeling_pilot_copilot",
    "PilotCopilotForSeq2SeqLM": "modeling_pilot_copilot_seq2seq",
    "PilotCopilotOutput": "modeling_outputs",
    "PilotCopilotCache": "cache_pilot_copilot",
    "CopilotLogitsProcessor": "generation_pilot_copilot",
    "MistakeBatch": "mistake_batch",
    "MistakeLog": "mistake_log",
    "MistakeRecord": "mistake_record",
    "RecordedMistakes": "recorded_mistakes",
    "record_mistakes": "recording",
    "CopilotTrainer": "trainer_copilot",
    "CopilotSeq2SeqTrainer": "trainer_copilot",
    "CopilotTrainerMixin": "trainer_copilot",
    "CopilotTrainingArguments": "training_args_copilot",
    "CopilotSeq2SeqTrainingArguments": "training_args_copilot",
    "MistakeLogCallback": "trainer_callback_copilot",
    "CardFacts": "card_facts",
    "CardResult": "card_facts",
    "paper_lora": "adapters",
    "MistakeAnalysis": "report.mistake_analysis",
    "analyse_mistakes": "report.mistake_analysis",
    "write_report": "report.page",
    "CopilotWeightFit": "copilot_weight",
    "fit_copilot_weight": "copilot_weight",
    "finish_then_record": "finishing",
}

if TYPE_CHECKING:
    from .adapters import paper_lora
    from .cache_pilot_copilot import PilotCopilotCache
    from .card_facts import CardFacts, CardResult
    from .configuration_copilot import CopilotConfig
    from .configuration_pilot_copilot import PilotCopilotConfig, PilotCopilotSeq2SeqConfig
    from .copilot_weight import CopilotWeightFit, fit_copilot_weight
    from .finishing import finish_then_record
    from .generation_pilot_copilot import CopilotLogitsProcessor
    from .mistake_batch import MistakeBatch
    from .mistake_log import MistakeLog
    from .mistake_record import MistakeRecord
    from .modeling_copilot import CopilotModel
    from .modeling_outputs import PilotCopilotOutput
    from .modeling_pilot_copilot import PilotCopilotForCausalLM
    from .modeling_pilot_copilot_seq2seq import PilotCopilotForSeq2SeqLM
    from .recorded_mistakes import RecordedMistakes
    from .recording import record_mistakes
    from .report.mistake_analysis import MistakeAnalysis, analyse_mistakes
    from .report.page import write_report
    from .trainer_callback_copilot import MistakeLogCallback
    from .trainer_copilot import CopilotSeq2SeqTrainer, CopilotTrainer, CopilotTrainerMixin
    from .training_args_copilot import CopilotSeq2SeqTrainingArguments, CopilotTrainingArguments


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


def _register() -> None:
    """Make the Auto classes know pairs."""
    from .registration import register

    register()


_register()

__all__ = [*_EXPORTS, "__version__"]
