"""Command-line options of `finetune_task.py`."""

from dataclasses import dataclass, field
from typing import Any

from transformers import HfArgumentParser

from transformers_copilot import CopilotTrainingArguments
from transformers_copilot.tasks import TASK_NAMES


@dataclass
class TaskArguments:
    """Options of the script itself; the others are those of `CopilotTrainingArguments`."""

    task: str = field(metadata={"help": "The task.", "choices": sorted(TASK_NAMES)})
    pilot: str = field(metadata={"help": "The Pilot's id on the Hub, or its folder."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the tasks' JSONL files, not the Hub."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "Id of a data set on the Hub to use in the place of the task's usual one."}
    )
    train_tasks: str | None = field(
        default=None, metadata={"help": "Tasks to train on, with commas between; the tested task if none is named."}
    )
    dev_size: float = field(default=0.1, metadata={"help": "Share of train that serves as dev where there is none."})
    max_train_questions: int | None = field(default=None, metadata={"help": "Train on the first so many only."})
    max_dev_questions: int | None = field(default=None, metadata={"help": "Choose λ on the first so many only."})
    max_test_questions: int | None = field(default=None, metadata={"help": "Answer the first so many only."})
    max_length: int = field(default=256, metadata={"help": "Longest training sequence in tokens; longer are left out."})
    max_new_tokens: int | None = field(default=None, metadata={"help": "Longest reply in tokens; the task's own."})
    num_beams: int = field(default=1, metadata={"help": "Beams; the paper takes 4."})
    copilot: str | None = field(default=None, metadata={"help": "Id or folder of a Copilot to start from."})
    copilot_layers: int = field(default=6, metadata={"help": "Layers of a Copilot that is built from the Pilot."})
    head: str = field(
        default="own", metadata={"help": "The Copilot's vocabulary matrices.", "choices": ["own", "pilot"]}
    )
    error_feedback: str = field(default="token", metadata={"choices": ["observed", "predicted", "token"]})
    fusion: str = field(default="logits", metadata={"choices": ["logits", "probability"]})
    objective: str = field(default="cross_entropy", metadata={"choices": ["cross_entropy", "kl", "mse", "rmse"]})
    rationale: str = field(default="preceding", metadata={"choices": ["preceding", "current", "last", "depths"]})
    dtype: str = field(default="float32", metadata={"help": "Type of the weights.", "choices": ["float32", "bfloat16"]})
    control: str | None = field(
        default=None, metadata={"help": "Id or folder of another model to fine-tune alone and compare with."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the output folder's last checkpoint, if any."})

    def train_task_names(self) -> list[str]:
        """The tasks to train on.

        Returns:
            Their names; none means the tested task.
        """
        return [name.strip() for name in (self.train_tasks or "").split(",") if name.strip()]

    def choices(self) -> dict[str, Any]:
        """The pair's choices, as `from_pilot` takes them.

        Returns:
            Option name to value.
        """
        return {
            "head": self.head,
            "error_feedback": self.error_feedback,
            "fusion": self.fusion,
            "objective": self.objective,
        }

    def copilot_fields(self) -> dict[str, Any]:
        """What a Copilot's configuration is given that is built from the Pilot.

        Returns:
            Field to value.
        """
        return {"num_hidden_layers": self.copilot_layers, "rationale": self.rationale}


def parse_arguments(arguments: list[str] | None = None) -> tuple[TaskArguments, CopilotTrainingArguments]:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The script's options and the training arguments. The paper's batch of 16, 3 epochs and cosine schedule are the
        defaults here.
    """
    parser = HfArgumentParser((TaskArguments, CopilotTrainingArguments))
    parser.set_defaults(
        per_device_train_batch_size=16,
        per_device_eval_batch_size=32,
        num_train_epochs=3.0,
        lr_scheduler_type="cosine",
        logging_steps=10,
        save_total_limit=2,
        report_to="none",
    )
    options, training = parser.parse_args_into_dataclasses(arguments)
    return options, training
