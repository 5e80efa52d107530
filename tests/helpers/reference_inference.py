"""Algorithm 2 of arXiv 2505.16270, written slowly and plainly: what the package has to equal.

One row, no padding, no cache, no masks: position j is given lists that hold what it may see and nothing else. The
Pilot runs anew for every prefix. The Copilot is evaluated from its state dict, by the tensors' names, in float64, one
position and one head at a time. Nothing of the package's computation is used.

Notation: w_0 … w_j are the tokens so far; p̂_j the Pilot's distribution for w_{j+1}; ℓ_j = onehot(w_{j+1}) − p̂_j.
Position j's own entry in the Copilot's sequence is e_j = ℓ_{j-1}; fed back, the predicted mistake at j − 1; of the kind
"token", onehot(w_j) at every position, the first one included.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.activations import ACT2FN


TINY_PROBABILITY = 1e-12  # what p̂ + λf is clamped to


@dataclass
class Step:
    """What the Pilot leaves at one position."""

    logits: Tensor  # (vocab,)
    question: Tensor  # X̃_j; not used by an encoder-decoder
    rationale: Tensor  # h̄_j, (width,); of the kind "depths" (3, width)


@dataclass
class SlowPilot:
    """The Pilot, run on one prefix at a time, with hooks of its own on the decoder's layers."""

    pilot: PreTrainedModel
    source_ids: Tensor | None = None  # an encoder-decoder's question, (source,)
    kind: str = "preceding"  # of rationale
    outputs: list[Tensor] = field(default_factory=list)

    def layers(self) -> torch.nn.ModuleList:
        if self.pilot.config.is_encoder_decoder:
            return self.pilot.decoder.block
        return self.pilot.transformer.h if self.pilot.config.model_type == "gpt2" else self.pilot.model.layers

    def encoded(self) -> Tensor:
        """X̃ of an encoder-decoder: the encoder's output, (source, width)."""
        return self.pilot.get_encoder()(self.source_ids[None])[0][0].double()

    def step(self, prefix: Tensor) -> Step:
        """Run the whole prefix and keep its last position."""
        self.outputs.clear()
        handles = [layer.register_forward_hook(self._keep) for layer in self.layers()]
        if self.source_ids is None:
            logits = self.pilot(prefix[None], use_cache=False).logits
        else:
            logits = self.pilot(self.source_ids[None], decoder_input_ids=prefix[None], use_cache=False).logits
        for handle in handles:
            handle.remove()
        states = [output[0, -1].double() for output in self.outputs]
        rationale = sum(states) / len(states)
        if self.kind == "last":
            rationale = states[-1]
        elif self.kind == "depths":
            after = (round(len(states) / 3), round(2 * len(states) / 3), len(states))
            rationale = torch.stack([states[number - 1] for number in after])
        question = self.pilot.get_input_embeddings()(prefix[-1:])[0].double()
        return Step(logits[0, -1].double(), question, rationale)

    def _keep(self, module: torch.nn.Module, args: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        self.outputs.append(output[0] if isinstance(output, tuple) else output)


class SlowCopilot:
    """The Copilot from its state dict, one position at a time."""

    def __init__(self, pair: PreTrainedModel) -> None:
        prefix = "copilot."
        states = pair.state_dict()
        self.weights = {name[len(prefix) :]: w.double() for name, w in states.items() if name.startswith(prefix)}
        self.config = pair.config.copilot
        self.embedding = pair.pilot.get_input_embeddings().weight.double()
        self.head = pair.pilot.get_output_embeddings().weight.double()

    def linear(self, name: str, x: Tensor) -> Tensor:
        y = self.weights[f"{name}.weight"] @ x
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def norm(self, name: str, x: Tensor) -> Tensor:
        if self.config.norm_type == "layer_norm":
            x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + self.config.norm_eps)
            return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return self.rms(self.weights[f"{name}.weight"], x)

    def rms(self, weight: Tensor, x: Tensor) -> Tensor:
        return weight * x / torch.sqrt((x**2).mean() + self.config.norm_eps)

    def read(self, mistake: Tensor) -> Tensor:
        """W_in e_j, for a mistake over the whole vocabulary."""
        if self.config.head == "own":
            return self.weights["mistake_embedding.weight"].T @ mistake
        return self.weights["mistake_projection.weight"] @ (self.embedding.T @ mistake)

    def remembered(self, kind: str, segment: int, x: Tensor) -> Tensor:
        """One entry of the memory: a norm of each state, a map where the widths differ, and its segment's vector."""
        x = torch.cat([self.norm(f"{kind}_norm", state) for state in (x if x.ndim == 2 else [x])])
        if f"{kind}_projection.weight" in self.weights:
            x = self.weights[f"{kind}_projection.weight"] @ x
        return x + self.weights["segments"][segment]

    def attend(self, name: str, asking: Tensor, seen: list[Tensor]) -> Tensor:
        """Attention of one state over a list of states, head by head, without positions."""
        size, heads, groups = self.config.head_dim, self.config.num_attention_heads, self.config.num_key_value_heads
        scale = size**-0.5 if self.config.attention_scaling is None else self.config.attention_scaling
        query = self.linear(f"{name}.q_proj", asking).view(heads, size)
        keys = [self.linear(f"{name}.k_proj", x).view(groups, size) for x in seen]
        values = [self.linear(f"{name}.v_proj", x).view(groups, size) for x in seen]
        mixed = []
        for head in range(heads):
            group = head // (heads // groups)
            q, ks = query[head], [key[group] for key in keys]
            if f"{name}.q_norm.weight" in self.weights:
                q = self.rms(self.weights[f"{name}.q_norm.weight"], q)
                ks = [self.rms(self.weights[f"{name}.k_norm.weight"], k) for k in ks]
            weights = torch.softmax(torch.stack([scale * (q @ k) for k in ks]), dim=0)
            mixed.append(sum(weight * value[group] for weight, value in zip(weights, values, strict=True)))
        return self.linear(f"{name}.o_proj", torch.cat(mixed))

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        activation, up = ACT2FN[self.config.hidden_act], self.linear(f"{name}.up_proj", x)
        if f"{name}.gate_proj.weight" in self.weights:
            return self.linear(f"{name}.down_proj", activation(self.linear(f"{name}.gate_proj", x)) * up)
        return self.linear(f"{name}.down_proj", activation(up))

    def corrections(self, mistakes: list[Tensor], memories: list[list[Tensor]]) -> list[Tensor]:
        """f_j at every position, from e_0 … e_j and the memory that position j sees (Eq. 6)."""
        states = [self.read(mistake) for mistake in mistakes]
        if self.config.rationale in ("last", "depths"):  # position j's own rationale is the last thing that it sees
            states = [x + self.linear("rationale_input", seen[-1]) for x, seen in zip(states, memories, strict=True)]
        for number in range(self.config.num_hidden_layers):
            layer = f"layers.{number}"
            odd = number % 2 == 0  # the paper counts from 1
            if odd or self.config.is_encoder_decoder:
                normed = [self.norm(f"{layer}.input_layernorm", x) for x in states]
                found = [self.attend(f"{layer}.self_attn", x, normed[: j + 1]) for j, x in enumerate(normed)]
                states = [x + y for x, y in zip(states, found, strict=True)]
            if not odd or self.config.is_encoder_decoder:
                normed = [self.norm(f"{layer}.cross_layernorm", x) for x in states]
                found = [self.attend(f"{layer}.cross_attn", x, memories[j]) for j, x in enumerate(normed)]
                states = [x + y for x, y in zip(states, found, strict=True)]
            normed = [self.norm(f"{layer}.post_attention_layernorm", x) for x in states]
            states = [x + self.feed_forward(f"{layer}.mlp", y) for x, y in zip(states, normed, strict=True)]
        outputs = [self.linear("correction_head", self.norm("norm", x)) for x in states]
        return outputs if self.config.head == "own" else [self.head @ output for output in outputs]


