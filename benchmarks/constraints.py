"""What it costs to keep an answer to a schema, a pattern or a grammar: microseconds a token, beside the draw itself.

    python benchmarks/constraints.py                                   # made-up vocabularies of 32,000 and 152,000 tokens
    python benchmarks/constraints.py --vocabulary MODEL                # those of a folder, a tokenizer's file or a .gguf

Every grammar is followed at random, as far as 200 tokens, from a fresh state, several times; a token's time is that of saying what
may come next and of taking what came, with all Python around it. A token may be the first of its kind: what llguidance then works
out is in the figures. Needs: pip install "linnet[constraints]".
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linnet.ops.native import NativeOps
from linnet.text.grammar import Grammar, GrammarCompiler
from linnet.text.tokenizer import Tokenizer

TARGETS = {32_000: 100.0, 152_000: 300.0}
"""Most microseconds a token, on average, for vocabularies of up to so many tokens."""
TOKENS, REPEATS = 200, 5

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 8},
        "address": {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}},
        "score": {"type": "number", "minimum": 0, "maximum": 100},
    },
    "required": ["name", "born", "tags", "address", "score"],
    "additionalProperties": False,
}
GRAMMARS: dict[str, tuple[str, Any]] = {
    "any object": ("json_object", True),
    "a schema": ("json_schema", json.dumps(PERSON)),
    "a list of them": ("json_schema", json.dumps({"type": "array", "items": PERSON, "minItems": 5})),
    "any text in an object": (
        "json_schema",
        '{"type": "object", "properties": {"text": {"type": "string", "minLength": 500}}, "required": ["text"]}',
    ),
    "a pattern": ("regex", r"([A-Z][a-z]{1,12} ){5,40}[0-9]{1,6}\."),
    "free text": ("regex", r"(?s:.){300,}"),
    "a choice": ("choice", tuple(f"answer number {i}" for i in range(500))),
    "a grammar": (
        "grammar",
        'start: sum\nsum: NUMBER | sum "+" sum | "(" sum ")" | NAME "(" sum ("," sum)* ")"\nNUMBER: /[0-9]+/\nNAME: /[a-z_]+/',
    ),
}


@dataclass
class MadeUp:
    """A byte-level vocabulary in which longer tokens are put together of shorter ones, as BPE does."""

    tokens: list[bytes]
    control_ids = special_ids = eos_ids = frozenset[int]()

    @classmethod
    def of(cls, size: int) -> MadeUp:
        draw = random.Random(size)
        tokens = [bytes([byte]) for byte in range(256)]
        common = [bytes([byte]) for byte in b" etaoinshrdlucmfwypvbgkjqxz,.0123456789-_/'\"{}[]():\n"]
        known = {*tokens}
        while len(tokens) < size:
            token = draw.choice(common) + draw.choice(common)
            if token not in known and len(token) <= 16:
                known.add(token)
                tokens.append(token)
                common.append(token)
        return cls(tokens)

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def token_bytes(self, id: int, first: bool = False) -> bytes:
        return self.tokens[id]


def followed(grammar: Grammar, seed: int) -> Iterator[float]:
    """Seconds of each token of an answer at random."""
    draw, state = random.Random(seed), grammar.fork()
    for _ in range(TOKENS):
        began = time.perf_counter()
        allowed = state.allowed()
        spent = time.perf_counter() - began
        ids = np.flatnonzero(np.unpackbits(allowed.view(np.uint8), bitorder="little"))
        if not len(ids):
            return
        token = int(draw.choice(ids))
        began = time.perf_counter()
        state.advance(token)
        yield spent + time.perf_counter() - began
        if state.finished:
            return


def draw_times(vocab: int) -> dict[str, float]:
    """Microseconds of a draw at temperature 1, free and from half of the vocabulary."""
    ops, noise = NativeOps(1), np.random.default_rng(0)
    logits = noise.normal(0, 2, vocab).astype(np.float32)
    half = noise.integers(0, 2**32, -(-vocab // 32), np.uint32)
    times: dict[str, float] = {}
    for name, allowed in (("free", None), ("half", half)):
        began = time.perf_counter()
        for _ in range(50):
            ops.sample(logits, 1.0, 0, 1.0, 0.0, 0.5, allowed)
        times[name] = (time.perf_counter() - began) / 50 * 1e6
    return times


def measured(name: str, vocabulary: Any) -> dict[str, Any]:
    began = time.perf_counter()
    compiler = GrammarCompiler(vocabulary, vocabulary.vocab_size)
    compiler.compile("regex", "a")
    first_ms = (time.perf_counter() - began) * 1e3
    print(f"{name}: {vocabulary.vocab_size} tokens, {first_ms:.0f} ms until the first grammar is compiled")
    rows, everything = {}, list[float]()
    for title, (option, value) in GRAMMARS.items():
        began = time.perf_counter()
        grammar = compiler.compile(option, value)
        compile_ms = (time.perf_counter() - began) * 1e3
        micros = [seconds * 1e6 for seed in range(REPEATS) for seconds in followed(grammar, seed)]
        everything += micros
        median, late = np.quantile(micros, [0.5, 0.99]).tolist()
        row = {"mean_us": float(np.mean(micros)), "median_us": median, "p99_us": late, "worst_us": max(micros)}
        rows[title] = {key: round(figure, 1) for key, figure in row.items()} | {
            "compile_ms": round(compile_ms, 2),
            "tokens": len(micros),
        }
        print(f"    {title}: {rows[title]}")
    draws = draw_times(vocabulary.vocab_size)
    target = next((most for size, most in TARGETS.items() if vocabulary.vocab_size <= size), None)
    mean = float(np.mean(everything))
    met = "" if target is None else f", at most {target:.0f}: {'met' if mean <= target else 'not met'}"
    print(
        f"    all: {mean:.1f} us a token{met}; the draw itself {draws['free']:.0f} us, from half of the vocabulary {draws['half']:.0f} us"
    )
    return {"tokens": vocabulary.vocab_size, "first_ms": first_ms, "mean_us": mean, "target_us": target, "draw_us": draws, "grammars": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", action="append", type=Path, help="a tokenizer in place of the made-up ones; may be repeated")
    given = parser.parse_args().vocabulary
    vocabularies: dict[str, Any] = {path.name: Tokenizer(path) for path in given or ()}
    vocabularies = vocabularies or {f"made up, {size}": MadeUp.of(size) for size in TARGETS}
    print(json.dumps({name: measured(name, vocabulary) for name, vocabulary in vocabularies.items()}))


if __name__ == "__main__":
    main()
