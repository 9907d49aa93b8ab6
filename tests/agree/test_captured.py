"""Steps that are captured once and replayed, out of buffers of fixed sizes, give what the same op set gives op by op."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from family import VOCABULARY
from harness import Session, difference, load, random_tokens
from recorded_graph import Graphs

from linnet import LLM, SamplingParams
from linnet.errors import MissingDependencyError
from linnet.ops.torch import devices
from linnet.ops.torch.decode import compiled
from linnet.ops.torch.ops import TorchOps
from models import NAMED, Draw

NAMES = """llama-dynamic mistral-window gemma2-window chatglm-plain deepseek_v2-plain gpt_oss-plain nanochat-plain falcon-alibi gpt2-plain
mixtral-plain""".split()
DRAWS = [draw for draw in NAMED if str(draw) in NAMES]


@pytest.mark.parametrize(("draw", "kv_dtype"), [*((draw, "f32") for draw in DRAWS), (DRAWS[0], "q8_0")], ids=str)
def test_replays_give_what_the_op_set_gives(draw: Draw, kv_dtype: str, saved: Callable[[Draw], Path]) -> None:
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


def test_layers_with_tables_of_their_own(graphs: Graphs, monkeypatch: pytest.MonkeyPatch, saved: Callable[[Draw], Path]) -> None:
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
