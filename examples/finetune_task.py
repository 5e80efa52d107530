"""Fine-tune a pair on a task, and compare it with its Pilot alone on the task's test questions.

    python examples/finetune_task.py --task mawps --pilot meta-llama/Llama-3.2-1B --output_dir outputs/mawps
    python examples/finetune_task.py --task boolq --pilot Qwen/Qwen2.5-0.5B --data_dir data --output_dir outputs/boolq
    python examples/finetune_task.py --task svamp --train_tasks mawps,gsm8k --pilot ... --output_dir outputs/svamp

Questions come from the Hub, or from a local folder with `{arithmetic,commonsense}/{task}/{train,dev,test}.jsonl` and
`recommendation/{task}.jsonl` (`--data_dir`). All options of `CopilotTrainingArguments`, hence of `TrainingArguments`,
are taken; `--help` lists them.
λ is chosen on dev questions; the test questions are answered once by the Pilot alone (λ = 0) and once by the pair. The
Pilot inside the pair learns exactly what it would learn alone: nothing flows from the Copilot to it.

After an interruption the same command with `--resume` goes on from the last checkpoint in the output folder.
"""

import copy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from comparison import Comparison
from datasets import Dataset
from report import Contestant, make_contestant
from task_arguments import TaskArguments, parse_arguments
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)
from transformers.utils import logging

from transformers_copilot import (
    CopilotTrainer,
    CopilotTrainingArguments,
    PilotCopilotForCausalLM,
    PilotCopilotForSeq2SeqLM,
    fit_copilot_weight,
    tasks,
)
from transformers_copilot.data.items import encode_items
from transformers_copilot.tasks.answering import write_replies
from transformers_copilot.training.checkpoints import last_whole_checkpoint


class TaskRun:
    """One run: a task's data, a tokenizer, and what is done with models on them.

    Args:
        options: The script's own options.
        training: The training arguments.
    """

    def __init__(self, options: TaskArguments, training: CopilotTrainingArguments) -> None:
        self.options, self.training = options, training
        self.task = load_data(options, training.seed)
        self.questions = self.task.dataset["test"]
        self.is_encoder_decoder = bool(AutoConfig.from_pretrained(options.pilot).is_encoder_decoder)
        self.tokenizer = load_tokenizer(options.pilot)
        self.train_items, self.too_long = self.encode(self.task.dataset["train"])
        self.dev_items, _ = self.encode(self.task.dataset["dev"])
        self.seconds: dict[str, float] = {}

    def encode(self, questions: Dataset) -> tuple[list[dict[str, list[int]]], int]:
        """Token ids of questions and their targets, and how many were too long."""
        texts = list(zip(questions["prompt"], questions["target"], strict=True))
        return encode_items(self.tokenizer, texts, self.options.max_length, self.is_encoder_decoder)

    def collator(self) -> DataCollatorForSeq2Seq:
        """Pads a batch; labels with -100."""
        return DataCollatorForSeq2Seq(self.tokenizer, padding=True)

    def build_pair(self) -> PreTrainedModel:
        """The pair of the options."""
        options = self.options
        kind = PilotCopilotForSeq2SeqLM if self.is_encoder_decoder else PilotCopilotForCausalLM
        copilot = options.copilot or options.copilot_fields()
        pair = kind.from_pilot(options.pilot, copilot=copilot, dtype=getattr(torch, options.dtype), **options.choices())
        pair.generation_config.pad_token_id = self.tokenizer.pad_token_id
        return pair

    def train_pair(self, pair: PreTrainedModel) -> None:
        """Fine-tune the pair and choose λ on the dev questions."""
        trainer = CopilotTrainer(
            model=pair,
            args=self.training,
            train_dataset=self.train_items,
            eval_dataset=self.dev_items,
            data_collator=self.collator(),
            processing_class=self.tokenizer,
        )
        started = time.perf_counter()
        trainer.train(resume_from_checkpoint=checkpoint_to_resume(self.options, self.training))
        self.seconds["training"] = time.perf_counter() - started
        started = time.perf_counter()
        with trainer.compute_loss_context_manager():  # bfloat16 here where training was in bfloat16
            fit = fit_copilot_weight(
                pair,
                self.dev_items,
                data_collator=self.collator(),
                batch_size=self.training.per_device_eval_batch_size,
                set_name=f"{self.task.name} dev",
            )
        self.seconds["fitting the weight"] = time.perf_counter() - started
        print(f"λ = {fit.weight:g}, chosen on {len(self.dev_items)} dev questions")
        trainer.save_model(self.training.output_dir)

    def train_control(self, name_or_path: str) -> PreTrainedModel:
        """Fine-tune another model alone, with the same arguments."""
        auto = AutoModelForSeq2SeqLM if self.is_encoder_decoder else AutoModelForCausalLM
        set_seed(self.training.seed)
        model = auto.from_pretrained(name_or_path, dtype=getattr(torch, self.options.dtype))
        training = copy.copy(self.training)
        training.output_dir = str(Path(self.training.output_dir) / "control")
        started = time.perf_counter()
        Trainer(model, training, self.collator(), self.train_items, processing_class=self.tokenizer).train()
        self.seconds["training the control"] = time.perf_counter() - started
        return model

    def answer(self, name: str, model: PreTrainedModel, weights: int, **options: Any) -> Contestant:
        """Answer the test questions and mark the answers."""
        prompts = self.questions["prompt"][:]
        limit = self.options.max_new_tokens or self.task.max_new_tokens
        batch_size = self.training.per_device_eval_batch_size
        started = time.perf_counter()
        replies = write_replies(
            model, self.tokenizer, prompts, limit, batch_size, num_beams=self.options.num_beams, **options
        )
        answers = [self.task.extract_answer(reply) for reply in replies]
        return make_contestant(name, weights, answers, self.questions["answer"][:], time.perf_counter() - started)


