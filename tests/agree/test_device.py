"""The torch op set on the device that LINNET_TEST_DEVICE names (cuda, mps ...): bfloat16 against float32 on the processor, and what only
a device has. Without the variable, the processor itself stands in."""

from __future__ import annotations

import os

import pytest
import torch

from linnet import LLM, SamplingParams

DEVICE = os.environ.get("LINNET_TEST_DEVICE", "cpu")
TEXT = "Once upon a time there was a bird. The capital of France is Paris. 17 + 25 = 42"
GREEDY = SamplingParams(max_tokens=24, temperature=0.0)


def expected_next(llm: LLM) -> torch.Tensor:
    assert llm.tokenizer is not None
    return torch.from_numpy(llm.logits(llm.tokenizer.encode(TEXT))).double().log_softmax(-1)


@pytest.mark.parametrize(("dtype", "chunk", "allowed"), [("f32", 512, 1e-6), ("bf16", 512, 1e-3), ("bf16", 11, 1e-3)])
def test_what_it_expects_is_what_float32_does(dtype: str, chunk: int, allowed: float) -> None:
    """Mean Kullback-Leibler divergence over the text, read whole and in pieces."""
    with LLM("tiny", ops="torch", device="cpu", kv_dtype="f32") as llm:
        exact = expected_next(llm)
    with LLM("tiny", ops="torch", device=DEVICE, dtype=dtype, prefill_chunk=chunk) as llm:
        found = expected_next(llm)
    assert float((exact.exp() * (exact - found)).sum(-1).mean()) < allowed


@pytest.mark.skipif(DEVICE == "cpu", reason="of a device: graphs, Triton's kernels, pinned memory")
@pytest.mark.parametrize("options", [{}, {"weights": "q4_0"}, {"kv_dtype": "q8_0"}, {"offload": 2}, {"compile": True}], ids=str)
def test_a_batch_answers_as_on_the_processor(options: dict[str, object]) -> None:
    questions = ["What is 17 + 25?", "What is the capital of France?", "What is 3 + 4?"]
    plain = {name: value for name, value in options.items() if name not in ("offload", "compile")}
    answers = []
    for device, given in (("cpu", plain), (DEVICE, options)):
        with LLM("tiny", ops="torch", device=device, dtype="f32", **given) as llm:  # type: ignore[arg-type]
            answers.append([completion.token_ids for completion in llm.generate(questions, GREEDY)])
    assert answers[0] == answers[1]
