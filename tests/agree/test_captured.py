"""Steps that are captured once and replayed, out of buffers of fixed sizes, give what the same op set gives op by op."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from family import VOCABULARY
from harness import Model, Session, difference, load, random_tokens
from recorded_graph import Graphs

from linnet import LLM, SamplingParams
from linnet.engine.page_plan import layer_groups
from linnet.errors import MissingDependencyError
from linnet.forward import forward
from linnet.load.checkpoint import open_checkpoint
from linnet.ops.base import PAGE_SIZE, Batch
from linnet.ops.torch import devices
from linnet.ops.torch.decode import Capture, Run, compiled, cuda_graph
from linnet.ops.torch.ops import HostWeights, TorchOps
from linnet.tensors import TYPES
from models import NAMED, Draw

NAMES = """llama-dynamic mistral-window gemma2-window chatglm-plain deepseek_v2-plain gpt_oss-plain nanochat-plain falcon-alibi gpt2-plain
mixtral-plain lfm2-biases qwen3_next-plain qwen3_5-biases-tied""".split()
DRAWS = [draw for draw in NAMED if str(draw) in NAMES]
Saved = Callable[[Draw], Path]
[MIXTRAL] = [draw for draw in DRAWS if draw.family == "mixtral"]
RECURRENT = [draw for draw in DRAWS if draw.family in ("lfm2", "qwen3_5")]


@pytest.mark.parametrize(("draw", "kv_dtype"), [*((draw, "f32") for draw in DRAWS), (DRAWS[0], "q8_0")], ids=str)
def test_replays_give_what_the_op_set_gives(draw: Draw, kv_dtype: str, saved: Saved) -> None:
    lengths, steps = [40, 3, 21], 3
    texts = [random_tokens(length + steps, VOCABULARY) for length in lengths]
    graphs = Graphs()
    sessions = [
        Session(load(saved(draw), TorchOps(torch.device("cpu"), torch.float32, capture)), [len(t) for t in texts], kv_dtype, lengths)
        for capture in (None, graphs)
    ]
    for i, text in enumerate(texts):
        for session in sessions:
            session.feed({i: text[: lengths[i]]})
    for step in range(steps):  # all of them, then fewer, in another order
        for who in ([0, 1, 2], [1, 2], [0])[step : step + 1]:
            found = [session.feed({i: [texts[i][session.done[i]]] for i in who}) for session in sessions]
            for i in who:
                assert difference(found[1][i], found[0][i]) < (1e-5 if kv_dtype == "f32" else 1e-3)  # roundings to integers
    assert graphs.captured >= 2


@pytest.mark.parametrize("traced", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("weights", [None, "q8_0"])
@pytest.mark.parametrize("draw", [draw for draw in DRAWS if str(draw) in ("mixtral-plain", "nanochat-plain")], ids=str)
def test_steps_out_of_buffers_with_layers_in_host_memory(draw: Draw, weights: str | None, traced: bool, saved: Saved) -> None:
    """As `compile` has them where layers do not fit on the device."""
    capture: Capture = compiled(backend="eager") if traced else lambda run: run
    text, found = random_tokens(24, VOCABULARY), []
    for held in (False, True):
        ops, checkpoint = TorchOps(torch.device("cpu"), torch.float32, capture if held else None), open_checkpoint(saved(draw))
        elsewhere = dict.fromkeys(range(len(checkpoint.spec.layers)), HostWeights(ops)) if held else {}
        model = Model(ops, checkpoint.spec, checkpoint.assemble(ops, weights and TYPES[weights], elsewhere=elsewhere))
        session = Session(model, [24], "f32")
        session.feed({0: text[:20]})
        found.append(np.concatenate([session.feed({0: [token]})[0] for token in text[20:]]))
    assert difference(found[1], found[0]) < 1e-5


def one_token_each(count: int, pages: int = 1, groups: int = 1) -> Batch:
    """A step of sequences that each have so many pages, full but for the last position; all the same pages."""
    ids, zeros = np.arange(count, dtype=np.int32), np.zeros(count, np.int32)
    table = np.broadcast_to(np.arange(pages, dtype=np.int32), (groups, count, pages))
    length = zeros + pages * PAGE_SIZE
    return Batch(zeros, length - 1, zeros, ids, table, length, length, ids)


@pytest.mark.parametrize(
    ("draw", "weights", "kv_dtype"),
    [*((draw, None, "bf16") for draw in DRAWS), (DRAWS[0], "q4_0", "q8_0"), (MIXTRAL, "q8_0", "f16")],
    ids=str,
)
def test_a_captured_step_asks_the_host_for_nothing(draw: Draw, weights: str | None, kv_dtype: str, saved: Saved) -> None:
    """On "meta", a device without memory, whatever would be read back, sized by its values, or taken from elsewhere is an error."""
    runs: list[Run] = []
    ops = TorchOps(torch.device("meta"), torch.bfloat16, lambda run: runs.append(run) or run)  # type: ignore[func-returns-value]
    model = load(saved(draw), ops, weights and TYPES[weights])
    session = Session(model, [40, 40, 40], kv_dtype)
    with torch.inference_mode():
        logits = session.step.compute(one_token_each(3, groups=len(session.table)))  # type: ignore[attr-defined]
    assert len(runs) == 1
    assert logits.shape == (3, model.spec.vocab_size)


def test_rows_that_fill_a_batch_up_write_to_nobodys_page() -> None:
    checkpoint = open_checkpoint("tiny")
    ops = TorchOps(torch.device("cpu"), torch.float32, Graphs())
    weights = checkpoint.assemble(ops)
    ops.allocate_cache(checkpoint.spec, [4], "f32")
    step = ops.stepper(checkpoint.spec, partial(forward, ops, checkpoint.spec, weights))
    assert ops.cache is not None
    for _ in range(2):  # captured, then replayed
        for store in (*ops.cache.keys.values(), *ops.cache.values.values()):
            store.rows.fill_(7)
        step(one_token_each(3, pages=2))
        for store in (*ops.cache.keys.values(), *ops.cache.values.values()):
            written = (store.rows != 7).flatten(1).any(1).nonzero()[:, 0].tolist()
            assert written == [2 * PAGE_SIZE - 1, 4 * PAGE_SIZE]  # where the sequences are, and the first place past all pages


@pytest.mark.parametrize("draw", RECURRENT, ids=str)
def test_their_states_are_on_nobodys_page(draw: Draw, saved: Callable[[Draw], Path]) -> None:
    ops = TorchOps(torch.device("cpu"), torch.float32, Graphs())
    model = load(saved(draw), ops)
    ops.allocate_cache(model.spec, [4, 4], "f32", layer_groups(model.spec).of_layer)
    step = ops.stepper(model.spec, partial(forward, ops, model.spec, model.weights))
    assert ops.cache is not None
    assert len(ops.cache.states) == 2
    for _ in range(2):
        for states in ops.cache.states.values():
            states.rows.fill_(7)
        step(one_token_each(3, pages=2, groups=2))
        for states in ops.cache.states.values():
            assert (states.rows != 7).any(1).nonzero()[:, 0].tolist() == [1, 4]


@pytest.mark.slow
def test_models_of_every_kind_are_compiled_side_by_side(saved: Saved) -> None:
    """Traced whole, one after another in one process: what was learnt of one is not taken to hold for the next."""
    for draw in DRAWS:
        text = random_tokens(22, VOCABULARY)
        sessions = [
            Session(load(saved(draw), TorchOps(torch.device("cpu"), torch.float32, capture)), [22], "f32")
            for capture in (None, compiled(backend="eager"))
        ]
        for session in sessions:
            session.feed({0: text[:20]})
        for token in text[20:]:
            found = [session.feed({0: [token]})[0] for session in sessions]
            assert difference(found[1], found[0]) < 1e-5, draw


@pytest.mark.slow
@pytest.mark.parametrize("with_triton", [False, True])
def test_a_few_programs_serve_all_sizes(with_triton: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for a batch of one with the first table, one for it with any, one for all others."""
    programs: list[object] = []

    def traced(graph: object, inputs: object) -> Callable[..., None]:
        programs.append(graph)

        def run(*inputs: object) -> None:
            raise InterruptedError  # traced, and never run

        return run

    if with_triton:
        pytest.importorskip("triton")
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    torch.compiler.reset()
    kernels = devices.open_kernels(torch.device("cuda")) if with_triton else None
    checkpoint = open_checkpoint("tiny")
    ops = TorchOps(torch.device("cpu"), torch.bfloat16, compiled(backend=traced), kernels)
    weights = checkpoint.assemble(ops)
    ops.allocate_cache(checkpoint.spec, [64], "f16")
    step = ops.stepper(checkpoint.spec, partial(forward, ops, checkpoint.spec, weights))
    for count, pages in [(1, 8), (1, 16), (2, 8), (1, 64), (4, 32), (16, 64), (64, 8)]:
        with pytest.raises(InterruptedError):
            step(one_token_each(count, pages))
    assert len(programs) == 3


