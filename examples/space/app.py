"""A page where anybody can try a pair: the Pilot's reply and the pair's, what is changed marked, and λ to move.

    python examples/space/app.py runs/mawps            # a pair's folder, or its id on the Hub
    PAIR=user/pair python app.py                       # as a Space, the package's folder beside it

Tap a marked token (or hover over it, or reach it with the Tab key) to see how likely it was to the Pilot and to the
pair. λ goes from 0 to twice the pair's own; moving it writes both replies anew.
"""

import argparse
import html
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.util import find_spec

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from transformers_copilot import PilotCopilotForCausalLM
from transformers_copilot.mistake_log.token_text import TokenTexts, printable
from transformers_copilot.pair.compat import CACHE_NAME, cache_of
from transformers_copilot.pair.fusion import weight_of_call
from transformers_copilot.pair.options import MAX_COPILOT_WEIGHT


STYLE = """
.reply { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.15rem; line-height: 1.7; min-height: 3em; }
.reply mark { background: #ffd98a; color: #1b1f24 !important; border-bottom: 2px solid #a63d00; border-radius: 3px; }
.reply mark:focus::after { content: " (" attr(title) ")"; font-size: .85em; }
.said { overflow-wrap: anywhere; } .said bdi { font-family: ui-monospace, monospace; font-weight: 600; }
"""
# Shifts of a probability below this are not worth a word.
LEAST_SHIFT = 0.001
EXAMPLES = [
    "Question: There are 12 red and 30 green apples. 7 are eaten. How many are left?\nAnswer:",
    "Question: A box holds 6 eggs. How many eggs are in 14 boxes?\nAnswer:",
]


@dataclass
class Step:
    """One written token.

    Args:
        token: Its id.
        pilot: How likely the Pilot held it, 0 to 1.
        pair: How likely the pair held it, 0 to 1.
        moved: The token whose probability the Copilot changed most here.
        before: What the Pilot gave that one, 0 to 1.
        after: What the pair gave it, 0 to 1.
    """

    token: int
    pilot: float
    pair: float
    moved: int
    before: float
    after: float


class Writer:
    """A pair that writes token by token.

    Args:
        name_or_path: The pair's folder or id.

    Raises:
        ValueError: It is another model.
    """

    def __init__(self, name_or_path: str) -> None:
        self.pair = AutoModelForCausalLM.from_pretrained(name_or_path).eval()
        if not isinstance(self.pair, PilotCopilotForCausalLM):
            raise ValueError(f"{name_or_path} is a {type(self.pair).__name__} and no pair; give the folder of a pair")
        self.tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        self.texts = TokenTexts(self.tokenizer)
        ends = self.pair.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])

    @torch.inference_mode()
    def write(self, prompt: str, weight: float, most: int, alone: bool) -> Iterator[list[Step]]:
        """Write on from a prompt, the likeliest token each time.

        Args:
            prompt: The prompt.
            weight: The pair's λ.
            most: Longest reply in tokens.
            alone: Take the token that is likeliest to the Pilot, whatever the pair says of it.

        Yields:
            The steps so far, after each token; the last one may be the end of the text.
        """
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids
        cache, steps = None, []
        for _ in range(most):
            outputs = self.pair(ids, use_cache=True, copilot_weight=weight, **{CACHE_NAME: cache})
            logits = outputs.logits[0, -1].float()
            own = logits if outputs.pilot_logits is None else outputs.pilot_logits[0, -1].float()
            token = int((own if alone else logits).argmax())
            before, after = own.softmax(-1), logits.softmax(-1)
            moved = int((after - before).abs().argmax())
            figures = [float(p[index]) for index in (token, moved) for p in (before, after)]
            steps.append(Step(token, *figures[:2], moved, *figures[2:]))
            yield steps
            if token in self.ends:
                break
            cache, ids = cache_of(outputs), torch.tensor([[token]])

    def show(self, steps: list[Step], other: list[Step], final: bool) -> str:
        """A reply as HTML, with the tokens marked that the other reply has not.

        Args:
            steps: The reply.
            other: The reply that it is compared with.
            final: Whether both are whole; marks are put only then.

        Returns:
            HTML, everything in it escaped.
        """
        own = [step for step in steps if step.token not in self.ends]
        ids, others = [step.token for step in own], [step.token for step in other if step.token not in self.ends]
        if not final:
            return f'<div class="reply" dir="auto">{html.escape(self.texts.written(ids))}</div>'
        parts = []
        for kind, start, end, _, _ in SequenceMatcher(None, ids, others, autojunk=False).get_opcodes():
            if kind == "equal":
                parts.append(html.escape(self.texts.written(ids[start:end])))
                continue
            for step in own[start:end]:
                note = f"Pilot {step.pilot:.0%}, pair {step.pair:.0%}"
                text = html.escape(printable(self.texts.text(step.token)))
                parts.append(f'<mark tabindex="0" title="{note}">{text}</mark>')
        return f'<div class="reply" dir="auto">{"".join(parts)}</div>'

    def compared(self, pilot: list[Step], pair: list[Step], weight: float) -> str:
        """What the Copilot changed: where the replies part, or what moved most where they don't.

        Args:
            pilot: The Pilot's reply.
            pair: The pair's reply.
            weight: The pair's λ.

        Returns:
            HTML, everything in it escaped.
        """
        if weight == 0:
            return said("λ = 0: the Copilot is off, so both are the Pilot's.")
        for place, (own, other) in enumerate(zip(pilot, pair, strict=False)):
            if own.token != other.token:
                return said(
                    f"They part {self._after(pair[:place])}: the Pilot wrote {self._name(own.token)} (Pilot "
                    f"{own.pilot:.1%}, pair {own.pair:.1%}), the pair {self._name(other.token)} (Pilot "
                    f"{other.pilot:.1%}, pair {other.pair:.1%}). Tap a marked token, or point at it, to see how likely "
                    "it was."
                )
        most = max(range(len(pair)), key=lambda place: abs(pair[place].after - pair[place].before))
        step = pair[most]
        if abs(step.after - step.before) < LEAST_SHIFT:
            return said("Both wrote the same, and no probability moved by as much as 0.1 points.")
        return said(
            f"Both wrote the same. The Copilot's largest shift is {self._after(pair[:most])}: {self._name(step.moved)} "
            f"went from {step.before:.1%} to {step.after:.1%}."
        )

    def _name(self, token: int) -> str:
        return f"<bdi>{html.escape('⟨end⟩' if token in self.ends else self.texts.name(token))}</bdi>"

    def _after(self, steps: list[Step]) -> str:
        text = self.texts.written([step.token for step in steps]).strip()
        return f"after “<bdi>{html.escape(text[-24:])}</bdi>”" if text else "at the first token"

    def both(self, prompt: str, weight: float, most: int) -> Iterator[tuple[str, str, str]]:
        """Both replies as they are written, a token of each at a time, and a sentence at the end.

        Args:
            prompt: The prompt.
            weight: The pair's λ.
            most: Longest reply in tokens.

        Yields:
            The Pilot's reply, the pair's reply, and what can be said of them.
        """
        if not prompt.strip():
            yield "", "", said("Write a prompt first.")
            return
        replies: list[list[Step]] = [[], []]
        runs = [self.write(prompt, float(weight), int(most), alone) for alone in (True, False)]
        writing = [True, True]
        while any(writing):
            for place, run in enumerate(runs):
                steps = next(run, None) if writing[place] else None
                writing[place] = steps is not None
                replies[place] = replies[place] if steps is None else steps
            yield self.show(*replies, False), self.show(*replies[::-1], False), said("writing …")
        compared = self.compared(*replies, float(weight))
        yield self.show(*replies, True), self.show(*replies[::-1], True), compared


