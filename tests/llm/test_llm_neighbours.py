"""What cannot be honoured is refused at once and by name, and a stream beside it is not disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from llm_cases import pool_is_whole

from linnet import (
    LLM,
    CancelledError,
    ClosedError,
    ContextLengthError,
    DeadlineError,
    InvalidRequestError,
    LinnetError,
    OutOfMemoryError,
    SamplingParams,
)

NEIGHBOUR = SamplingParams(max_tokens=40, temperature=0.8, seed=11, ignore_eos=True)


def params(**options: Any) -> Callable[[LLM], object]:
    return lambda llm: llm.submit("Hello", SamplingParams(**{"max_tokens": 9, **options})).result()


def cancelled_twice(llm: LLM) -> object:
    handle = llm.submit("Hello", NEIGHBOUR)
    next(iter(handle))
    handle.cancel()
    handle.cancel()
    return handle.result()


def failing_hook(*arguments: object) -> object:
    raise InvalidRequestError("a hook of the caller's own")


BAD: dict[str, tuple[Callable[[LLM], object], type[Exception], str]] = {
    "a prompt longer than the context": (lambda llm: llm.submit([5] * 300), ContextLengthError, "300 tokens and the context holds 256"),
    "an answer longer than the context": (params(max_tokens=300), ContextLengthError, "together 30"),
    "more than the cache can hold": (
        lambda llm: llm.submit([5] * 200, SamplingParams(max_tokens=50)),
        OutOfMemoryError,
        "needs KV cache for 250 tokens and the cache holds 192",
    ),
    "an empty prompt": (lambda llm: llm.submit([]), InvalidRequestError, "empty"),
    "tokens that are none": (lambda llm: llm.submit([5, 10**9]), InvalidRequestError, "token id 1000000000"),
    "negative tokens": (lambda llm: llm.submit([-1]), InvalidRequestError, "-1"),
    "a prompt of another type": (lambda llm: llm.submit(3.5), InvalidRequestError, "3.5"),  # type: ignore[arg-type]
    "a negative budget": (params(max_tokens=-1), InvalidRequestError, "max_tokens is -1"),
    "a negative time": (params(timeout=-0.5), InvalidRequestError, "timeout is -0.5"),
    "no time": (params(timeout=0), DeadlineError, "within its timeout"),
    "a seed of 65 bits": (params(seed=2**64), InvalidRequestError, "seed is 18446744073709551616"),
    "a negative seed": (params(seed=-1), InvalidRequestError, "seed is -1"),
    "no samples": (params(n=0), InvalidRequestError, "n is 0"),
    "too many samples": (params(n=10**6), InvalidRequestError, "n is 1000000"),
    "a temperature that is none": (params(temperature=float("nan")), InvalidRequestError, "temperature is nan"),
    "a priority past its range": (params(priority=10**9), InvalidRequestError, "priority is"),
    "no tokens left to choose": (params(logit_bias={i: float("-inf") for i in range(10)}), InvalidRequestError, "logit_bias"),
    "a hook that fails": (params(logits_processor=failing_hook), InvalidRequestError, "of the caller's own"),
    "a hook that gives nonsense": (params(choose=lambda logits: "x"), InvalidRequestError, "choose gave 'x'"),
    "cancelled twice": (cancelled_twice, CancelledError, "was cancelled"),
}


@pytest.fixture(scope="module")
def small() -> Iterator[LLM]:
    """32 pages, of which a session holds so many that a request of the whole context has too few."""
    with LLM("tiny", context=256, max_batch=4) as llm:
        with llm.session() as session:
            session.reset(batch=26, capacity=32)
            yield llm
        assert pool_is_whole(llm)


@pytest.mark.parametrize("case", BAD)
def test_a_neighbour_is_not_disturbed(small: LLM, case: str) -> None:
    use, error, message = BAD[case]
    expected = small.generate("Once upon a time", NEIGHBOUR)[0].token_ids
    neighbour = small.submit("Once upon a time", NEIGHBOUR)
    chunks = iter(neighbour)
    for _ in range(5):
        next(chunks)
    with pytest.raises(error, match=message):
        use(small)
    assert neighbour.result()[0].token_ids == expected
    assert small.engine.pool.free_count == 6


def test_after_close_everything_is_refused() -> None:
    llm = LLM("tiny")
    handle = llm.submit("Hello", NEIGHBOUR)
    chunks = iter(handle)
    next(chunks)
    llm.close()
    for use in (lambda: llm.submit("Hello"), lambda: llm.generate("Hello"), lambda: next(chunks), handle.result, llm.session, llm.drain):
        with pytest.raises(ClosedError):
            use()
    handle.cancel()
    assert llm.counters().outcomes["failed"] == 1
    llm.close()


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("ops", ["reference", "native", "torch"])
@pytest.mark.parametrize("kv_dtype", ["f16", "f32"])
def test_a_token_that_is_no_number_to_the_model(ops: str, kv_dtype: str, window: int | None) -> None:
    """A request that meets it fails. Others do not, in one batch with it, on pages that it had, and where they begin as it does."""
    random, broken = np.random.default_rng(0), 63
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = {"model_type": "mistral", "vocab_size": 64, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "sliding_window": window}
    square, narrow = (32, 32), (16, 32)
    shapes = {"self_attn.q_proj": square, "self_attn.k_proj": narrow, "self_attn.v_proj": narrow, "self_attn.o_proj": square}
    shapes |= {f"mlp.{name}_proj": square for name in ("gate", "up", "down")} | {
        "input_layernorm": (32,),
        "post_attention_layernorm": (32,),
    }
    whole = {f"model.layers.{layer}.{name}.weight": shape for layer in (0, 1) for name, shape in shapes.items()}
    whole |= {"model.embed_tokens.weight": (64, 32), "model.norm.weight": (32,), "lm_head.weight": (64, 32)}
    weights = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in whole.items()}
    weights["model.embed_tokens.weight"][broken] = np.nan
    beginning = random.integers(0, 60, 40).tolist()
    prompts = [[*beginning, *random.integers(0, 60, count).tolist()] for count in (0, 3, 30)] + [[7]]
    params = SamplingParams(max_tokens=20, temperature=0.0, logit_bias={broken: -100.0})
    options: Any = {"ops": ops, "kv_dtype": kv_dtype, "max_batch": 8, "prefill_chunk": 64}
    with LLM.from_state_dict({**config, **sizes}, weights, **options) as alone:
        expected = [alone.generate([prompt], params)[0].token_ids for prompt in prompts]
    with LLM.from_state_dict({**config, **sizes}, weights, **options) as llm:
        for _ in range(2):
            failing = [llm.submit([*beginning, broken, *more], params) for more in ([], beginning[:5])]
            handles = [llm.submit(prompt, params) for prompt in prompts]
            for handle in failing:
                with pytest.raises(LinnetError, match="not finite"):
                    handle.result()
            assert [handle.result()[0].token_ids for handle in handles] == expected
        assert pool_is_whole(llm)
