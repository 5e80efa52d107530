"""One training of several processes, launched by `accelerate launch` for tests/training/test_distributed.py: each
process writes what it found into a file of its own.

    accelerate launch ... tests/helpers/distributed_program.py FOLDER JOB

`JOB` is JSON: which variants to train, and what to do with the first of them; or the words of a command.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch.distributed.tensor import DTensor
from transformers import PrinterCallback, TrainerCallback

from transformers_copilot import MistakeLog, record_mistakes


STEPS, SEQUENCES_OF_STEP = 20, 4  # a micro-batch is one sequence, so that any number of processes makes the same ones

SAVING = {"save_strategy": "steps", "save_steps": 10, "mistake_log_export_rows": 10_000}

# Keywords of `make_pair` (and whether the parts get adapters), and training arguments.
_BRANCH = {"copilot": {"form": "branch", "num_hidden_layers": 1}, "random_head": True}
_LINEAR = {"copilot": {"form": "linear"}, "random_head": True}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "branch": (_BRANCH, {"mistake_log_draw": "newest"}),
    "linear": ({"family": "llama-tied", **_LINEAR}, {"mistake_log_draw": "uniform"}),
    "decoder": ({"random_head": True}, {"mistake_log_draw": "uniform", "mistakes_from": "all"}),
    "twice": (_BRANCH, {"copilot_steps_per_round": 2}),
    "frozen": (_LINEAR, {"freeze_pilot": True}),
    "encoder-decoder": ({"family": "t5", "random_head": True}, {"mistake_log_draw": "uniform"}),
    "adapters": ({"adapters": True, "random_head": True}, {"mistake_log_draw": "newest"}),
    "bf16": ({"random_head": True}, {"mistake_log_draw": "uniform", "bf16": True}),
    "from a record": (_BRANCH, {"freeze_pilot": True, "mistake_log_draw": "newest"}),
}


def made_pair(variant: str) -> Any:
    """A variant's pair, the same in every process."""
    from tests.helpers.training_helpers import make_pair

    given = dict(VARIANTS[variant][0])
    has_adapters = given.pop("adapters", False)
    pair = make_pair(**given)
    if has_adapters:  # without dropout, which would draw other numbers in other processes
        torch.manual_seed(2)
        pair.add_adapters(**{part: LoraConfig(r=2, target_modules="all-linear") for part in ("pilot", "copilot")})
    return pair


def rows_of(folder: Path, variant: str, pair: Any) -> Any:
    """A variant's training set: rows of unequal lengths, or a record of them, written by all processes."""
    from tests.helpers.training_helpers import collate, reversal_rows

    rows = reversal_rows(48, seq2seq=pair.config.is_encoder_decoder)
    if variant != "from a record":
        return rows
    given = {"data_collator": collate, "dtype": "float32", "sequences_per_shard": 8, "progress": False}
    return MistakeLog.open(record_mistakes(pair, rows, folder / "record", **given))


def training(folder: Path, variant: str, pair: Any, **changes: Any) -> Any:
    """A trainer of a variant."""
    from tests.helpers.training_helpers import make_trainer

    _, of_training = VARIANTS[variant]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    given = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": SEQUENCES_OF_STEP // processes,
        "per_device_eval_batch_size": 3,
        "learning_rate": 2e-3,
        "adam_epsilon": 1e-6,
        "mistake_log_dtype": "float32",
        "ddp_find_unused_parameters": variant == "twice",
        "use_cpu": "CPU_IS_ACCELERATOR" not in os.environ,
        **of_training,
        **changes,
    }
    trainer = make_trainer(folder, pair, rows=rows_of(folder, variant, pair), **given)
    trainer.remove_callback(PrinterCallback)
    if trainer.is_deepspeed_enabled:  # ZeRO-3 would leave weights as small as these whole
        config = trainer.accelerator.state.deepspeed_plugin.deepspeed_config
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return trainer


def whole_state(trainer: Any) -> dict[str, torch.Tensor]:
    """The pair's weights, put together from all processes; empty in those that have none to write."""
    given = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return {name: tensor.detach().clone() for name, tensor in (given or {}).items()}


