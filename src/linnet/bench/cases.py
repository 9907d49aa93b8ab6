"""What to measure: batches of equal requests, the lists that name them, and the KV cache that each needs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from linnet.arch.spec import ModelSpec
from linnet.engine.page_plan import group_bytes, most_of_sequence, shared_out, total_bytes
from linnet.errors import ContextLengthError, InvalidRequestError
from linnet.model_options import ModelOptions, longest_context

MAX_BATCH = 4096
"""The most that `ModelOptions.max_batch` may be."""
MAX_LENGTH = 2**30
MAX_CASES = 1000
CACHE_SHARE = 0.8
"""The part of the memory that the weights leave that a case's KV cache may take; activations and the system need some too."""

_INTEGER = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True)
class Case:
    """`batch_size` requests at once, each a prompt of `input_len` tokens and an answer of `output_len`.

    pages, kv_cache_bytes: KV cache of all of them, in whole pages of each group of layers, as the engine hands them out.
    """

    batch_size: int
    input_len: int
    output_len: int
    pages: tuple[int, ...]
    kv_cache_bytes: int

    def __str__(self) -> str:
        return f"batch {self.batch_size}, input {self.input_len}, output {self.output_len}"


def parse_sizes(option: str, text: str, most: int) -> tuple[int, ...]:
    """The numbers from 1 to `most` in "8", "1,8" or "[1, 8]", each once, in order of appearance.

    Raises InvalidRequestError that names the option and the text.
    """
    items: Any
    if text.strip().startswith("["):
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = []
    else:
        items = [int(item) if _INTEGER.fullmatch(item) else None for item in map(str.strip, text.split(","))]
    if not items or not all(type(item) is int and 1 <= item <= most for item in items):
        shown = text if len(text) <= 100 else f"{text[:100]} ..."
        raise InvalidRequestError(
            f"{option} {shown!r} is no integer, comma list or JSON list of integers from 1 to {most}, such as 8 or 1,8 or [1, 8]"
        )
    return tuple(dict.fromkeys(items))


def make_cases(
    spec: ModelSpec, kv_dtype: str, batch_sizes: Sequence[int], input_lens: Sequence[int], output_lens: Sequence[int]
) -> list[Case]:
    """The product of the three lists, the case with the smallest KV cache first: what runs out of memory comes last.

    Raises ContextLengthError for a case that is longer than the model's positions reach, and InvalidRequestError for more than
    MAX_CASES cases.
    """
    count = len(batch_sizes) * len(input_lens) * len(output_lens)
    if count > MAX_CASES:
        raise InvalidRequestError(f"the lists make {count} cases; the most is {MAX_CASES}")
    longest, each = longest_context(spec), group_bytes(spec, kv_dtype)
    cases = []
    for batch_size, input_len, output_len in product(batch_sizes, input_lens, output_lens):
        if input_len + output_len > longest:
            raise ContextLengthError(
                f"input {input_len} and output {output_len} make {input_len + output_len} tokens, and the model was made for "
                f"{int(longest)}; lower --input-len or --output-len"
            )
        pages = tuple(batch_size * one for one in most_of_sequence(spec, input_len + output_len, ModelOptions.prefill_chunk))
        cases.append(Case(batch_size, input_len, output_len, pages, total_bytes(pages, each)))
    return sorted(cases, key=lambda case: (case.kv_cache_bytes, case.batch_size, case.input_len, case.output_len))


def opening_options(spec: ModelSpec, kv_dtype: str, cases: Sequence[Case]) -> dict[str, Any]:
    """What `LLM` is opened with so that every one of the cases runs as the batch that it is, with no more cache than that takes."""
    context, max_batch = max(case.input_len + case.output_len for case in cases), max(case.batch_size for case in cases)
    most = most_of_sequence(spec, context, ModelOptions.prefill_chunk)
    pages = shared_out(max(case.pages[0] for case in cases), most, max_batch)
    return {
        "context": context,
        "max_batch": max_batch,
        "kv_memory": max(1, total_bytes(pages, group_bytes(spec, kv_dtype))),
        "prefix_cache": False,
    }