def said(sentence: str) -> str:
    """A sentence for the page, as HTML.

    Args:
        sentence: HTML, everything that comes from a model in it escaped.
    """
    return f'<p class="said">{sentence}</p>'


def weight_range(own: float) -> tuple[float, float]:
    """How far λ can be moved, and by what steps.

    Args:
        own: The pair's own λ.

    Returns:
        The largest λ, twice the pair's own, or 2 where that is 0; and a step of which the pair's own is a multiple, as
        far as two digits go.
    """
    most = min(2 * own, MAX_COPILOT_WEIGHT) or 2.0
    step = 10.0 ** (math.floor(math.log10(most)) - 1)
    return most, step if math.isclose(own / step, round(own / step), abs_tol=1e-6) else step / 10


def build(writer: Writer):
    """The page.

    Args:
        writer: The pair.

    Returns:
        `gradio.Blocks`
    """
    import gradio

    own = weight_of_call(writer.pair, None, None)
    largest, step = weight_range(own)
    with gradio.Blocks(title="Pilot and Copilot") as page:
        gradio.HTML(f"<style>{STYLE}</style>")
        gradio.Markdown(
            "# A model and its Copilot\nThe Copilot has learnt from the mistakes of a model, its Pilot, and corrects "
            "it while it writes. Both answer the same prompt here: the Pilot alone, and the two together."
        )
        prompt = gradio.Textbox(label="Prompt", lines=3, value=EXAMPLES[0], elem_id="prompt")
        with gradio.Row():
            label = f"λ: how much of the correction is used (0: the Pilot alone; {own:.4g}: the pair's own)"
            weight = gradio.Slider(0.0, largest, value=own, step=step, label=label, elem_id="weight", min_width=260)
            most = gradio.Slider(8, 256, value=64, step=8, label="Longest reply, in tokens", min_width=260)
        button = gradio.Button("Write", variant="primary", elem_id="write")
        with gradio.Row():
            with gradio.Column():
                gradio.Markdown("### Pilot alone")
                pilot = gradio.HTML(elem_id="pilot")
            with gradio.Column():
                gradio.Markdown("### Pilot + Copilot")
                pair = gradio.HTML(elem_id="pair")
        compared = gradio.HTML(elem_id="said")
        gradio.Examples(EXAMPLES, prompt)
        given, shown = [prompt, weight, most], [pilot, pair, compared]
        written = button.click(writer.both, given, shown)
        # The last λ counts: while a reply is written, moves before it are passed over.
        weight.change(writer.both, given, shown, trigger_mode="always_last", cancels=[written], show_progress="hidden")
    return page


def main() -> None:
    """Serve the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pair", nargs="?", default=os.environ.get("PAIR"), help="The pair's folder or id.")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    if not options.pair:
        parser.error("name a pair: its folder, or its id on the Hub (or set PAIR)")
    if find_spec("gradio") is None:
        parser.exit(1, f"{parser.prog}: error: the page needs gradio: pip install 'gradio>=6,<7'\n")
    try:
        writer = Writer(options.pair)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    build(writer).launch(server_port=options.port, inbrowser=False)


if __name__ == "__main__":
    main()
