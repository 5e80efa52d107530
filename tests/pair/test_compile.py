"""`torch.compile` makes one graph of a pair, in evaluation and in training, and the graph gives what the pair gives."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, CompileConfig, PreTrainedModel

from tests.conftest import TINY, build_pair, build_pilot
from transformers_copilot import MistakeRecord
from transformers_copilot.pair.objectives import copilot_objective


LINEAR, BRANCH = {"copilot": {"form": "linear"}}, {"copilot": {"form": "branch", "num_hidden_layers": 1}}
TOKEN = {"copilot": {"num_hidden_layers": 2, "head": "pilot"}, "error_feedback": "token"}
OBSERVED = {"copilot": {"num_hidden_layers": 2, "head": "own"}, "error_feedback": "observed"}
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("llama", LINEAR),
    "branch": ("llama", BRANCH),
    "token": ("llama", TOKEN),
    "observed": ("llama", OBSERVED),
    "branch of T5": ("t5", BRANCH),  # without dropout: a Copilot that drops draws from a stream of its own
    "observed of T5": ("t5", OBSERVED),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def a_pair(name: str) -> PreTrainedModel:
    family, options = PAIRS[name]
    config, fields = TINY[family]
    return build_pair(build_pilot(config, {**fields, "dropout_rate": 0.0} if family == "t5" else fields), **options)


def compiled(pair: PreTrainedModel, backend: str = "aot_eager") -> Callable[..., Any]:
    """Refuses to compile where the graph would break."""
    return torch.compile(pair, fullgraph=True, backend=backend)


def a_batch() -> dict[str, Tensor]:
    """Three rows: padded on the left, padded on the right, and one without a label."""
    ids = torch.randint(3, 60, (3, 8), generator=torch.Generator().manual_seed(2))
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[0, :3], mask[1, 6:], labels[:, :4], labels[2] = 0, 0, -100, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels.masked_fill(mask == 0, -100)}


def gradients(pair: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    pair.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in pair.named_parameters() if weight.grad is not None}


def assert_same(found: Any, expected: Any) -> None:
    """Whatever numbers two outputs have."""
    names = [name for name, value in expected.items() if isinstance(value, Tensor)]
    assert names and names == [name for name, value in found.items() if isinstance(value, Tensor)]
    for name in names:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


def assert_learns_the_same(pair: PreTrainedModel, **batch: Any) -> None:
    """The losses of both parts, and every weight's gradient."""
    expected = pair(**batch)
    wanted = gradients(pair, expected.loss)
    found = compiled(pair)(**batch)
    assert_same(found, expected)
    given = gradients(pair, found.loss)
    assert given.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(given[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_a_pair_in_training_compiles_to_one_graph():
    config, fields = TINY["llama"]
    pair, batch = build_pair(build_pilot(config, {**fields, "num_hidden_layers": 1}), **LINEAR).train(), a_batch()
    assert_same(compiled(pair, "eager")(**batch), pair(**batch))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_every_form_reads_the_same_in_one_graph(name: str):
    pair, batch = a_pair(name), a_batch()
    with torch.no_grad():
        assert_same(compiled(pair)(**batch), pair(**batch))
        if not pair.config.is_encoder_decoder:
            del batch["labels"]
            assert_same(compiled(pair)(**batch), pair(**batch))


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_every_form_learns_the_same_in_one_graph(name: str, frozen: bool):
    pair = a_pair(name).train()
    pair.freeze_pilot(frozen)
    assert_learns_the_same(pair, **a_batch())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["branch", "observed"])
def test_a_logged_round_teaches_the_same_in_one_graph(name: str):
    pair, batch = a_pair(name).train(), a_batch()
    record = MistakeRecord.from_batch(pair(**batch, return_mistakes=True).mistakes)
    assert_learns_the_same(pair, mistake_round=record.to_batch(), copilot_items=7)
    logged = MistakeRecord.from_batch(compiled(pair)(**batch, return_mistakes=True).mistakes)
    assert logged.tensors().keys() == record.tensors().keys()
    for field, tensor in record.tensors().items():
        torch.testing.assert_close(logged.tensors()[field], tensor, atol=1e-5, rtol=1e-2, msg=field)
    with torch.no_grad():
        pair.pilot.get_output_embeddings().weight[3] = float("nan")
    spoilt = compiled(pair)(**batch, return_mistakes=True).mistakes
    with pytest.raises(ValueError, match=r"NaN or inf in rows \[0, 1\]"):
        MistakeRecord.from_batch(spoilt)


@pytest.mark.slow
def test_a_batch_without_a_lesson_teaches_nothing_in_one_graph():
    pair, batch = a_pair("observed").train(), a_batch()
    batch["labels"].fill_(-100)
    out = compiled(pair)(**batch, num_items_in_batch=torch.tensor(4))  # as a Trainer gives it
    assert out.copilot_loss == 0.0
    given = gradients(pair, out.loss)
    assert {name for name, _ in pair.copilot.named_parameters(prefix="copilot")} <= given.keys()
    assert all(torch.count_nonzero(gradient) == 0 for gradient in given.values())


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["logits", "probability"])
@pytest.mark.parametrize("objective", ["rmse", "mse", "kl", "cross_entropy"])
def test_every_objective_leaves_out_the_same_positions_in_one_graph(objective: str, fusion: str):
    generator = torch.Generator().manual_seed(3)
    correction, logits = torch.randn(2, 5, 7, generator=generator).unbind(0)
    true = torch.tensor([1, -100, 3, -100, 0])
    counted = true >= 0
    expected = copilot_objective(correction[counted], logits[counted], true[counted], objective, fusion)
    found = torch.compile(copilot_objective, fullgraph=True, backend="eager")
    torch.testing.assert_close(found(correction, logits, true, objective, fusion), expected)
    torch.testing.assert_close(found(correction, logits, true.fill_(-100), objective, fusion), torch.tensor(0.0))


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"output_logits": True, "output_scores": True}])
@pytest.mark.parametrize("name", ["linear", "branch"])
def test_a_step_beside_a_static_cache_is_one_graph(name: str, more: dict[str, Any]):
    """On a GPU `generate` compiles such a step by itself; here it is told to."""
    config = CompileConfig(backend="aot_eager", mode=None, fullgraph=True)
    config._compile_all_devices = True
    pair, batch = a_pair(name), a_batch()
    mask = batch["attention_mask"]
    mask[1] = 1  # padding on the left alone
    given = {"input_ids": batch["input_ids"], "attention_mask": mask}
    given |= {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True, **more}
    expected = pair.generate(**given)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found = pair.generate(**given, cache_implementation="static", compile_config=config, disable_compile=False)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 1
    assert torch.equal(found.sequences, expected.sequences)
    for left, right in zip(found.get("scores") or [], expected.get("scores") or [], strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_copilot_that_drops_is_compiled_in_pieces_and_draws_what_it_draws():
    """Its seed is made of its weights' numbers, which a graph can't hold."""
    config, fields = TINY["llama"]
    options = {**OBSERVED, "copilot": {**OBSERVED["copilot"], "dropout": 0.3}}
    pair, batch = build_pair(build_pilot(config, {**fields, "num_hidden_layers": 1}), **options).train(), a_batch()
    torch.manual_seed(5)
    expected = pair(**batch)
    torch.manual_seed(6)
    assert pair(**batch).copilot_loss != expected.copilot_loss
    torch.manual_seed(5)
    assert_same(torch.compile(pair, backend="eager")(**batch), expected)


@pytest.mark.slow
def test_what_the_head_does_is_found_out_while_a_loaded_pair_is_compiled(tmp_path: Any):
    pair, batch = build_pair(build_pilot(*TINY["gemma"]), **LINEAR), a_batch()
    pair.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert_same(compiled(loaded)(**batch), pair(**batch))


@pytest.mark.slow
def test_threads_run_one_compiled_pair_each_for_itself():
    pair = a_pair("branch")
    texts = [
        torch.randint(3, 60, (1, length), generator=torch.Generator().manual_seed(length)) for length in (5, 8, 11)
    ]
    with torch.no_grad():
        expected = [pair(text).logits for text in texts]
    whole = compiled(pair)
    found: dict[tuple[int, int], Tensor] = {}
    ready = threading.Barrier(6)

    def work(number: int) -> None:
        ready.wait()
        with torch.no_grad():
            for turn in range(2):
                found[number, turn] = (whole if number < 3 else pair)(texts[number % 3]).logits

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    for (number, _), logits in found.items():
        torch.testing.assert_close(logits, expected[number % 3], atol=1e-5, rtol=1e-5)
