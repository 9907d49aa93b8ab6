"""Lists on a command line, and the cases that they make."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet import ContextLengthError, InvalidRequestError
from linnet.bench.cases import make_cases, parse_sizes
from linnet.bench.measure import refuse
from linnet.load.checkpoint import open_checkpoint

SIZES = st.lists(st.integers(1, 4096), min_size=1, max_size=20)
KV_BYTES_A_TOKEN = 4 * 2 * 4 * 32 * 2  # of the built-in model: layers, keys and values, KV heads, head_dim, bytes of f16


@pytest.fixture(scope="module")
def spec():
    checkpoint = open_checkpoint("tiny")
    checkpoint.close()
    return checkpoint.spec


@given(SIZES, st.sampled_from(["", " ", "  "]))
def test_every_way_to_write_a_list(sizes, space):
    expected = tuple(dict.fromkeys(sizes))
    assert parse_sizes("--batch-size", f",{space}".join(map(str, sizes)), 4096) == expected
    assert parse_sizes("--batch-size", space + json.dumps(sizes) + space, 4096) == expected
    if len(sizes) == 1:
        assert parse_sizes("--batch-size", str(sizes[0]), 4096) == expected


@given(st.text(max_size=12))
def test_any_other_text_is_refused_with_the_option_and_the_text(text):
    try:
        sizes = parse_sizes("--input-len", text, 4096)
    except InvalidRequestError as caught:
        error = str(caught)
    else:
        assert all(type(size) is int and 1 <= size <= 4096 for size in sizes)
        assert re.fullmatch(r"[0-9,\[\]\s]+", text)
        return
    assert error.startswith("--input-len ")


@pytest.mark.parametrize(
    "text",
    [*"|,|1,|1,,2|0|-1|1.0|4097|[]|[1|[1.0]|[true]|[[1]]|['1']|{}|null|1 2|0x10|١|1e3|[1e2]|[4097]".split("|"), "[" * 100000, "9" * 100000],
)
def test_refused_lists(text):
    with pytest.raises(InvalidRequestError, match="--output-len") as caught:
        parse_sizes("--output-len", text, 4096)
    assert text[:100] in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True), *[st.lists(st.integers(1, 500), min_size=1, max_size=4)] * 2)
def test_cases_are_the_product_in_ascending_order_of_their_cache(spec, batch_sizes, input_lens, output_lens):
    cases = make_cases(spec, "f16", batch_sizes, input_lens, output_lens)
    assert sorted((c.batch_size, c.input_len, c.output_len) for c in cases) == sorted(
        (b, i, o) for b in batch_sizes for i in input_lens for o in output_lens
    )
    assert [c.kv_cache_bytes for c in cases] == sorted(c.kv_cache_bytes for c in cases)
    for case in cases:  # whole pages of 32 positions for each request
        positions = -(-(case.input_len + case.output_len) // 32) * 32
        assert case.kv_cache_bytes == case.batch_size * positions * KV_BYTES_A_TOKEN


def test_a_case_past_the_model_refuses_all(spec):
    assert spec.context == 1024
    make_cases(spec, "f16", [1], [1000], [24])
    with pytest.raises(ContextLengthError, match=r"input 1000 and output 25 make 1025 tokens.* 1024"):
        make_cases(spec, "f16", [1], [1000, 8], [8, 25])


def test_too_many_cases(spec):
    with pytest.raises(InvalidRequestError, match="1001 cases; the most is 1000"):
        make_cases(spec, "f16", range(1, 1002), [1], [1])


def test_what_does_not_fit_is_refused_with_both_numbers(spec):
    cases = make_cases(spec, "f32", [1, 2, 64], [32], [32])
    available = cases[1].kv_cache_bytes
    (refused,) = refuse(cases, available)
    assert refused.case is cases[2]
    assert str(cases[2].kv_cache_bytes) in refused.error
    assert str(available) in refused.error
    assert refused.generated_tokens_per_s is None
