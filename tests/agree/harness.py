"""Runs `forward` by itself, without the engine, on any op set; and the rules by which two sets of logits agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from linnet.arch.spec import ModelSpec
from linnet.engine.page_plan import layer_groups
from linnet.forward import forward
from linnet.load.checkpoint import open_checkpoint
from linnet.ops.base import PAGE_SIZE, Batch, Ops
from linnet.ops.native import NativeOps
from linnet.ops.reference import ReferenceOps
from linnet.ops.torch.ops import TorchOps
from linnet.tensors import TensorType
from linnet.weights import Weights

Logits = NDArray[np.float32]

OP_SETS: dict[str, Callable[[int], Ops]] = {
    "reference": lambda threads: ReferenceOps(),
    "native": lambda threads: NativeOps(threads),
    "torch": lambda threads: TorchOps(torch.device("cpu"), torch.float32),
}
"""Every op set, made for a number of threads."""

ALLOWED = {"reference": 1e-4, "native": 1e-3, "torch": 1e-4}
"""Largest difference from transformers in float32, as a share of the largest logit."""

ALLOWED_QUANTIZED = {"reference": 1e-4, "native": 0.04, "torch": 1e-4}
"""The same where matrices are quantized. Native kernels then round activations to 8 bits, and so does their oracle; but now
and then a last bit decides which way, after which everything that follows differs by such roundings."""

EXCUSED = 0.1
"""Share of tokens that may have another expert where matrices are quantized and activations rounded."""

ROUNDS_ACTIVATIONS = {"reference": False, "native": True, "torch": False}


@dataclass(frozen=True)
class Model:
    """A model ready to run on one op set."""

    ops: Ops
    spec: ModelSpec
    weights: Weights


class Session:
    """Sequences in progress, each with scattered pages of its own, as an engine would hold them.

    lengths: the most positions each sequence will have; length-dependent rotary scaling is fixed to them.
    prompts: how many of them are its prompt; None: all.
    """

    def __init__(self, model: Model, lengths: list[int], kv_dtype: str = "f32", prompts: list[int] | None = None) -> None:
        self.model, self.lengths = model, np.array(lengths, np.int32)
        self.prompts = self.lengths if prompts is None else np.array(prompts, np.int32)
        self.done = [0] * len(lengths)
        self.last = [-1] * len(lengths)
        counts = [-(-length // PAGE_SIZE) for length in lengths]
        groups, random = layer_groups(model.spec), np.random.default_rng(sum(counts))
        self.table = np.full((len(groups.windows), len(lengths), max(counts)), -1, np.int32)
        for table in self.table:
            shuffled = random.permutation(sum(counts)).astype(np.int32)
            for row, pages in zip(table, np.split(shuffled, np.cumsum(counts)[:-1]), strict=True):
                row[: len(pages)] = pages
        model.ops.allocate_cache(model.spec, [sum(counts)] * len(self.table), kv_dtype, groups.of_layer)
        self.step = model.ops.stepper(model.spec, partial(forward, model.ops, model.spec, model.weights))

    def feed(self, pieces: dict[int, list[int]], last_only: bool = False) -> dict[int, Logits]:
        """One step: the next tokens of some sequences. Logits of each, [tokens, vocab], or [1, vocab] for the last alone."""
        counts = [len(tokens) for tokens in pieces.values()]
        ends = np.cumsum(counts)
        positions = [np.arange(self.done[i], self.done[i] + len(tokens)) for i, tokens in pieces.items()]
        batch = Batch(
            tokens=np.concatenate([np.array(tokens, np.int32) for tokens in pieces.values()]),
            positions=np.concatenate(positions).astype(np.int32),
            previous=np.concatenate([np.array([self.last[i], *tokens[:-1]], np.int32) for i, tokens in pieces.items()]),
            sequence=np.repeat(list(pieces), counts).astype(np.int32),
            page_table=self.table,
            rope_lengths=self.lengths,
            prompt_lengths=self.prompts,
            rows=(ends - 1 if last_only else np.arange(ends[-1])).astype(np.int32),
        )
        logits = self.step(batch)
        assert logits.dtype == np.float32
        assert logits.shape == (len(batch.rows), self.model.spec.vocab_size)
        for i, tokens in pieces.items():
            self.done[i] += len(tokens)
            self.last[i] = tokens[-1]
        cuts = np.arange(1, len(counts)) if last_only else ends[:-1]
        # Copies: what an op set returns may be its own buffer.
        return {i: part.copy() for i, part in zip(pieces, np.split(logits, cuts), strict=True)}


def load(path: Path, ops: Ops, target: TensorType | None = None) -> Model:
    """The checkpoint at `path`, its matrices re-encoded as `target` if one is given."""
    checkpoint = open_checkpoint(path)
    return Model(ops, checkpoint.spec, checkpoint.assemble(ops, target))


def logits_of(model: Model, tokens: list[int], kv_dtype: str = "f32", chunk: int | None = None) -> Logits:
    """Logits [tokens, vocab] of one sequence, fed whole or in pieces of `chunk`."""
    session, chunk = Session(model, [len(tokens)], kv_dtype), chunk or len(tokens)
    return np.concatenate([session.feed({0: tokens[i : i + chunk]})[0] for i in range(0, len(tokens), chunk)])


def greedy(model: Model, prompts: list[list[int]], count: int, kv_dtype: str = "f32") -> list[list[int]]:
    """`count` tokens after each prompt, all sequences together in every step."""
    session = Session(model, [len(prompt) + count for prompt in prompts], kv_dtype, [len(prompt) for prompt in prompts])
    return continued(session, session.feed(dict(enumerate(prompts)), last_only=True), count)


def continued(session: Session, logits: dict[int, Logits], count: int) -> list[list[int]]:
    """`count` greedy tokens of every sequence of a session, of which the last step's logits are given."""
    tokens: list[list[int]] = [[] for _ in logits]
    for made in range(1, count + 1):
        for i, rows in logits.items():
            tokens[i].append(session.model.ops.sample(rows[-1], 0.0, 0, 1.0, 0.0, 0.0))
        if made < count:
            logits = session.feed({i: [made[-1]] for i, made in enumerate(tokens)}, last_only=True)
    return tokens


