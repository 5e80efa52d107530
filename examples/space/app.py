"""A page where anybody can try a pair: the Pilot's reply and the pair's side by side, what is changed marked.

    python examples/space/app.py runs/mawps            # a pair's folder, or its id on the Hub
    PAIR=user/pair python app.py                       # as a Space, the package's folder beside it

Hover over a marked token (or reach it with the Tab key) to see how likely it was to the Pilot and to the pair.
"""

import argparse
import html
import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import transformers_copilot  # noqa: F401 (makes the Auto classes know pairs)
from transformers_copilot.mistake_log.token_text import TokenTexts, printable
from transformers_copilot.pair.compat import CACHE_NAME, cache_of
from transformers_copilot.pair.fusion import weight_of_call


STYLE = """
.reply { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.7; min-height: 3em; }
.reply mark { background: #ffd98a; color: #1b1f24; border-bottom: 2px solid #a63d00; border-radius: 3px; }
"""
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
    """

    token: int
    pilot: float
    pair: float


class Writer:
    """A pair that writes token by token.

    Args:
        name_or_path: The pair's folder or id.
    """

    def __init__(self, name_or_path: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        self.pair = AutoModelForCausalLM.from_pretrained(name_or_path).eval()
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
            The steps so far, after each token.
        """
        ids = self.tokenizer(prompt, return_tensors="pt").input_ids
        cache, steps = None, []
        for _ in range(most):
            outputs = self.pair(ids, use_cache=True, copilot_weight=weight, **{CACHE_NAME: cache})
            logits = outputs.logits[0, -1].float()
            own = logits if outputs.pilot_logits is None else outputs.pilot_logits[0, -1].float()
            token = int((own if alone else logits).argmax())
            if token in self.ends:
                break
            steps.append(Step(token, float(own.softmax(-1)[token]), float(logits.softmax(-1)[token])))
            yield steps
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
        ids, others = [step.token for step in steps], [step.token for step in other]
        if not final:
            return f'<div class="reply" dir="auto">{html.escape(self.texts.written(ids))}</div>'
        parts = []
        for kind, start, end, _, _ in SequenceMatcher(None, ids, others, autojunk=False).get_opcodes():
            if kind == "equal":
                parts.append(html.escape(self.texts.written(ids[start:end])))
                continue
            for step in steps[start:end]:
                note = f"Pilot {step.pilot:.0%}, pair {step.pair:.0%}"
                text = html.escape(printable(self.texts.text(step.token)))
                parts.append(f'<mark tabindex="0" title="{note}">{text}</mark>')
        return f'<div class="reply" dir="auto">{"".join(parts)}</div>'

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
            yield "", "", "Write a prompt first."
            return
        replies: list[list[Step]] = [[], []]
        runs = [self.write(prompt, float(weight), int(most), alone) for alone in (True, False)]
        writing = [True, True]
        while any(writing):
            for place, run in enumerate(runs):
                steps = next(run, None) if writing[place] else None
                writing[place] = steps is not None
                replies[place] = replies[place] if steps is None else steps
            yield self.show(*replies, False), self.show(*replies[::-1], False), "writing …"
        same = [step.token for step in replies[0]] == [step.token for step in replies[1]]
        said = "The Copilot changed nothing." if same else "Marked tokens are other; hover over one for its odds."
        yield self.show(*replies, True), self.show(*replies[::-1], True), said


def build(writer: Writer):
    """The page.

    Args:
        writer: The pair.

    Returns:
        `gradio.Blocks`
    """
    import gradio

    with gradio.Blocks(title="Pilot and Copilot") as page:
        gradio.HTML(f"<style>{STYLE}</style>")
        gradio.Markdown(
            "# A model and its Copilot\nThe Copilot has learnt from the model's mistakes and corrects it while it "
            "writes. On the left the model alone, on the right the two together."
        )
        prompt = gradio.Textbox(label="Prompt", lines=3, value=EXAMPLES[0], elem_id="prompt")
        with gradio.Row():
            own = weight_of_call(writer.pair, None, None)
            weight = gradio.Slider(0.0, 20.0, value=own, step=0.1, label="λ: how much of the correction is used")
            most = gradio.Slider(8, 256, value=64, step=8, label="Longest reply, in tokens")
        button = gradio.Button("Write", variant="primary", elem_id="write")
        with gradio.Row():
            with gradio.Column():
                gradio.Markdown("### Pilot alone")
                left = gradio.HTML(elem_id="pilot")
            with gradio.Column():
                gradio.Markdown("### Pilot + Copilot")
                right = gradio.HTML(elem_id="pair")
        said = gradio.Markdown(elem_id="said")
        gradio.Examples(EXAMPLES, prompt)
        button.click(writer.both, [prompt, weight, most], [left, right, said])
    return page


def main() -> None:
    """Serve the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pair", nargs="?", default=os.environ.get("PAIR"), help="The pair's folder or id.")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    if not options.pair:
        parser.error("name a pair: its folder, or its id on the Hub (or set PAIR)")
    build(Writer(options.pair)).launch(server_port=options.port, inbrowser=False)


if __name__ == "__main__":
    main()