def about_parameters(trainer: Any) -> dict[str, Any]:
    """How weights lie in this process."""
    kinds = {name: type(weight.data).__name__ for name, weight in trainer.pair.named_parameters()}
    own = [module for module in trainer.pair.modules() if type(module).__name__.startswith("FSDP")]
    engine = trainer.model_wrapped
    here = [weight.to_local() if isinstance(weight, DTensor) else weight for weight in trainer.pair.parameters()]
    return {
        "numbers_here": sum(weight.numel() for weight in here),
        "kinds": sorted(set(kinds.values())),
        "sharded": sorted({type(module).__name__ for module in own}),
        "wrapper": type(engine).__name__,
        "stage": engine.zero_optimization_stage() if hasattr(engine, "zero_optimization_stage") else None,
        "processes": trainer.args.world_size,
    }


def first_variant(trainer: Any, folder: Path, job: dict[str, Any], fresh: Any) -> dict[str, Any]:
    """What is done with one trained pair: an evaluation and a fit on data that no number of processes divides, saving,
    and going on from the middle."""
    from tests.helpers.training_helpers import collate, reversal_rows
    from transformers_copilot import fit_copilot_weight

    fit = fit_copilot_weight(
        trainer.pair, reversal_rows(9, seed=5), data_collator=collate, batch_size=2, progress=False
    )
    found: dict[str, Any] = {
        "metrics": trainer.evaluate(reversal_rows(10, seed=1), copilot_weight=0.5),
        "λ": fit.weight,
        "scores": fit.scores,
        "log": [
            (number, len(record.lengths))
            for number, record in zip(trainer.mistake_log.round_numbers, trainer.mistake_log, strict=True)
        ],
        "locked": sorted(path.name for path in folder.glob("_run*")),
    }
    trainer.save_model(str(folder / "pair"))
    if job.get("resume"):
        again = training(folder, job["variants"][0], fresh, **job.get("arguments", {}), **SAVING)
        again.train(resume_from_checkpoint=str(folder / "checkpoint-10"))
        found["resumed"] = whole_state(again)
    return found


class Killed(TrainerCallback):
    """Ends one process as the kernel does that is out of memory.

    Args:
        rank (`int`): which.
        step (`int`): after which step.
    """

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Kill this process, if it is the one."""
        if (args.process_index, state.global_step) == (self.rank, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, job: dict[str, Any]) -> None:
    """Train the variants that a job names."""
    if "CPU_IS_ACCELERATOR" in os.environ:
        from tests.helpers.cpu_as_accelerator import take_cpu_for_accelerator

        take_cpu_for_accelerator()
    from tests.helpers.training_helpers import logged

    torch.set_num_threads(1)
    if "command" in job:
        from transformers_copilot.commands.main import main as command

        sys.exit(command([*job["command"], "--use_cpu", str("CPU_IS_ACCELERATOR" not in os.environ)]))
    # Before any trainer: once there is one with ZeRO-3, transformers spreads every model that is made.
    pairs = {variant: made_pair(variant) for variant in job["variants"]}
    fresh = made_pair(job["variants"][0])
    found: dict[str, Any] = {}
    for place, variant in enumerate(job["variants"]):
        own = folder / variant
        changes: dict[str, Any] = dict(job.get("arguments", {}))
        if place == 0:
            changes |= SAVING
        trainer = training(own, variant, pairs[variant], **changes)
        if "dies" in job:
            trainer.add_callback(Killed(**job["dies"]))
        trainer.train(resume_from_checkpoint=job.get("from"))
        found[variant] = {
            "losses": logged(trainer, "pilot_loss"),
            "copilot_losses": logged(trainer, "copilot_loss"),
            "state": whole_state(trainer),
            "about": about_parameters(trainer),
        }
        if place == 0 and not job.get("from"):
            found[variant] |= first_variant(trainer, own, job, fresh)
    torch.save(found, folder / f"found-{os.environ.get('RANK', '0')}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