class SlowPair:
    """Scoring and greedy decoding of one row, as Algorithm 2 has it."""

    def __init__(self, pair: PreTrainedModel, source_ids: Tensor | None = None) -> None:
        self.config, self.pilot, self.copilot = pair.config, SlowPilot(pair.pilot, source_ids), SlowCopilot(pair)
        self.pilot.kind = self.config.copilot.rationale
        self.encoded = None if source_ids is None else [*self.pilot.encoded()]

    def memory(self, steps: list[Step], j: int) -> list[Tensor]:
        """What position j attends to: X̃, and h̄ before j, or up to j."""
        questions = [step.question for step in steps[: j + 1]] if self.encoded is None else self.encoded
        last = j if self.config.copilot.rationale == "preceding" else j + 1
        rationales = [step.rationale for step in steps[:last]]
        return [self.copilot.remembered("question", 0, x) for x in questions] + [
            self.copilot.remembered("rationale", 1, x) for x in rationales
        ]

    def correct(self, steps: list[Step], entries: list[Tensor]) -> list[Tensor]:
        """f at every position so far."""
        return self.copilot.corrections(entries, [self.memory(steps, j) for j in range(len(steps))])

    def given(self, steps: list[Step], token_ids: Tensor) -> list[Tensor]:
        """e_0 … e_j of a text that is given."""
        nothing = torch.zeros_like(steps[0].logits)
        if self.config.error_feedback == "token":
            return [self.onehot(nothing, token) for token in token_ids]
        mistakes = [self.observed(step, token) for step, token in zip(steps, token_ids[1:], strict=False)]
        return [nothing, *mistakes]

    def written(self, step: Step, f: Tensor, token: Tensor) -> Tensor:
        """The entry of a token that was written after a step."""
        if self.config.error_feedback == "token":
            return self.onehot(f, token)
        return self.observed(step, token) if self.config.error_feedback == "observed" else self.predicted(step, f)

    @staticmethod
    def onehot(like: Tensor, token: Tensor) -> Tensor:
        return torch.zeros_like(like).index_fill(0, token, 1.0)

    def observed(self, step: Step, token: Tensor) -> Tensor:
        """ℓ = onehot − p̂ (Eq. 4), or what its sparse form keeps: the true token and the k most probable."""
        believed = torch.softmax(step.logits, dim=-1)
        mistake = -believed
        mistake[token] += 1.0
        if self.config.mistake_top_k is not None:
            kept = set(believed.topk(self.config.mistake_top_k).indices.tolist()) | {int(token)}
            mistake[[index for index in range(len(mistake)) if index not in kept]] = 0.0
        return mistake

    def rectified(self, logits: Tensor, f: Tensor, weight: float) -> Tensor:
        """Logits of p̃ (Eq. 8): z + λf, or under probability fusion at the Pilot's level, Σ exp unchanged."""
        if self.config.fusion == "logits":
            return logits + weight * f
        fused = (torch.softmax(logits, dim=-1) + weight * f).clamp_min(TINY_PROBABILITY)
        return (fused / fused.sum()).log() + logits.logsumexp(-1)

    def fuse(self, logits: Tensor, f: Tensor, weight: float) -> Tensor:
        """p̃."""
        return torch.softmax(self.rectified(logits, f, weight), dim=-1)

    def predicted(self, step: Step, f: Tensor) -> Tensor:
        """The mistake that the Copilot expects at a step: f, or under logits fusion what f does to p̂ at λ = 1."""
        if self.config.fusion == "logits":
            f = self.fuse(step.logits, f, 1.0) - torch.softmax(step.logits, dim=-1)
        if self.config.mistake_top_k is None:
            return f
        kept = f.abs().topk(self.config.mistake_top_k + 1).indices  # as many as an observed mistake keeps
        return torch.zeros_like(f).index_copy(0, kept, f[kept])

    @torch.no_grad()
    def score_logits(self, token_ids: Tensor, weight: float = 1.0) -> Tensor:
        """The rectified logits at every position of a given text (teacher-forced), (length, vocab)."""
        steps = [self.pilot.step(token_ids[: j + 1]) for j in range(len(token_ids))]
        corrections = self.correct(steps, self.given(steps, token_ids))
        return torch.stack([self.rectified(s.logits, f, weight) for s, f in zip(steps, corrections, strict=True)])

    def score(self, token_ids: Tensor, weight: float = 1.0) -> Tensor:
        """p̃ at every position of a given text, (length, vocab)."""
        return self.score_logits(token_ids, weight).softmax(-1)

    @torch.no_grad()
    def greedy(self, token_ids: Tensor, count: int, weight: float = 1.0) -> tuple[Tensor, Tensor]:
        """Decode `count` tokens; returns the whole text and the rectified logits of each new token, (count, vocab)."""
        steps = [self.pilot.step(token_ids[: j + 1]) for j in range(len(token_ids))]
        entries = self.given(steps, token_ids)
        found = []
        for _ in range(count):
            f = self.correct(steps, entries)[-1]
            found.append(self.rectified(steps[-1].logits, f, weight))
            token = found[-1].argmax()
            entries.append(self.written(steps[-1], f, token))
            token_ids = torch.cat([token_ids, token[None]])
            steps.append(self.pilot.step(token_ids))
        return token_ids, torch.stack(found)
