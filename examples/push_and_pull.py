"""Push a pair to the Hub, pull it into an empty cache, and see that it answers as before.

    hf auth login
    python examples/push_and_pull.py --pair outputs/my-pair --repo user/my-pair --private

`--pair` is a folder that `save_pretrained` or a training wrote. With `--pilot` instead, an untrained Copilot is put
beside a Pilot, which is enough to try the way there and back.
"""

import argparse
import tempfile

import torch
from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

import transformers_copilot  # registers pairs with the Auto classes
from transformers_copilot import PilotCopilotForCausalLM, PilotCopilotForSeq2SeqLM


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        arguments: The command line without the program's name; the process's own if none is given.

    Returns:
        The options.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pair", help="folder or id of a pair")
    source.add_argument("--pilot", help="folder or id of a Pilot, to put an untrained Copilot beside")
    parser.add_argument("--repo", required=True, help="where to push to: user/name")
    parser.add_argument("--private", action="store_true", help="make the repository a private one")
    parser.add_argument("--revision", help="branch to push to")
    parser.add_argument("--max_shard_size", default="5GB", help="weights are split into files of this size")
    parser.add_argument("--prompt", default="What is 12 + 30?", help="what both write an answer to")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> PreTrainedModel:
    """The pair to push.

    Args:
        options: The options.

    Returns:
        The pair, in evaluation mode.
    """
    config = AutoConfig.from_pretrained(options.pair or options.pilot)
    seq2seq = config.is_encoder_decoder
    if options.pair:
        return (AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM).from_pretrained(options.pair)
    pair_class = PilotCopilotForSeq2SeqLM if seq2seq else PilotCopilotForCausalLM
    return pair_class.from_pilot(options.pilot, {"num_hidden_layers": 2}, head="pilot").eval()


def pull(options: argparse.Namespace, commit: str, seq2seq: bool) -> PreTrainedModel:
    """The pair as it lies on the Hub, from an empty cache.

    Args:
        options: The options.
        commit: What was pushed.
        seq2seq: Whether it is a sequence-to-sequence pair.

    Returns:
        The pair.
    """
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as cache:
        return auto.from_pretrained(options.repo, revision=commit, cache_dir=cache)


def main() -> None:
    """Push, list, pull and compare."""
    options = parse_arguments()
    logging.set_verbosity_error()
    pair, tokenizer = load(options), AutoTokenizer.from_pretrained(options.pair or options.pilot)
    pushed = pair.push_to_hub(
        options.repo,
        tokenizer=tokenizer,
        private=options.private,
        revision=options.revision,
        max_shard_size=options.max_shard_size,
    )
    listed = HfApi().list_repo_tree(options.repo, revision=pushed.oid, recursive=True)
    files = [entry for entry in listed if isinstance(entry, RepoFile)]
    for file in files:
        print(f"{file.size:>12,}  {file.path}")
    print(f"{len(files)} files at {pushed.commit_url} (transformers_copilot {transformers_copilot.__version__})")

    pulled = pull(options, pushed.oid, pair.config.is_encoder_decoder)
    inputs = tokenizer(options.prompt, return_tensors="pt")
    before, after = (model.generate(**inputs, max_new_tokens=16, do_sample=False) for model in (pair, pulled))
    print("answer:", tokenizer.decode(after[0], skip_special_tokens=True))
    weights = zip(pair.parameters(), pulled.parameters(), strict=True)
    same = torch.equal(before, after) and all(torch.equal(ours, theirs) for ours, theirs in weights)
    print("the pulled pair is the pushed one" if same else "the pulled pair DIFFERS from the pushed one")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
