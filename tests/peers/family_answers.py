"""llama.cpp's answer to random tokens, for a model of `family_cases.py`: what is kept of it, and what must agree with it."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from comparison import TOKENS, pack, unpack
from family import VOCABULARY
from harness import difference, random_tokens
from numpy.typing import NDArray
from peer import LlamaCpp

from linnet import LLM, SamplingParams

PROMPT = 45  # past every window, and the original context of the scaled models
CONTEXT = 256
PROMPTS_TRIED = 24
ROWS = (20, PROMPT - 1, 60, PROMPT + TOKENS - 1)
"""Rows whose logits are kept: within the prompt, after it, and along the answer."""


def prompt_tokens(number: int) -> list[int]:
    return random_tokens(PROMPT, VOCABULARY, number)


@dataclass(frozen=True)
class FamilyAnswer:
    """Greedy tokens after prompt number `prompt`, how many of them are certain, and logits float32 [rows, vocab]."""

    prompt: int
    greedy: list[int]
    certain: int
    logits: NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        step = float(np.abs(self.logits).max()) / 32767
        return {**vars(self), "step": step, "logits": pack(self.logits, step)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> FamilyAnswer:
        rows = unpack(fields["logits"], len(ROWS), fields["step"])
        return cls(fields["prompt"], fields["greedy"], fields["certain"], rows)


def ask_family(path: Path, allowed: float) -> FamilyAnswer:
    """Asks llama.cpp, by the first prompt after which every token is certain, or else by that with the most. allowed: see
    `family_cases`."""
    peer = LlamaCpp(path, threads=1, context=CONTEXT, flash=False, exact=True)
    try:
        answers = []
        for prompt in range(PROMPTS_TRIED):
            answers.append(_ask(peer, prompt, allowed))
            if answers[-1].certain == TOKENS:
                break
        return max(answers, key=lambda answer: answer.certain)
    finally:
        peer.close()


def _ask(peer: LlamaCpp, prompt: int, allowed: float) -> FamilyAnswer:
    token_ids = prompt_tokens(prompt)
    greedy = list(peer.stream(token_ids, TOKENS))
    logits = peer.logits(token_ids + greedy)
    second, first = np.partition(logits[PROMPT - 1 : -1], -2, axis=1)[:, -2:].T
    # A logit of either side may be off by what is allowed.
    unsure = np.flatnonzero(first - second < 2 * allowed * np.abs(logits).max())
    return FamilyAnswer(prompt, greedy, int(unsure[0]) if unsure.size else TOKENS, logits[list(ROWS)])


def check(path: Path, ops: str, expected: FamilyAnswer, allowed: float) -> None:
    """The same logits, and the same greedy tokens as far as they are certain."""
    greedy, logits = our_answer(path, ops, expected)
    assert difference(logits, expected.logits) < allowed
    assert greedy[: expected.certain] == expected.greedy[: expected.certain]


def our_answer(path: Path, ops: str, expected: FamilyAnswer) -> tuple[list[int], NDArray[np.float32]]:
    """Our greedy tokens after the same prompt, and logits of the same rows of prompt and llama.cpp's answer."""
    with LLM(str(path), ops=ops, kv_dtype="f32", threads=1 if ops == "native" else None) as llm:
        token_ids = prompt_tokens(expected.prompt)
        (answer,) = llm.generate([token_ids], SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True))
        return list(answer.token_ids), llm.logits(token_ids + expected.greedy)[list(ROWS)]


@dataclass(frozen=True)
class Fingerprint:
    """Of a GGUF file: what it says, exactly, and its (float32) numbers, up to the last bits of whoever draws them at random.

    words: a digest of the architecture's metadata, to six digits, and of the names and shapes of tensors. weighed: the sum of all
    numbers, each times a weight that belongs to its place. magnitude: the sum of their magnitudes. What stands for infinity counts 1.
    """

    words: str
    weighed: float
    magnitude: float

    def fits(self, other: Fingerprint) -> bool:
        return self.words == other.words and abs(self.weighed - other.weighed) < 1e-6 * self.magnitude


def fingerprint(path: Path) -> Fingerprint:
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    said = {name: field.contents() for name, field in reader.fields.items() if name.startswith(f"{architecture}.")}
    lines = [f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in said.items()]
    weighed = magnitude = 0.0
    for tensor in reader.tensors:
        lines.append(f"{tensor.name} {tensor.shape.tolist()}")
        values = tensor.data.astype(np.float64).reshape(-1)
        values[values > 1e29] = 1
        weighed += float(values @ np.cos(np.arange(values.size) + zlib.crc32(tensor.name.encode()) % 1000))
        magnitude += float(np.abs(values).sum())
    return Fingerprint(hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16], weighed, magnitude)
