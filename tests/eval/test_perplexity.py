"""Perplexity: transformers' own, by the loop of its guide; and that windows and batches change nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from linnet import LLM, InvalidRequestError
from linnet.eval import compute_perplexity

TINY = Path(__file__).parents[2] / "models" / "tiny"
TEXT = "The capital of Italy is Rome. Once upon a time there was a linnet that sang: 12 + 7 = 19, naïve as it was. " * 8


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", weights="f32", kv_dtype="f32", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def theirs() -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


def losses_of_transformers(model: Any, ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """Sum and count, as in "Perplexity of fixed-length models": what an earlier window scored is context in the next."""
    total, count, before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        inputs = torch.tensor([ids[begin:end]])
        labels = inputs.clone()
        labels[:, : -(end - before)] = -100
        with torch.no_grad():
            loss = model(inputs, labels=labels).loss.item()
        scored = int((labels[:, 1:] != -100).sum())
        total, count, before = total + loss * scored, count + scored, end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 63), (50, 7), (1024, 512)])
def test_is_that_of_transformers(llm: LLM, theirs: Any, window: int, stride: int) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode(TEXT)
    loss, count = losses_of_transformers(theirs, ids, window, stride)
    found = compute_perplexity(llm, TEXT, window=window, stride=stride)
    assert found.tokens == count == len(ids) - 1
    assert found.perplexity == pytest.approx(math.exp(loss / count), rel=1e-4)
    assert found.loss == pytest.approx(loss, rel=1e-4)


def test_per_byte(llm: LLM) -> None:
    assert llm.tokenizer is not None
    found = compute_perplexity(llm, TEXT)
    first = llm.tokenizer.token_bytes(llm.tokenizer.encode(TEXT)[0], first=True)
    assert found.bytes == len(TEXT.encode()) - len(first)  # nothing predicts the first token
    assert found.bits_per_byte == pytest.approx(found.loss / found.bytes / math.log(2))
    assert found.byte_perplexity == pytest.approx(2**found.bits_per_byte)


@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(8, 120), min_size=1, max_size=3), window=st.integers(2, 80), share=st.floats(0, 1))
def test_each_token_is_scored_once_by_the_first_window_that_holds_it(llm: LLM, lengths: list[int], window: int, share: float) -> None:
    stride = 1 + int(share * (window - 2))
    texts = [TEXT[:length] for length in lengths]
    calls: list[tuple[int, int]] = []
    found = compute_perplexity(llm, texts, window=window, stride=stride, progress=lambda *call: calls.append(call))
    assert llm.tokenizer is not None
    loss = 0.0
    for text in texts:
        ids = llm.tokenizer.encode(text)
        seen: dict[int, np.ndarray] = {}  # logits of the window that begins there
        for position in range(1, len(ids)):
            begin = 0 if position < window else -(-(position + 1 - window) // stride) * stride
            if begin not in seen:
                seen[begin] = llm.logits(ids[begin : begin + window]).astype(np.float64)
            logits = seen[begin][position - begin - 1]
            loss += np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[position]]
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.tokens == sum(len(llm.tokenizer.encode(text)) - 1 for text in texts)
    assert [done for done, _ in calls] == list(range(calls[-1][1] + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window is 1; it must be from 2 to the context, 1024"),
        ({"window": 2000}, "window is 2000; it must be from 2 to the context, 1024"),
        ({"window": 8, "stride": 8}, "stride is 8 and window 8; the stride must be from 1 to the window less one"),
        ({"stride": 0}, "stride is 0"),
    ],
)
def test_windows_that_cannot_be(llm: LLM, options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        compute_perplexity(llm, TEXT, **options)  # type: ignore[arg-type]


def test_nothing_to_score(llm: LLM) -> None:
    with pytest.raises(InvalidRequestError, match="text 1 is one token"):
        compute_perplexity(llm, ["two words", "a"])
    with pytest.raises(InvalidRequestError, match="there are no texts"):
        compute_perplexity(llm, [])