def load_data(options: TaskArguments, seed: int) -> tasks.Task:
    """Read the task's questions from the folder or the Hub, and cut the sets to the sizes asked for.

    Args:
        options: The script's options.
        seed: Seed of the choice of dev questions where there is no dev file.

    Returns:
        The task.
    """
    task = tasks.load(
        options.task, options.data_dir, options.dataset_name, options.train_task_names(), options.dev_size, seed
    )
    most = {
        "train": options.max_train_questions,
        "dev": options.max_dev_questions,
        "test": options.max_test_questions,
    }
    for split, count in most.items():
        if count is not None:
            task.dataset[split] = task.dataset[split].take(min(count, len(task.dataset[split])))
    return task


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The Pilot's tokenizer, with a padding token.

    Args:
        name_or_path: The Pilot's id or path.

    Returns:
        The tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(name_or_path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def checkpoint_to_resume(options: TaskArguments, training: CopilotTrainingArguments) -> str | None:
    """The checkpoint to go on from: the one named, or with `--resume` the last whole one in the output folder, if any.

    A run that was killed while it wrote a checkpoint goes on from the one before.

    Args:
        options: The script's options.
        training: The training arguments.

    Returns:
        Its folder, or `None` to start afresh.
    """
    if training.resume_from_checkpoint or not options.resume:
        return training.resume_from_checkpoint
    return last_whole_checkpoint(training.output_dir)


def describe(run: TaskRun) -> dict[str, Any]:
    """Print and return the facts of a run that are known before training.

    Args:
        run: The run.

    Returns:
        Set sizes and options, for the results' JSON.
    """
    task, options = run.task, run.options
    facts = {
        "task": options.task,
        "pilot": options.pilot,
        "train_questions": len(run.train_items),
        "too_long_to_train_on": run.too_long,
        "dev_questions": len(run.dev_items),
        "dev_from_train": task.dev_from_train,
        "test_file_questions": task.test_size,
        "test_questions": len(run.questions),
        "left_out": task.left_out,
    }
    print(
        f"{options.task}: {len(run.train_items):,} training questions ({run.too_long} too long), "
        f"{len(run.dev_items):,} dev questions{' taken out of train' if task.dev_from_train else ''}; "
        f"{task.test_size:,} test questions, {task.left_out['either']} left out because they stand in train "
        f"({task.left_out['train']}) or dev ({task.left_out['dev']}), {len(run.questions):,} to be answered"
    )
    return facts


def main(arguments: list[str] | None = None) -> None:
    """Run the script.

    Args:
        arguments: The command line without the program's name.
    """
    options, training = parse_arguments(arguments)
    logging.set_verbosity_error()
    set_seed(training.seed)
    run = TaskRun(options, training)
    facts = describe(run)
    pair = run.build_pair()
    size = pair.num_parameters()
    pilot_size = pair.pilot.num_parameters()
    print(f"Pilot {pilot_size:,} weights, Copilot {size - pilot_size:,}")
    run.train_pair(pair)
    rivals = [run.answer("Pilot alone", pair, pilot_size, copilot_weight=0.0)]
    contestant = run.answer("Pilot + Copilot", pair, size)
    if options.control is not None:
        control = run.train_control(options.control)
        rivals.append(run.answer("control", control, control.num_parameters()))
    facts |= {
        "copilot_weight": pair.config.copilot_weight,
        "copilot_weight_fit": pair.config.copilot_weight_fit,
        "seconds": run.seconds,
        "choices": {**options.choices(), **({} if options.copilot else options.copilot_fields())},
        "training_arguments": training.to_dict(),
    }
    questions, expected = (run.questions[column][:] for column in ("question", "answer"))
    comparison = Comparison(questions, expected, contestant, rivals, facts)
    comparison.print_and_save(Path(training.output_dir) / "results.json")
    print(", ".join(f"{name} {seconds:,.0f} s" for name, seconds in run.seconds.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
