"""Every option is checked when it is given."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.engine.params import SamplingParams
from linnet.errors import InvalidRequestError


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


NUMERIC = [f.name for f in fields(SamplingParams) if f.metadata["low"] is not None and f.metadata["letter"] is None]


def test_defaults_are_legal_and_survive_copies() -> None:
    params = SamplingParams()
    assert SamplingParams(**{f.name: getattr(params, f.name) for f in fields(params)}) == params
    full = SamplingParams(stop="x", logit_bias={3: 1}, seed=5, temperature=1)
    for other in (copy.deepcopy(full), pickle.loads(pickle.dumps(full)), replace(full)):
        assert other == full
    assert replace(full, n=3).n == 3


def test_values_become_plain_types() -> None:
    params = SamplingParams(
        temperature=np.float32(0.5), top_k=np.int64(3), stop=["a"], stop_token_ids=np.array([1, 2]), logit_bias={np.int64(3): np.float32(2)}
    )
    assert type(params.temperature) is float
    assert type(params.top_k) is int
    assert params.stop == ("a",)
    assert params.stop_token_ids == (1, 2)
    assert params.logit_bias == {3: 2.0}
    assert SamplingParams(temperature=0).temperature == 0.0
    assert SamplingParams(stop="END").stop == ("END",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature is -1.0; it must be between 0.0 and 100.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": 10**400}, "temperature is inf"),
        ({"temperature": True}, "temperature is True; it must be a number"),
        ({"temperature": None}, "temperature is None"),
        ({"temperature": "1"}, "temperature is '1'"),
        ({"top_p": 1.01}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"top_k": 1.0}, "top_k is 1.0; it must be an integer"),
        ({"top_k": False}, "top_k is False"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens is 5, more than max_tokens, which is 4"),
        ({"n": 0}, "n is 0"),
        ({"n": 2**31}, "n is 2147483648"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"ignore_eos": 1}, "ignore_eos is 1; it must be True or False"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"stop": ["a"] * 65}, "stop has 65 texts; the most is 64"),
        ({"stop": [str(i) for i in range(10_000)]}, "stop has 10000 texts; the most is 64"),
        ({"stop": ""}, "stop holds a text of 0 characters"),
        ({"stop": ["a" * 1025]}, "stop holds a text of 1025 characters"),
        ({"stop": [b"a"]}, "stop holds b'a'"),
        ({"stop": 5}, "stop is 5; it must be a list of texts"),
        ({"stop": None}, "stop is None"),
        ({"stop_token_ids": 5}, "stop_token_ids is 5"),
        ({"stop_token_ids": [-1]}, "token id -1"),
        ({"stop_token_ids": ["1"]}, "'1'"),
        ({"logit_bias": [1]}, "logit_bias is"),
        ({"logit_bias": {"1": 1.0}}, "token id in logit_bias is '1'"),
        ({"logit_bias": {1: math.nan}}, r"logit_bias\[1\] is nan"),
        ({"logit_bias": {1: math.inf}}, r"logit_bias\[1\] is inf"),
        ({"logits_processor": 3}, "logits_processor is 3; it must be callable"),
        ({"adapter": "a"}, "adapter is not built yet"),
        ({"num_beams": 0}, "num_beams is 0; it must be between 1 and 256"),
        ({"num_beams": 2.0}, "num_beams is 2.0; it must be an integer"),
        ({"num_beams": 2, "n": 3}, "n is 3, and num_beams 2 give so many answers at most"),
        ({"num_beams": 2, "choose": len}, "choose takes one token, and num_beams is 2"),
        ({"num_beams": 2, "speculation": "lookup"}, "speculation is 'lookup', and beams are not guessed ahead"),
        ({"num_beams": 2, "early_stopping": "Never"}, "early_stopping is 'Never'; it must be one of False, True, never"),
        ({"num_beams": 2, "early_stopping": 1}, "early_stopping is 1; it must be True, False or a text"),
        ({"num_beams": 2, "length_penalty": 21}, "length_penalty is 21.0; it must be between -20.0 and 20.0"),
        ({"early_stopping": "never"}, "early_stopping is 'never' and num_beams 1, so that no beams are compared"),
        ({"length_penalty": 0}, "length_penalty is 0.0 and num_beams 1, so that no beams are compared"),
        ({"json_schema": 5}, "json_schema is 5; it must be an object, or the JSON text of one"),
        ({"json_schema": "[1]"}, "json_schema is '\\[1\\]'; it must be an object"),
        ({"json_schema": True}, "json_schema is True; it must be an object"),
        ({"json_schema": '{"a": }'}, "json_schema is not JSON: Expecting value: line 1 column 7"),
        ({"json_schema": {"const": math.nan}}, "json_schema holds what JSON cannot"),
        ({"json_schema": {"const": {1, 2}}}, "json_schema holds what JSON cannot"),
        ({"json_schema": {"const": "\ud800"}}, "json_schema holds what JSON cannot"),
        ({"json_schema": nested(5_000)}, "json_schema is nested too deeply"),
        ({"json_schema": '{"items":' * 50_000 + "{}" + "}" * 50_000}, "json_schema is nested too deeply"),
        ({"json_schema": {"const": "x" * 2**19}}, "json_schema has 524301 characters; the most is 524288"),
        ({"json_object": 1}, "json_object is 1; it must be True or False"),
        ({"regex": b"a"}, "regex is b'a'; it must be a text"),
        ({"regex": "a" * (2**19 + 1)}, "regex has 524289 characters; the most is 524288"),
        ({"choice": []}, "choice is empty; give at least one text"),
        ({"choice": [""]}, "choice holds a text of 0 characters"),
        ({"choice": list(map(str, range(4097)))}, "choice has 4097 texts; the most is 4096"),
        ({"grammar": {}}, "grammar is {}; it must be a text"),
        ({"regex": "a", "choice": ["a"], "json_object": True}, "json_object and regex and choice are given, and one answer"),
        ({"priority": 1001}, "priority is 1001; it must be between -1000 and 1000"),
        ({"timeout": -0.5}, "timeout is -0.5; it must be at least 0"),
        ({"temprature": 1}, "no option 'temprature'; did you mean temperature?"),
        ({"max_new_tokens": 1}, "no option 'max_new_tokens'; did you mean max_tokens?"),
        ({"zzz": 1}, "no option 'zzz'; the options are max_tokens, "),
    ],
)
def test_refusals_name_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        SamplingParams(**options)


@given(name=st.sampled_from(NUMERIC), value=st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.none(), st.binary()))
def test_whatever_is_given_is_legal_or_refused_cleanly(name: str, value: Any) -> None:
    try:
        kept = getattr(SamplingParams(**{name: value}), name)
    except InvalidRequestError as error:
        assert name in str(error)  # noqa: PT017
        return
    assert kept == value
    if kept is not None:
        low, high = (next(f for f in fields(SamplingParams) if f.name == name).metadata[k] for k in ("low", "high"))
        assert kept >= low
        assert high is None or kept <= high


def test_what_constrains_an_answer_is_kept_as_text() -> None:
    schema = {"type": "object", "properties": {"ключ": {"const": 1.5}, "a": {}}}
    given = SamplingParams(json_schema=schema)
    assert given.constraint == ("json_schema", '{"type": "object", "properties": {"ключ": {"const": 1.5}, "a": {}}}')
    assert replace(given, n=2).constraint == SamplingParams(json_schema=json.dumps(schema)).constraint == given.constraint
    assert SamplingParams(choice="yes").constraint == ("choice", ("yes",))
    assert SamplingParams(json_object=True).constraint == ("json_object", True)
    assert SamplingParams(json_object=False, regex="").constraint == ("regex", "")
    assert SamplingParams().constraint is None
    circle: dict[str, Any] = {}
    circle["items"] = circle
    with pytest.raises(InvalidRequestError, match="json_schema holds what JSON cannot: Circular reference"):
        SamplingParams(json_schema=circle)


def test_every_option_is_documented() -> None:
    for f in fields(SamplingParams):
        assert len(f.metadata["help"]) > 10, f.name
