"""What peers.py measures: the rows of its table, and what Linnet sets out to reach in each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LINNET, LLAMA_CPP, CTRANSLATE2, F32, BF16 = "linnet", "llama.cpp", "ctranslate2", "transformers-f32", "transformers-bf16"
ENGINES = (LINNET, LLAMA_CPP, CTRANSLATE2, F32, BF16)

ROUNDS = 6
"""Measurements that continue the same sequences, before new ones are begun."""

Kind = Literal["prompt", "decode", "depth", "start"]


@dataclass(frozen=True)
class Row:
    """One comparison.

    kind: prompt, a prompt of `length` tokens and its first answer; decode, `batch` sequences growing together around `length` tokens;
    depth, decode at `length` against decode at 100 in the same engine; start, from the start of the process to the first token.
    shape, type: of the file, or of the built-in model where shape is "tiny". steps: tokens of each sequence a measurement.
    targets: by the ratio's name in the output, the least it should be, or the most of the ratios of times in depth and start.
    """

    name: str
    kind: Kind
    shape: str
    type: str
    engines: tuple[str, ...]
    targets: dict[str, float]
    batch: int = 1
    length: int = 100
    steps: int = 24

    @property
    def file(self) -> str:
        return f"{self.shape}-{self.type}.gguf"

    @property
    def is_time(self) -> bool:
        """Whether less is better."""
        return self.kind in ("depth", "start")

    @property
    def in_caches(self) -> bool:
        """Whether the weights stay in the processor's caches, so that memory's bandwidth is no limit."""
        return self.shape == "tiny"

    @property
    def begin(self) -> int:
        """Tokens that a sequence has when its measurements begin, so that `length` lies in the middle of them."""
        return self.length - self.steps * ROUNDS // 2

    @property
    def context(self) -> int:
        """Most tokens that a sequence comes to."""
        return self.length + self.steps * ROUNDS // 2 + 8


def model_path(engine: str, row: Row, folder: Path) -> str:
    """What an engine opens for a row: a GGUF file, its conversion, or the built-in model."""
    if row.shape == "tiny" and engine == LINNET:
        return "tiny"
    if engine == CTRANSLATE2:
        return str(folder / f"{row.shape}.ct2")
    if engine.startswith("transformers"):
        return str(folder / f"{row.shape}.hf")
    return str(folder / row.file)


def over(peer: str) -> str:
    """The name of the ratio of Linnet's speed to a peer's."""
    return f"linnet / {peer}"


BANDWIDTH = "share of read bandwidth"
DEPTH = "linnet, time at 4000 / at 100"
START = "linnet, process start to first token / llama.cpp, load and first token"

_BOTH = (LINNET, LLAMA_CPP)
_INT8 = (*_BOTH, CTRANSLATE2)
_FLOAT = (*_BOTH, F32, BF16)
_NEAR = {over(LLAMA_CPP): 1.5}

ROWS = (
    Row("tg-q4_0", "decode", "tinyllama", "q4_0", _BOTH, {**_NEAR, BANDWIDTH: 0.8}),
    Row("tg-q8_0", "decode", "tinyllama", "q8_0", _INT8, _NEAR),
    Row("tg-q4_k_m", "decode", "tinyllama", "q4_k_m", _BOTH, _NEAR),
    Row("tg-f16", "decode", "tinyllama", "f16", _FLOAT, {over(LLAMA_CPP): 1.15}),
    Row("pp512-q4_0", "prompt", "tinyllama", "q4_0", _INT8, {over(LLAMA_CPP): 2.5, over(CTRANSLATE2): 1.45}, length=512),
    Row("pp512-q8_0", "prompt", "tinyllama", "q8_0", _BOTH, {over(LLAMA_CPP): 1.8}, length=512),
    Row("pp512-q4_k_m", "prompt", "tinyllama", "q4_k_m", _BOTH, {over(LLAMA_CPP): 2.0}, length=512),
    Row("pp512-f16", "prompt", "tinyllama", "f16", _FLOAT, {over(LLAMA_CPP): 1.15}, length=512),
    Row("tg8-q4_0", "decode", "tinyllama", "q4_0", _INT8, {over(LLAMA_CPP): 2.8}, batch=8),
    Row("tg16-q4_0", "decode", "tinyllama", "q4_0", _INT8, {over(LLAMA_CPP): 2.3}, batch=16),
    Row("tiny", "decode", "tiny", "f16", _BOTH, _NEAR, length=512, steps=96),
    Row("depth", "depth", "tinyllama", "q4_0", _BOTH, {DEPTH: 1.35}, length=4000, steps=16),
    Row("start", "start", "tinyllama", "q4_0", _BOTH, {START: 0.8}),
    Row("qwen-tg", "decode", "qwen2.5-0.5b", "q8_0", _BOTH, {over(LLAMA_CPP): 1.4}),
    Row("qwen-pp512", "prompt", "qwen2.5-0.5b", "q8_0", _BOTH, {over(LLAMA_CPP): 1.4}, length=512),
)
