"""What the tests of `LLM` share: the built-in model, its question, its page pool."""

from __future__ import annotations

from pathlib import Path

from linnet import LLM, SamplingParams

TINY = Path(__file__).parents[2] / "models" / "tiny"
QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]
GREEDY = SamplingParams(temperature=0.0, max_tokens=60)


def pool_is_whole(llm: LLM) -> bool:
    return llm._engine.pool.free_count == llm._engine.pool.count
