"""Tensor parallelism: a model divided over two devices gives the logits of the whole one; what goes wrong is said on all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from family import VOCABULARY
from harness import Logits, Model, Session, difference, load, random_tokens

from linnet import LLM, SamplingParams
from linnet.errors import InvalidRequestError, LinnetError
from linnet.load.checkpoint import open_checkpoint
from linnet.ops.torch.ops import TorchOps
from linnet.ops.torch.shards import Share, cut_axis
from linnet.ranks import LeadOps, load_share
from linnet.tensors import F32, TYPES, RawTensor
from models import BLOCKS, FIRST, NAMED, Draw

Saved = Callable[[Draw], Path]
PROMPT = random_tokens(45, VOCABULARY)
CPU = torch.device("cpu")
GREEDY = SamplingParams(max_tokens=24, temperature=0.0)


class Summed(TorchOps):
    """One of `size` ranks that are threads of this process: their terms are added in order."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, terms: dict[int, torch.Tensor]) -> None:
        super().__init__(CPU, torch.float32)
        self.rank, self.size, self.barrier, self.terms = rank, size, barrier, terms

    def summed(self, terms: torch.Tensor) -> torch.Tensor:
        self.terms[self.rank] = terms
        self.barrier.wait(60)
        total = sum((self.terms[rank] for rank in range(1, self.size)), self.terms[0])
        self.barrier.wait(60)
        return total


def divided_logits(path: Path, size: int, weights: str | None = None) -> list[Logits]:
    """What every rank says of the prompt, fed in two pieces."""
    barrier, terms, said = threading.Barrier(size), {}, {}

    def run(rank: int) -> None:
        try:
            checkpoint = open_checkpoint(path)
            ops, share = Summed(rank, size, barrier, terms), Share(checkpoint.spec, rank, size)
            model = Model(ops, share.own_spec, load_share(checkpoint, ops, share, weights and TYPES[weights]))
            session = Session(model, [len(PROMPT)], prompts=[len(PROMPT)])
            whole = checkpoint.spec.bidirectional_prompt
            pieces = [PROMPT] if whole else [PROMPT[:30], PROMPT[30:]]
            said[rank] = np.concatenate([session.feed({0: piece})[0] for piece in pieces])
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=partial(run, rank)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [said[rank] for rank in range(size)]


def divides(draw: Draw, path: Path, size: int) -> bool:
    try:
        Share(open_checkpoint(path).spec, 0, size)
    except InvalidRequestError:
        return False
    return True


NAMES = ["llama-gqa", "llama-biases", "falcon-alibi", "mistral-window", "gpt_oss-plain"]
CHOSEN = list(dict.fromkeys([*FIRST, *(draw for draw in NAMED if str(draw) in NAMES)]))


@pytest.mark.parametrize("draw", CHOSEN, ids=str)
def test_two_devices_give_what_one_does(draw: Draw, saved: Saved) -> None:
    path = saved(draw)
    if not divides(draw, path, 2):
        pytest.skip("this one cannot be divided by two, which Share says")
    alone = Session(load(path, TorchOps(CPU, torch.float32)), [len(PROMPT)], prompts=[len(PROMPT)]).feed({0: PROMPT})[0]
    for logits in divided_logits(path, 2):
        assert difference(logits, alone) < 1e-5


def test_most_families_can_be_divided(saved: Saved) -> None:
    assert sum(divides(draw, saved(draw), 2) for draw in FIRST) > len(FIRST) / 2


@pytest.mark.parametrize("weights", ["q8_0", "q4_0"])
def test_quantized_matrices_are_cut_at_blocks(weights: str, saved: Saved) -> None:
    path = saved(BLOCKS["llama"])
    model = load(path, TorchOps(CPU, torch.float32), TYPES[weights])
    alone = Session(model, [len(PROMPT)]).feed({0: PROMPT})[0]
    assert difference(divided_logits(path, 2, weights)[0], alone) < 1e-5


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux how much of a file was read")
def test_of_the_others_rows_no_bytes_are_read(tmp_path: Path) -> None:
    rows, columns = 4096, 2048
    (tmp_path / "weights").write_bytes(bytes(4 * rows * columns))
    data = np.memmap(tmp_path / "weights", np.uint8, "r")
    half = cut_axis(RawTensor("up", (rows, columns), F32, data), -2, rows // 2, rows)
    assert half.shape == (rows // 2, columns)
    half.data.sum()
    _, mapped = Path("/proc/self/smaps").read_text().split(str(tmp_path / "weights"), 1)
    resident = next(int(line.split()[1]) * 1024 for line in mapped.splitlines() if line.startswith("Rss:"))
    assert data.nbytes // 2 <= resident < 0.6 * data.nbytes


def test_processes_generate_the_same_tokens_and_end_with_the_model() -> None:
    prompts = ["What is 17 + 25?", "Once upon a time"]
    with LLM("tiny", ops="torch", kv_dtype="f32") as llm:
        expected = [completion.token_ids for completion in llm.generate(prompts, GREEDY)]
    with LLM("tiny", tp=2, device="cpu", kv_dtype="f32") as llm:
        assert [completion.token_ids for completion in llm.generate(prompts, GREEDY)] == expected
        processes = [other.process for other in llm.engine.ops.others]
        assert all(process.is_alive() for process in processes)
        # One that dies in the middle of an answer ends it, and says which and why.
        handle = llm.submit("Once", SamplingParams(max_tokens=500, temperature=0.0, ignore_eos=True))
        chunks = iter(handle)
        next(chunks)
        os.kill(processes[0].pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(LinnetError, match=r"rank 1 ended with exit code -9.*open the model again"):
                handle.result(timeout=10)
            handle = llm.submit("Once", GREEDY)
    assert not any(process.is_alive() for process in processes)


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
        killer = threading.Thread(target=lambda: waiting.wait(60) and os.kill(llm.engine.ops.others[0].process.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(LinnetError, match=r"a device of 2 failed \(rank 1 ended with exit code -9\); open the model again"):
            handle.result()
        killer.join()


@pytest.mark.slow
def test_a_rank_says_why_it_failed_and_all_end_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM("tiny", tp=2, device="cpu", kv_dtype="f32") as llm:
        llm.engine.ops.tell("copy_page", 0, 10**9, 0)
        with pytest.raises(LinnetError, match=r"rank 1 stopped: \w+Error: .*open the model again"):
            llm.generate("Once", GREEDY)
        assert not any(other.process.is_alive() for other in llm.engine.ops.others)


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
    while Path(f"/proc/{other}").exists() and "\nState:\tZ" not in Path(f"/proc/{other}/status").read_text():
        time.sleep(0.1)


def test_what_cannot_be_divided_is_refused_before_anything_is_read() -> None:
    with pytest.raises(InvalidRequestError, match="layer 0 of the model cannot be divided so: it has 4 key and value heads"):
        LLM("tiny", tp=3)
    with pytest.raises(InvalidRequestError, match="tp is 2, and device 'cuda:1' is a single one"):
        LLM("tiny", tp=2, device="cuda:1")


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InvalidRequestError, match="tp is 4, and this machine has 2 devices 'cuda'"):
        LLM("tiny", tp=4, device="cuda")
