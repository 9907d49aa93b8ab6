"""What is compared with llama.cpp, and how: prompts, divergence, and logits packed for a JSON file."""

from __future__ import annotations

import base64
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # peer.py serves both
sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("agree", "load")]  # as do the families and the writer of GGUF files
from peer import LlamaCpp

PROMPTS = (
    "<|user|>What is 17 + 25?<|assistant|>",
    "<|user|>How much is 83 minus 47?<|assistant|>",
    "<|user|>I left the drum in the forest.<|assistant|>I will remember that the drum is in the forest.<|end|>"
    "<|user|>Where is the drum?<|assistant|>",
    "Once upon a time,",
)
# The built-in model in types that have no kernels here, as llama.cpp quantized it; record_llama_cpp.py writes it.
WITHOUT_KERNELS_FILE = Path(__file__).with_name("without_kernels.gguf")
TOKENS = 32  # greedy tokens per prompt, end tokens included
ROWS = range(0, TOKENS, 6)  # logits are kept after the prompt and after every sixth token
LARGEST_DIVERGENCE = 1e-4  # mean KL in nats
# Two engines round differently, by a hundredth of a logit or so: below this gap either of two tokens may win.
CERTAIN_GAP = 0.1
STEP = 1 / 1024  # of packed logits; its rounding adds about 4e-8 to a divergence


@dataclass(frozen=True)
class Case:
    """llama.cpp's answer to a prompt: greedy tokens, how many of them are certain, and logits float32 [rows, vocab]
    after tokens `positions` of prompt and answer."""

    prompt: str
    token_ids: list[int]
    greedy: list[int]
    certain: int
    positions: list[int]
    logits: NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "logits": pack(self.logits)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Case:
        return cls(**{**fields, "logits": unpack(fields["logits"], len(fields["positions"]))})


def ask(peer: LlamaCpp, prompt: str) -> Case:
    """Runs a prompt in llama.cpp."""
    token_ids = peer.tokenize(prompt, special=True)
    greedy = list(peer.stream(token_ids, TOKENS))
    logits = peer.logits(token_ids + greedy)
    after_prompt = logits[len(token_ids) - 1 : -1]
    best, second = np.sort(after_prompt, axis=1)[:, [-1, -2]].T
    unsure = np.flatnonzero(best - second < CERTAIN_GAP)
    positions = [len(token_ids) - 1 + row for row in ROWS]
    certain = int(unsure[0]) if unsure.size else TOKENS
    return Case(prompt, token_ids, greedy, certain, positions, logits[positions])


def divergence(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """Mean over rows of KL(expected || actual) in nats; logits [rows, vocab]."""
    p, q = _log_softmax(expected), _log_softmax(actual)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))


def pack(logits: NDArray[np.float32], step: float = STEP) -> str:
    """Base64 of little-endian int16 multiples of `step`."""
    steps = np.rint(logits / step)
    assert np.abs(steps).max() < 2**15
    return base64.b64encode(steps.astype("<i2").tobytes()).decode()


def unpack(text: str, rows: int, step: float = STEP) -> NDArray[np.float32]:
    """The inverse of `pack`: float32 [rows, vocab]."""
    return np.frombuffer(base64.b64decode(text), "<i2").reshape(rows, -1).astype(np.float32) * np.float32(step)
