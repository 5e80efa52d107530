"""A Copilot for any Hugging Face language model: it learns from the model's mistakes and corrects it as it writes.

Importing the package registers its configurations and models with the Auto classes; the training parts are imported
when they are first asked for. The method is that of "Transformer Copilot" (arXiv 2505.16270).
"""

from __future__ import annotations

import sys
from importlib import import_module
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pair.version import __version__


_EXPORTS: dict[str, str] = {
    "CopilotConfig": "pair.configuration_copilot",
    "PilotCopilotConfig": "pair.configuration_pilot_copilot",
    "PilotCopilotSeq2SeqConfig": "pair.configuration_pilot_copilot",
    "CopilotModel": "pair.modeling_copilot",
    "PilotCopilotForCausalLM": "pair.modeling_pilot_copilot",
    "PilotCopilotForSeq2SeqLM": "pair.modeling_pilot_copilot_seq2seq",
    "PilotCopilotOutput": "pair.modeling_outputs",
    "PilotCopilotCache": "pair.cache_pilot_copilot",
    "CopilotLogitsProcessor": "pair.generation_pilot_copilot",
    "MistakeBatch": "pair.mistake_batch",
    "MistakeLog": "mistake_log.log",
    "MistakeRecord": "mistake_log.record",
    "RecordedMistakes": "mistake_log.recorded_mistakes",
    "record_mistakes": "mistake_log.recording",
    "join_records": "mistake_log.record_joining",
    "CopilotTrainer": "training.trainer",
    "CopilotSeq2SeqTrainer": "training.trainer",
    "CopilotTrainerMixin": "training.trainer",
    "CopilotTrainingArguments": "training.arguments",
    "CopilotSeq2SeqTrainingArguments": "training.arguments",
    "MistakeLogCallback": "training.callback",
    "CardFacts": "hub.card_facts",
    "CardResult": "hub.card_facts",
    "paper_lora": "adapters.adapters",
    "MistakeAnalysis": "report.mistake_analysis",
    "analyse_mistakes": "report.mistake_analysis",
    "write_report": "report.page",
    "CopilotWeightFit": "training.copilot_weight",
    "fit_copilot_weight": "training.copilot_weight",
    "finish_then_record": "training.finishing",
    "TrainingData": "data.training_data",
    "load_training_data": "data.training_data",
}

if TYPE_CHECKING:
    from .adapters.adapters import paper_lora
    from .data.training_data import TrainingData, load_training_data
    from .hub.card_facts import CardFacts, CardResult
    from .mistake_log.log import MistakeLog
    from .mistake_log.record import MistakeRecord
    from .mistake_log.record_joining import join_records
    from .mistake_log.recorded_mistakes import RecordedMistakes
    from .mistake_log.recording import record_mistakes
    from .pair.cache_pilot_copilot import PilotCopilotCache
    from .pair.configuration_copilot import CopilotConfig
    from .pair.configuration_pilot_copilot import PilotCopilotConfig, PilotCopilotSeq2SeqConfig
    from .pair.generation_pilot_copilot import CopilotLogitsProcessor
    from .pair.mistake_batch import MistakeBatch
    from .pair.modeling_copilot import CopilotModel
    from .pair.modeling_outputs import PilotCopilotOutput
    from .pair.modeling_pilot_copilot import PilotCopilotForCausalLM
    from .pair.modeling_pilot_copilot_seq2seq import PilotCopilotForSeq2SeqLM
    from .report.mistake_analysis import MistakeAnalysis, analyse_mistakes
    from .report.page import write_report
    from .training.arguments import CopilotSeq2SeqTrainingArguments, CopilotTrainingArguments
    from .training.callback import MistakeLogCallback
    from .training.copilot_weight import CopilotWeightFit, fit_copilot_weight
    from .training.finishing import finish_then_record
    from .training.trainer import CopilotSeq2SeqTrainer, CopilotTrainer, CopilotTrainerMixin


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


def _is_command() -> bool:
    """Whether this process is the command line, which registers once it knows that there is more to do than to help."""
    if parent_process() is not None:  # a worker of the command line is given its words, but doesn't run it
        return False
    if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv:  # the package's `__main__` isn't found yet
        return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == [__name__]
    return Path(sys.argv[0] if sys.argv else "").stem == "transformers-copilot"


if not _is_command():
    _register()

__all__ = [*_EXPORTS, "__version__"]