def test_a_step_that_no_graph_holds_runs_all_the_same(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    stream = SimpleNamespace(wait_stream=lambda other: None)
    made = {"Stream": lambda device: stream, "current_stream": lambda: stream, "stream": lambda stream: nullcontext()}
    made |= {"graph_pool_handle": lambda: (0, 1), "CUDAGraph": SimpleNamespace}
    for name, value in made.items():
        monkeypatch.setattr(torch.cuda, name, value)
    context = type("Refusing", (), {"__enter__": lambda self: None, "__exit__": refuse})
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: context())
    with caplog.at_level(logging.WARNING, "linnet.ops"):
        run = cuda_graph(torch.device("cuda", 0))(lambda: torch.ones(2))
    assert run().tolist() == [1, 1]
    assert "no CUDA graph holds it (operation not permitted when stream is capturing)" in caplog.text


PROMPTS = ["What is 3 + 4?", "The capital of", "Once upon a time there was a bird, and it said", "One, two, three,", "1"]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Every torch op set that is opened captures its steps."""
    made = Graphs()
    begin = TorchOps.__init__
    monkeypatch.setattr(TorchOps, "__init__", lambda self, device, dtype, *_: begin(self, device, dtype, made))
    return made


def answers(most: int = len(PROMPTS), **options: Any) -> list[list[int]]:
    """Requests of several lengths that come and go, so that batches of one to five sequences occur."""
    params = [SamplingParams(max_tokens=3 + 4 * i, temperature=0.4 * i, seed=i, ignore_eos=True) for i in range(len(PROMPTS))]
    with LLM("tiny", ops="torch", kv_dtype="f32", context=512, **options) as llm:
        handles = [llm.submit(prompt, own) for prompt, own in zip(PROMPTS[:most], params[:most], strict=True)]
        return [handle.result()[0].token_ids for handle in handles]


def test_replayed_steps_give_the_same_tokens(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"weights": "q4_0", "prefill_chunk": 3}
    replayed = answers(**options)
    assert 2 <= graphs.captured <= 4  # batches of up to 1, 2, 4 and 8
    assert graphs.replays > 10
    monkeypatch.undo()
    assert answers(**options) == replayed


def test_layers_with_tables_of_their_own(graphs: Graphs, monkeypatch: pytest.MonkeyPatch, saved: Saved) -> None:
    """Where some layers have windows and others see all, each kind has its pages."""
    [draw] = [draw for draw in DRAWS if str(draw) == "gemma2-window"]
    prompts = [random_tokens(length, VOCABULARY) for length in (70, 3, 33)]
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    found = []
    for _ in range(2):
        with LLM(saved(draw), ops="torch", kv_dtype="f32", context=128) as llm:
            assert len(llm.engine.ops.cache.pages) == 2  # type: ignore[attr-defined]
            found.append([completion.token_ids for completion in llm.generate(prompts, params)])
        monkeypatch.undo()
    assert graphs.replays > 5
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_step_is_one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced whole by torch.compile, for one size, then for any; run as it was traced."""
    torch.compiler.reset()
    begin = TorchOps.__init__
    monkeypatch.setattr(TorchOps, "__init__", lambda self, device, dtype, *_: begin(self, device, dtype, compiled(backend="eager")))
    traced = answers(2)
    monkeypatch.undo()
    assert answers(2) == traced


