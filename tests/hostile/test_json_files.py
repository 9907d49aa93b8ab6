"""The JSON files of a folder: nesting, size, values that no model has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hostile_files import hf_config, tokenizer_config, tokenizer_json, write_folder

JSON_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
TEXTS = {
    "nothing": b"",
    "lists 100,000 deep": b"[" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "objects 950 deep": b'{"a":' * 950 + b"1" + b"}" * 950,
    "objects 200 deep": b'{"eos_token_id":' * 200 + b"1" + b"}" * 200,
    "a list": b"[1]",
    "a number": b"7",
    "null": b"null",
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "a key twice": b'{"model_type": "llama", "model_type": "llama"}',
    "a control character": b'{"a": "\x01\n"}',
    "two objects": b"{} {}",
    "half an object": b'{"a": ',
    "a number of 5,000 digits": b'{"eos_token_id": ' + b"1" * 5000 + b"}",
}


@pytest.mark.parametrize("file", JSON_FILES)
@pytest.mark.parametrize("case", TEXTS)
def test_not_the_json_that_was_expected(case, file, refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    (folder / file).write_bytes(TEXTS[case])
    refused(folder, ".", action="use", names=file)


@pytest.mark.parametrize("file", JSON_FILES)
def test_a_sparse_file_of_two_gigabytes(file, refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    with (folder / file).open("wb") as out:
        out.truncate(2**31)
    refused(folder, "bytes", action="use", names=file)


@pytest.mark.parametrize("file", JSON_FILES)
def test_more_values_than_a_model_has(file, refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    (folder / file).write_bytes(b'{"a":[' + b"[]," * 10_000_000 + b"[]]}")
    refused(folder, ".", action="use", names=file)


NAN, INFINITY = float("nan"), float("inf")
CONFIGS: dict[str, list[Any]] = {
    "model_type": ["", "x" * 10**6, "\x1b[2J\n", 7, None, [], {}],
    "hidden_size": [0, -1, 2**40, 2**31, 33, 32.0, "32", True, None, [32], {}, NAN, INFINITY, 10**4000],
    "num_hidden_layers": [0, -1, 10**9, 20_000, 1.0, NAN, None],
    "num_attention_heads": [0, -4, 2**31, 3, 0.5],
    "num_key_value_heads": [0, -1, 3, 8, 10**9],
    "head_dim": [0, -8, 7, 2**31, 65536, 1025],
    "intermediate_size": [0, -1, 2**40, 65],
    "vocab_size": [0, -1, 2**31, 2**40, 7, NAN],
    "max_position_embeddings": [0, -1, 2**31, NAN, "4096"],
    "rms_norm_eps": [NAN, INFINITY, -1e-5, 0, 10**400, "1e-5", 1e300],
    "rope_theta": [NAN, INFINITY, 0, -1, 10**400, 1e300],
    "partial_rotary_factor": [0, -1, 2, NAN, 1e-9],
    "rope_scaling": [
        7,
        [],
        "yarn",
        {"rope_type": 7},
        {"rope_type": "no such"},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": 0},
        {"rope_type": "linear", "factor": NAN},
        {"rope_type": "dynamic", "factor": -1},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0},
        {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0},
        {"rope_type": "yarn", "factor": 2.0, "beta_fast": -1},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0},
        {"rope_type": "llama3", "factor": 8.0},
        {"rope_type": "linear", "factor": 2.0, "unheard_of": 1},
    ],
    "rope_factors": [["x"], [1], [NAN] * 4, 7, [10**400] * 4],
    "hidden_act": ["", "no such", 7, "x" * 10**6],
    "tie_word_embeddings": [1, "true", [], False],
    "attention_bias": ["no", 0.0, True],
    "eos_token_id": [-1, 10**9, 1.5, "2", [2, -1], [[2]], {}, True, NAN],
    "sliding_window_pattern": [7],
    "quantization_config": [{"quant_method": "awq", "bits": 4}],
    "num_local_experts": [8],
}


@pytest.mark.parametrize("key", CONFIGS)
def test_values_of_config_that_no_model_has(key, refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    (folder / "generation_config.json").write_text("{}")
    for value in CONFIGS[key]:
        (folder / "config.json").write_text(json.dumps({**hf_config(), key: value}))
        refused(folder, f"{key}|of the wrong shape|the architecture|missing:|even number of rotated|eos_token_id")


@pytest.mark.parametrize(
    "key",
    [
        key
        for key in hf_config()
        if key not in ("num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling", "eos_token_id")
    ],
)
def test_a_key_that_is_missing(key, refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    config = hf_config()
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, key.removeprefix("tie_") if key != "tie_word_embeddings" else "missing: lm_head")


LAYER_TYPES: list[Any] = [7, "full_attention", [], [[]], [{}], [None], ["no such"], ["full_attention"] * 2]


@pytest.mark.parametrize("value", LAYER_TYPES, ids=repr)
def test_layer_types_that_are_none(value, refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({**hf_config(), "model_type": "qwen3", "layer_types": value}))
    refused(folder, "layer_types")


def changed_tokenizer(**changes: Any) -> dict[str, Any]:
    return {**tokenizer_json(), **changes}


def changed_model(**changes: Any) -> dict[str, Any]:
    tree = tokenizer_json()
    tree["model"].update(changes)
    return tree


def added(**changes: Any) -> dict[str, Any]:
    tree = tokenizer_json()
    tree["added_tokens"][0].update(changes)
    return tree


def section(name: str, value: Any) -> dict[str, Any]:
    return changed_tokenizer(**{name: value})


TOKENIZERS = {
    "an added token of id -1": added(id=-1),
    "an added token of id 2^32": added(id=2**32),
    "a token of id -1": changed_model(vocab={"a": -1}),
    "a token of id 2^32": changed_model(vocab={"a": 2**32}),
    "a token with a fraction": changed_model(vocab={"a": 0.5}),
    "a token that is a list": changed_model(vocab={"a": []}),
    "merges of what is not there": changed_model(merges=[["zz", "qq"]]),
    "merges of three": changed_model(merges=[["h", "e", "l"]]),
    "merges that are numbers": changed_model(merges=[1]),
    "an unknown model": changed_model(type="Markov"),
    "no model": changed_tokenizer(model=None),
    "an unknown decoder": section("decoder", {"type": "Markov"}),
    "a pattern that is no pattern": section(
        "pre_tokenizer", {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    ),
    "a post-processor without a body": section("post_processor", {"type": "TemplateProcessing"}),
    "a dropout of 7": changed_model(dropout=7.0),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers_that_are_none(case, refused, tmp_path):
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZERS[case]))
    refused(folder, ".", action="use", names="tokenizer")


TOKENIZER_CONFIGS: dict[str, list[Any]] = {
    "added_tokens_decoder": [
        7,
        "x",
        ["x"],
        {"-1": {"content": "<|x|>"}},
        {"x": {"content": "<|x|>"}},
        {"0": 7},
        {"0": {}},
        {"0": {"content": 7}},
    ],
    "bos_token": [7, [[7]], {"content": 7}, True],
    "chat_template": [7, [7], [{}], [{"name": "default"}], {"default": 7}, [{"name": 7, "template": []}]],
    "add_bos_token": [7, "yes", []],
}


@pytest.mark.parametrize("key", TOKENIZER_CONFIGS)
def test_values_of_tokenizer_config_never_crash(key, attacked, tmp_path):
    """Some are refused, some mean nothing; which is the text tests' business."""
    folder = write_folder(tmp_path / "model")
    for value in TOKENIZER_CONFIGS[key]:
        (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer_config(), key: value}))
        outcome = attacked.run("use", folder)["outcome"]
        assert outcome.split(":")[0] in ("ok", "ModelFileError", "UnsupportedModelError", "ChatTemplateError"), (value, outcome)
