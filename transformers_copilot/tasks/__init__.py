"""The paper's tasks and two more: their questions, prompts and targets, how an answer is read, and the metric.

from transformers_copilot import tasks

task = tasks.load("openbookqa", data_dir="../shared/data")
task.dataset["train"][0]["prompt"], task.dataset["train"][0]["target"]
answers = [task.extract_answer(reply) for reply in replies]
task.metric.compute(predictions=answers, references=task.dataset["test"]["answer"])
"""

from .catalogue import TASK_NAMES
from .constrained import TargetTrie
from .loading import load
from .task import RecommendationTask, Task


__all__ = ["TASK_NAMES", "RecommendationTask", "TargetTrie", "Task", "load"]