@pytest.mark.slow
@pytest.mark.parametrize("draw", RECURRENT, ids=str)
def test_recurrent_layers_are_traced_too(draw: Draw, saved: Callable[[Draw], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    prompts = [random_tokens(length, VOCABULARY) for length in (30, 3, 33)]
    begin, found = TorchOps.__init__, []
    for capture in (compiled(backend="eager"), None):
        monkeypatch.setattr(TorchOps, "__init__", lambda self, device, dtype, *_, capture=capture: begin(self, device, dtype, capture))
        with LLM(saved(draw), ops="torch", kv_dtype="f32", context=128) as llm:
            found.append(llm.generate(prompts, SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)))
    assert [one.token_ids for one in found[0]] == [one.token_ids for one in found[1]]


@pytest.mark.slow
def test_a_compiled_model_answers_the_same() -> None:
    question = [{"role": "user", "content": "What is 17 + 25?"}]
    with LLM("tiny", ops="torch", compile=True) as llm:
        assert llm.chat(question, SamplingParams(max_tokens=64, temperature=0.0)).text.endswith("42")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependencyError, match=r"needs a C\+\+ compiler: install g\+\+ or clang"):
        LLM("tiny", ops="torch", compile=True)
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install triton"):
        devices.check_compiler(torch.device("cuda", 0))
