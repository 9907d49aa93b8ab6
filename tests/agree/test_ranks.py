"""The processes of tensor parallelism: the same tokens as one device in everything that the engine does, and what is said, and left, when
one of them is lost at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from family import VOCABULARY
from harness import random_tokens

from linnet import LLM, SamplingParams
from linnet.errors import LinnetError
from linnet.rank_process import RankProcess
from linnet.ranks import LeadOps, Rank, RankOps
from models import NAMED, Draw

GREEDY = SamplingParams(max_tokens=24, temperature=0.0)
LONG = "One two three four five six seven eight nine ten. " * 12
REPEATS = "One two three four five six seven. " * 4


def kill(process: RankProcess) -> None:
    os.kill(process.process.pid, signal.SIGKILL)


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def everything(llm: LLM) -> dict[str, Any]:
    """What an engine does, in a small way."""
    said: dict[str, Any] = {}
    said["batch"] = [c.token_ids for c in llm.generate(["What is 17 + 25?", "Once upon a time"], GREEDY)]
    said["drawn"] = [c.token_ids for c in llm.generate("Once", SamplingParams(max_tokens=12, temperature=0.9, seed=4, n=3))]
    said["found again"] = [llm.generate(LONG + end, GREEDY)[0].token_ids for end in ("Eleven", "Twelve")]
    said["beams"] = [c.token_ids for c in llm.generate("The capital of", SamplingParams(max_tokens=8, num_beams=3, n=2, temperature=0.0))]
    guessing = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True, speculation="lookup")
    said["guessed"] = llm.generate(REPEATS, guessing)[0].token_ids
    said["choice"] = llm.generate("Is the sky blue? ", SamplingParams(choice=["yes", "no"], temperature=0.0))[0].text
    cancelled = llm.submit(LONG * 2, GREEDY)
    next(iter(llm.stream("Once", SamplingParams(max_tokens=2, temperature=0.0))))  # in steps beside it, which read its prompt in pieces
    cancelled.cancel()
    said["after a cancelled one"] = llm.generate(LONG * 2, GREEDY)[0].token_ids
    said["embedding"] = llm.embed(["Once upon a time"]).round(4).tolist()
    assert llm.counters().pages_used == 0
    return said


@pytest.mark.parametrize("options", [{"prefill_chunk": 32}, pytest.param({"draft": "tiny", "dtype": "f32"}, marks=pytest.mark.slow)])
def test_two_processes_do_all_that_one_does_and_end_with_the_model(options: dict[str, Any]) -> None:
    with LLM("tiny", ops="torch", kv_dtype="f32", **options) as llm:
        expected = everything(llm)
    with LLM("tiny", tp=2, device="cpu", kv_dtype="f32", **options) as llm:
        assert everything(llm) == expected
        [other] = llm.engine.ops.others  # type: ignore[attr-defined]
        assert other.process.poll() is None
        # One that dies in the middle of an answer ends it, and says which and why.
        handle = llm.submit("Once", SamplingParams(max_tokens=500, temperature=0.0, ignore_eos=True))
        next(iter(handle))
        kill(other)
        for _ in range(2):
            with pytest.raises(LinnetError, match=r"rank 1 ended with exit code -9.*open the model again"):
                handle.result(timeout=10)
            handle = llm.submit("Once", GREEDY)
    assert other.process.poll() is not None


FAMILIES = "mixtral-plain deepseek_v2-plain gemma2-window falcon-alibi nanochat-plain llama-dynamic".split()


@pytest.mark.slow
@pytest.mark.parametrize("draw", [draw for draw in NAMED if str(draw) in FAMILIES], ids=str)
def test_families_in_two_processes(draw: Draw, saved: Callable[[Draw], Path]) -> None:
    """Mixtures, latent heads, windows, ALiBi, gates of values, ropes by length: prompts of several lengths, in pieces, side by side."""
    prompts = [random_tokens(length, VOCABULARY) for length in (70, 3, 33)]
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    answers = []
    for options in ({"ops": "torch"}, {"tp": 2, "device": "cpu"}):
        with LLM(saved(draw), kv_dtype="f32", context=128, prefill_chunk=24, **options) as llm:  # type: ignore[arg-type]
            answers.append([completion.token_ids for completion in llm.generate(prompts, params)])
    assert answers[0] == answers[1]


SCRIPT = """
import os, signal, threading
from linnet import LLM, SamplingParams
from linnet.ranks import LeadOps

print("begun")
greedy = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
llm = LLM("tiny", tp=2, device="cpu", kv_dtype="f32")
expected = llm.generate("What is 17 + 25?", greedy)[0].token_ids
summed, sums = LeadOps.summed, []

def interrupted(self, terms):
    sums.append(terms)
    if len(sums) == 5:
        os.killpg(0, signal.SIGINT)
    return summed(self, terms)

