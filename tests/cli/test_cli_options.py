"""Flags derive from the option fields; what a command samples with when little was said."""

from __future__ import annotations

from dataclasses import fields

import pytest

from linnet import InvalidRequestError, SamplingParams
from linnet.cli.options import model_group, read_value, sampling_group, shell_params
from linnet.model_options import ModelOptions


def test_every_built_option_that_a_command_line_can_express_has_a_flag():
    left_out = {f.name for f in fields(SamplingParams)} - {f.name for f in sampling_group().fields}
    callables = {"logits_processor", "choose"}
    assert left_out == callables | {f.name for f in fields(SamplingParams) if f.metadata["letter"] is not None}
    assert {f.name for f in model_group().fields} <= {f.name for f in fields(ModelOptions)}


@pytest.mark.parametrize(
    ("given", "advice", "expected"),
    [
        ({}, {}, {"temperature": 0.0}),
        ({"seed": 3}, {}, {"temperature": 1.0, "seed": 3}),
        ({"top_k": 5}, {}, {"temperature": 1.0, "top_k": 5}),
        ({"temperature": 0.0, "top_k": 5}, {}, {"temperature": 0.0, "top_k": 5}),
        ({}, {"temperature": 0.6, "top_k": 20}, {"temperature": 0.0}),
        ({}, {"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.1}, {"temperature": 0.0, "repetition_penalty": 1.1}),
        ({}, {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": None}, {"temperature": 0.6, "top_k": 20}),
        ({}, {"do_sample": True}, {"temperature": 1.0}),
        ({"temperature": 0.0, "top_k": 3}, {"do_sample": True, "temperature": 0.6, "top_k": 20}, {"temperature": 0.0, "top_k": 3}),
        ({"top_p": 0.5}, {"do_sample": True, "top_p": 7}, {"temperature": 1.0, "top_p": 0.5}),
    ],
)
def test_given_then_advised_then_greedy(given, advice, expected):
    assert shell_params(given, advice) == SamplingParams(**expected)


def test_bad_advice_names_its_source_and_the_way_round():
    with pytest.raises(InvalidRequestError, match=r"generation_config.json.*top_p is 7.*--top-p"):
        shell_params({}, {"do_sample": True, "top_p": 7})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("max_tokens", "null", None),
        ("ignore_eos", "true", True),
        ("stop", "12", ["12"]),
        ("stop", '["a", "b"]', ["a", "b"]),
        ("stop_token_ids", "[1, 2]", [1, 2]),
        ("logit_bias", '{"3": -1.5}', {3: -1.5}),
    ],
)
def test_values_of_assignments(name, text, value):
    assert read_value(name, text) == value
    assert SamplingParams(**{name: value}) == SamplingParams(**{name: read_value(name, text)})
