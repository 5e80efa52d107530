"""Algorithm 1 of arXiv 2505.16270 in plain torch, a sequence at a time, as the reference of the training tests.

It uses the modules of a pair (projections, norms, feed-forward parts) and none of the package's functions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(attention: nn.Module, asking: Tensor, asked: Tensor, allowed: Tensor) -> Tensor:
    """Attention of one sequence, `(queries, d)` over `(keys, d)`, where `allowed` `(queries, keys)`."""
    query, key, value = (
        layer(x).unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)
        for layer, x in ((attention.q_proj, asking), (attention.k_proj, asked), (attention.v_proj, asked))
    )
    groups = len(query) // len(key)
    scores = query @ key.repeat_interleave(groups, 0).mT * attention.scaling
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    return attention.o_proj((weights @ value.repeat_interleave(groups, 0)).transpose(0, 1).flatten(1))


def corrections(copilot: nn.Module, mistakes: Tensor, question: Tensor, rationale: Tensor, causal: bool) -> Tensor:
    """f of one sequence from ℓ_{<i}, X̃ and h̄_{<i} (App. A): `(n, V)`. `causal`: X̃_k is seen from k on only."""
    earlier = F.pad(mistakes, (0, 0, 1, 0))[:-1]
    states = earlier @ copilot.mistake_embedding.weight
    question = copilot.question_projection(copilot.question_norm(question)) + copilot.segments[0]
    rationale = copilot.rationale_projection(copilot.rationale_norm(rationale)) + copilot.segments[1]
    memory, n = torch.cat([question, rationale]), len(mistakes)
    up_to = torch.ones(n, n, dtype=torch.bool).tril()
    questions = up_to if causal else torch.ones(n, len(question), dtype=torch.bool)
    seen = torch.cat([questions, up_to.tril(-1)], dim=1)
    for layer in copilot.layers:
        if layer.self_attn is not None:
            normed = layer.input_layernorm(states)
            states = states + attend(layer.self_attn, normed, normed, up_to)
        if layer.cross_attn is not None:
            states = states + attend(layer.cross_attn, layer.cross_layernorm(states), memory, seen)
        states = states + layer.mlp(layer.post_attention_layernorm(states))
    return copilot.correction_head(copilot.norm(states))


def pilot_pass(pilot: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The Pilot's loss (Eq. 2) on a batch, and its Mistake Log entry (Eq. 3-5), a dict for each sequence."""
    seq2seq, layers, inputs = pilot.config.is_encoder_decoder, [], []
    decoder = pilot.get_decoder()
    blocks = decoder.block if seq2seq else decoder.layers
    hooks = [
        b.register_forward_hook(lambda m, a, out: layers.append(out[0] if type(out) is tuple else out)) for b in blocks
    ]
    hooks.append(pilot.get_input_embeddings().register_forward_hook(lambda m, a, out: inputs.append(out)))
    out = pilot(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
    for hook in hooks:
        hook.remove()
    entry = []
    for row, mask in enumerate(batch["attention_mask"].bool()):
        labels = batch["labels"][row] if seq2seq else F.pad(batch["labels"][row][1:], (0, 1), value=-100)
        real = labels != -100 if seq2seq else mask
        tokens = labels[real] if seq2seq else F.pad(batch["input_ids"][row][mask][1:], (0, 1))
        true = F.one_hot(tokens, out.logits.shape[-1])
        rationale = torch.stack([h[row][real] for h in layers]).mean(0)
        question = (out.encoder_last_hidden_state if seq2seq else inputs[0])[row][mask]
        mistakes = true - out.logits[row][real].float().softmax(-1)
        kept = {"mistakes": mistakes, "question": question, "rationale": rationale, "supervised": labels[real] != -100}
        entry.append({name: value.detach().clone() for name, value in kept.items()})
    return out.loss, entry


def algorithm1(
    pair: Any, batches: list[dict[str, Tensor]], drawn: list[int], pilot_lr: float, copilot_lr: float
) -> None:
    """Train a pair in place: a round a batch, the Copilot on the logged round of each number in `drawn`."""
    pilot, copilot, log = pair.pilot, pair.copilot, []
    optimizers = [
        torch.optim.AdamW(m.parameters(), lr, weight_decay=0.0) for m, lr in ((pilot, pilot_lr), (copilot, copilot_lr))
    ]
    for batch, number in zip(batches, drawn, strict=True):
        loss, entry = pilot_pass(pilot, batch)
        log.append(entry)
        squared = []
        for sequence in log[number]:
            supervised = sequence.pop("supervised")
            f = corrections(copilot, causal=not pilot.config.is_encoder_decoder, **sequence)
            squared.append((f - sequence["mistakes"])[supervised].square().sum(-1))
            sequence["supervised"] = supervised
        rmse = torch.cat(squared).mean().sqrt()
        for part, objective, optimizer in zip((pilot, copilot), (loss, rmse), optimizers, strict=True):
            objective.backward()
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
