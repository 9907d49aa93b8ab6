"""Tensor parallelism: a model divided over two devices gives the logits of the whole one, or is refused (processes: `test_ranks.py`)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from family import VOCABULARY
from harness import Logits, Model, Session, difference, load, random_tokens

from linnet import LLM
from linnet.arch.spec import GatedDeltaNet, Layer, Mixer, Mlp, ModelSpec, Norm, ShortConvolution
from linnet.errors import InvalidRequestError
from linnet.load.checkpoint import open_checkpoint
from linnet.ops.torch.ops import TorchOps
from linnet.ops.torch.shards import Share, cut_axis
from linnet.ranks import load_share
from linnet.tensors import F32, TYPES, RawTensor
from models import BLOCKS, FIRST, NAMED, Draw

Saved = Callable[[Draw], Path]
PROMPT = random_tokens(45, VOCABULARY)
CPU = torch.device("cpu")


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


NAMES = [
    "llama-gqa",
    "llama-biases",
    "falcon-alibi",
    "mistral-window",
    "gpt_oss-plain",
    "cohere-query-key-norms",
    "stablelm-12b",
    "stablelm-mqa-norm",
]
CHOSEN = list(dict.fromkeys([*FIRST, *(draw for draw in NAMED if str(draw) in NAMES)]))


@pytest.mark.parametrize("draw", CHOSEN, ids=str)
def test_two_devices_give_what_one_does(draw: Draw, saved: Saved) -> None:
    path = saved(draw)
    if not divides(draw, path, 2):
        pytest.skip("this one cannot be divided by two, which Share says")
    alone = Session(load(path, TorchOps(CPU, torch.float32)), [len(PROMPT)], prompts=[len(PROMPT)]).feed({0: PROMPT})[0]
    for logits in divided_logits(path, 2):
        assert difference(logits, alone) < 1e-5


def test_more_devices_than_there_are_keys_of_the_delta_rule(saved: Saved) -> None:
    """Its two key heads are each on two devices, beside other value heads."""
    [draw] = [draw for draw in FIRST if draw.family == "qwen3_next"]
    alone = Session(load(saved(draw), TorchOps(CPU, torch.float32)), [len(PROMPT)]).feed({0: PROMPT})[0]
    assert difference(divided_logits(saved(draw), 4)[3], alone) < 1e-5


@pytest.mark.parametrize(
    ("mixer", "reason"),
    [
        (GatedDeltaNet(2, 6, 8, 8, 4, Norm(1e-6)), "it has 2 key heads"),
        (GatedDeltaNet(1, 4, 8, 8, 4, Norm(1e-6)), "it has 4 value heads"),
        (ShortConvolution(16, 3), "it convolves 16 columns"),
    ],
)
def test_recurrent_layers_that_cannot_be_divided_say_why(mixer: Mixer, reason: str) -> None:
    spec = ModelSpec("lfm2", 8, 16, 64, (Layer(mixer, Mlp(6, "silu"), None, None),), None, tied=True)
    with pytest.raises(InvalidRequestError, match=f"tp is 3, and layer 0 of the model cannot be divided so: {reason}; choose another tp"):
        Share(spec, 0, 3)


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
