"""llama.cpp's answer to random tokens, for a model of `family_cases.py`: what is kept of it, and what must agree with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from comparison import TOKENS, pack, unpack
from family_cases import allowed
from harness import OP_SETS, Session, continued, difference, load, random_tokens
from numpy.typing import NDArray
from peer import LlamaCpp

from linnet.arch.spec import ModelSpec

PROMPT = 45  # past every window, and the original context of the scaled models
CONTEXT = 256
PROMPTS_TRIED = 24
ROWS = (20, PROMPT - 1, 60, PROMPT + TOKENS - 1)
"""Rows whose logits are kept: within the prompt, after it, and along the answer."""


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


def ask_family(path: Path, spec: ModelSpec) -> FamilyAnswer:
    """Asks llama.cpp, by the first prompt after which every token is certain, or else by that with the most."""
    peer = LlamaCpp(path, threads=1, context=CONTEXT, flash=False, exact=True)
    try:
        answers = []
        for prompt in range(PROMPTS_TRIED):
            answers.append(_ask(peer, prompt, spec))
            if answers[-1].certain == TOKENS:
                break
        return max(answers, key=lambda answer: answer.certain)
    finally:
        peer.close()


def _ask(peer: LlamaCpp, prompt: int, spec: ModelSpec) -> FamilyAnswer:
    token_ids = random_tokens(PROMPT, spec.vocab_size, prompt)
    greedy = list(peer.stream(token_ids, TOKENS))
    logits = peer.logits(token_ids + greedy)
    second, first = np.partition(logits[PROMPT - 1 : -1], -2, axis=1)[:, -2:].T
    # A logit of either side may be off by what is allowed.
    unsure = np.flatnonzero(first - second < 2 * allowed(spec) * np.abs(logits).max())
    return FamilyAnswer(prompt, greedy, int(unsure[0]) if unsure.size else TOKENS, logits[list(ROWS)])


def our_answer(path: Path, op_set: str, expected: FamilyAnswer) -> tuple[list[int], NDArray[np.float32], ModelSpec]:
    """Our greedy tokens after the same prompt, logits of the same rows of prompt and llama.cpp's answer, and the spec."""
    model = load(path, OP_SETS[op_set](1))
    token_ids = random_tokens(PROMPT, model.spec.vocab_size, expected.prompt)
    lengths = [PROMPT + TOKENS] * 2  # one sequence answers by itself, the other is given llama.cpp's answer
    session = Session(model, lengths, prompts=[PROMPT] * 2)
    logits = session.feed({0: token_ids, 1: token_ids + expected.greedy})
    return continued(session, {0: logits[0]}, TOKENS)[0], logits[1][list(ROWS)], model.spec


def check(path: Path, op_set: str, expected: FamilyAnswer) -> None:
    """The same logits, and the same greedy tokens as far as they are certain."""
    greedy, logits, spec = our_answer(path, op_set, expected)
    assert difference(logits, expected.logits) < allowed(spec)
    assert greedy[: expected.certain] == expected.greedy[: expected.certain]


def fingerprint(path: Path) -> float:
    """Sum of the magnitudes of all numbers of all (float32) tensors: the same file, wherever random numbers are drawn."""
    return float(sum(np.abs(tensor.data.astype(np.float64)).sum() for tensor in gguf.GGUFReader(path).tensors))