LeadOps.summed = interrupted
try:
    llm.generate("Once upon a time", greedy)
except KeyboardInterrupt:
    print("interrupted")
print(llm.generate("What is 17 + 25?", greedy)[0].token_ids == expected)
print(llm.engine.ops.others[0].process.pid)
"""


def test_a_plain_script_interrupted_in_the_middle_of_a_step(tmp_path: Path) -> None:
    """No guard against being run again in each process; Ctrl-C, which a terminal sends to all of them; and no close."""
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, start_new_session=True)
    begun, interrupted, same, other = done.stdout.split()
    assert (begun, interrupted, same) == ("begun", "interrupted", "True"), done.stderr
    assert "Traceback" not in done.stderr
    while is_there(int(other)):
        time.sleep(0.05)


def test_one_that_dies_before_they_have_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rank would wait for it, in what cannot be interrupted."""
    begun: list[RankProcess] = []
    start = RankProcess.__init__
    monkeypatch.setattr(RankProcess, "__init__", lambda self, *a, **k: begun.append(self) or start(self, *a, **k))
    ended = threading.Event()

    def join(self: Rank) -> RankOps:
        kill(begun[0])
        ended.wait(60)
        raise AssertionError

    monkeypatch.setattr(Rank, "join", join)
    with pytest.raises(LinnetError, match="rank 1 of 2 could not join the others: ended with exit code -9"):
        LLM("tiny", tp=2, device="cpu")
    ended.set()


def test_one_that_dies_while_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = LeadOps.encoded

    def last(self: LeadOps, *arguments: Any) -> Any:
        if self.failure is None:
            kill(self.others[0])
            assert self._failed.wait(60)
        return encoded(self, *arguments)

    monkeypatch.setattr(LeadOps, "encoded", last)
    with pytest.raises(LinnetError, match="failed while the model was loaded: rank 1 ended with exit code -9"):
        LLM("tiny", tp=2, device="cpu")


@pytest.mark.slow
def test_whoever_waits_for_a_lost_device_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NCCL's sums would wait for ever, and give something once they are abandoned."""
    waiting, abandoned = threading.Event(), threading.Event()

    def summed(self: LeadOps, terms: torch.Tensor) -> torch.Tensor:
        waiting.set()
        assert abandoned.wait(60)
        return terms

    monkeypatch.setattr(LeadOps, "abandon", lambda self: abandoned.set())
    with LLM("tiny", tp=2, device="cpu", kv_dtype="f32") as llm:
        monkeypatch.setattr(LeadOps, "summed", summed)
        handle = llm.submit("Once", GREEDY)
        killer = threading.Thread(target=lambda: waiting.wait(60) and kill(llm.engine.ops.others[0]))  # type: ignore[attr-defined]
        killer.start()
        with pytest.raises(LinnetError, match=r"a device of 2 failed \(rank 1 ended with exit code -9\); open the model again"):
            handle.result()
        killer.join()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["step", "cache", "files"])
def test_a_rank_says_why_it_failed_and_all_end_together(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "step":
        with LLM("tiny", tp=2, device="cpu", kv_dtype="f32") as llm:
            ops: LeadOps = llm.engine.ops  # type: ignore[assignment]
            ops.tell("copy_page", 0, 10**9, 0)
            with pytest.raises(LinnetError, match=r"rank 1 stopped: \w+Error: .*open the model again"):
                llm.generate("Once", GREEDY)
            assert ops.others[0].process.poll() is not None
        return
    tell = LeadOps.tell
    if where == "cache":
        monkeypatch.setattr(LeadOps, "tell", lambda self, what, *arguments: tell(self, what, [2**50], *arguments[1:]))
        reason = "rank 1 of 2 could not make its KV cache: stopped: "
    else:
        start = RankProcess.__init__
        moved = lambda self, work, rank, heard: start(self, work, Rank(**{**vars(rank), "model": Path("/nothing")}), heard=heard)  # noqa: E731
        monkeypatch.setattr(RankProcess, "__init__", moved)
        reason = "rank 1 (of 2 could not load the model: )?stopped: ModelFileError: .*/nothing"
    with pytest.raises(LinnetError, match=reason):
        LLM("tiny", tp=2, device="cpu")


@pytest.mark.slow
def test_ranks_end_with_the_process_that_began_them() -> None:
    script = (
        "from linnet import LLM; llm = LLM('tiny', tp=2, device='cpu'); print(llm.engine.ops.others[0].process.pid, flush=True); input()"
    )
    began = subprocess.Popen([sys.executable, "-u", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert began.stdout is not None
    other = int(began.stdout.readline())
    began.kill()
    began.wait()
    while is_there(other):
        time.sleep(0.1)