def random_tokens(count: int, vocabulary: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng([seed, count]).integers(0, vocabulary, count)]


def difference(ours: Logits, oracle: NDArray[Any]) -> float:
    """Largest difference, as a share of the oracle's largest logit."""
    return float(np.abs(ours.astype(np.float64) - oracle).max() / np.abs(oracle).max())


def assert_agreement(ours: Logits, oracle: NDArray[Any], allowed: float, excused: float = 0.0) -> None:
    """Asserts that no logit is further off than `allowed`, a share of the largest, and that the tokens agree (see below); but for
    a share of `excused` rows, where a rounding may have chosen another expert."""
    errors = np.abs(ours.astype(np.float64) - oracle).max(axis=1) / np.abs(oracle).max()
    near = errors < allowed
    assert near.mean() >= 1 - excused, f"rows {np.flatnonzero(~near).tolist()} are off by {errors[~near].tolist()}"
    assert teacher_forced_agreement(oracle[near], ours[near], allowed * float(np.abs(oracle).max())) > 0


def teacher_forced_agreement(oracle: NDArray[Any], ours: Logits, allowed: float) -> float:
    """Asserts that both sides, given the same tokens, put the same token first wherever that is not a matter of rounding:
    where the oracle's first two logits lie more than four times `allowed` (an error of one logit) apart.

    oracle, ours: [rows, vocab]. Gives the share of rows on which the rule had something to say.
    """
    second, first = np.partition(oracle, -2, axis=1)[:, -2:].T
    clear = first - second > 4 * allowed
    wrong = np.flatnonzero(clear & (oracle.argmax(axis=1) != ours.argmax(axis=1)))
    assert not len(wrong), (
        f"another top token at rows {wrong.tolist()}, where the gap is {(first - second)[wrong].tolist()} of {4 * allowed}"
    )
    return float(clear.mean())
