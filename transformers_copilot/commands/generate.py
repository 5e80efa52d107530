"""`transformers-copilot generate`: let a pair write, and see what its Copilot changes."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers import TextStreamer

from ..mistake_log.token_text import TokenTexts
from ..pair.fusion import weight_of_call
from .arguments import CommandParser
from .models import DTYPES, load_pair, load_tokenizer
from .terminal import marked_changes, quiet_libraries, say, uses_colour


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="transformers-copilot generate",
        description="Write on from a prompt, token by token as they come. --compare lets the Pilot alone write too and "
        "marks what the pair writes otherwise: [-the Pilot's-]{+the pair's+}, or by colour in a terminal.",
        epilog='examples:\n  transformers-copilot generate runs/mawps "Question: What is 12 + 30?"\n'
        "  transformers-copilot generate runs/mawps --compare < prompt.txt",
    )
    parser.add_argument("pair", help="Id or folder of the pair.")
    parser.add_argument("prompt", nargs="?", help="The prompt; without one it is read from the standard input.")
    parser.add_argument("--compare", action="store_true", help="Show the Pilot's own reply, and what is changed.")
    parser.add_argument("--chat", action="store_true", help="Put the prompt into the tokenizer's chat template.")
    parser.add_argument("--weight", type=float, help="λ, how much of the correction is used; the pair's own.")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="Longest reply in tokens (default: 128).")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="Above 0: draw tokens (default: 0, the likeliest)."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the draws.")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="Type of the Pilot's weights.")
    parser.add_argument("--device", help="Where the pair goes; an accelerator if there is one.")
    return parser


def run(arguments: list[str]) -> int:
    """Run the command.

    Args:
        arguments (list of `str`): the words after `generate`.

    Returns:
        `int`: the exit code.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.max_new_tokens < 1 or options.temperature < 0:
        parser.error("--max_new_tokens must be 1 or more, and --temperature 0 or more")
    quiet_libraries()
    prompt = sys.stdin.read().rstrip("\n") if options.prompt is None else options.prompt
    if not prompt:
        parser.error("there is no prompt: give one, or pipe it in")
    pair, tokenizer = load_pair(options.pair, options.dtype, options.device), load_tokenizer(options.pair)
    weight = weight_of_call(pair, None, options.weight)
    inputs = _encode(tokenizer, prompt, options.chat, pair.device)
    if not options.compare:
        _write(pair, tokenizer, inputs, options, weight, stream=True)
        return 0
    say("Pilot alone:")
    before, _ = _write(pair, tokenizer, inputs, options, 0.0, stream=True)
    after, scores = _write(pair, tokenizer, inputs, options, weight, stream=False)
    tokens = TokenTexts(tokenizer)
    say("", f"Pilot + Copilot, λ = {weight:g}:")
    own, corrected = ([token for token in reply if token not in tokens.end_token_ids] for reply in (before, after))
    say(marked_changes(own, corrected, tokens.written, uses_colour()), "", first_change(tokens, before, after, scores))
    return 0


def _encode(tokenizer: Any, prompt: str, chat: bool, device: Any) -> dict[str, torch.Tensor]:
    if chat:
        messages = [{"role": "user", "content": prompt}]
        batch = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
    else:
        batch = tokenizer(prompt, return_tensors="pt")
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


def _write(
    pair: Any, tokenizer: Any, inputs: dict[str, torch.Tensor], options: Any, weight: float, stream: bool
) -> tuple[list[int], Any]:
    """A reply's tokens, and what `generate` kept of each step."""
    torch.manual_seed(options.seed)
    seq2seq = pair.config.is_encoder_decoder
    streamer = TextStreamer(tokenizer, skip_prompt=not seq2seq, skip_special_tokens=True) if stream else None
    drawing = {"do_sample": True, "temperature": options.temperature} if options.temperature else {"do_sample": False}
    written = pair.generate(
        **inputs,
        **drawing,
        max_new_tokens=options.max_new_tokens,
        copilot_weight=weight,
        streamer=streamer,
        pad_token_id=tokenizer.pad_token_id,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
    )
    start = 1 if seq2seq else inputs["input_ids"].shape[1]
    return written.sequences[0, start:].tolist(), written


def first_change(tokens: TokenTexts, before: list[int], after: list[int], written: Any) -> str:
    """Where two replies part, and how likely both tokens were there to the Pilot and to the pair.

    Args:
        tokens ([`TokenTexts`]): writes each token so that it can be read.
        before (list of `int`): the Pilot's reply.
        after (list of `int`): the pair's.
        written: what `generate` kept of the pair's reply, with `logits` (the Pilot's) and `scores` (the pair's).

    Returns:
        `str`
    """
    at = next((place for place, both in enumerate(zip(before, after, strict=False)) if both[0] != both[1]), None)
    if at is None:
        return "The Copilot changed nothing here." if before == after else "One reply goes on where the other ends."
    pilot, pair = (steps[at][0].float().softmax(dim=-1) for steps in (written.logits, written.scores))
    parts = [
        f"“{tokens.name(token)}” (Pilot {100 * float(pilot[token]):.0f} %, pair {100 * float(pair[token]):.0f} %)"
        for token in (before[at], after[at])
    ]
    return f"They part at token {at + 1}: {parts[0]} became {parts[1]}."


__all__ = ["first_change", "run"]
