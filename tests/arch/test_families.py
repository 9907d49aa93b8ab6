"""Families against transformers' own configuration classes, and against configurations as they are published."""

import dataclasses
import json
from importlib import import_module
from pathlib import Path

import pytest
import transformers
from published import MISTRAL_V1, PUBLISHED
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from linnet.arch.config import Config
from linnet.arch.registry import GGUF_FAMILIES, HF_FAMILIES, build, table_of
from linnet.arch.rope_spec import DynamicScaling, LinearScaling, Llama3Scaling, Rope, YarnScaling
from linnet.arch.spec import ModelSpec
from linnet.arch.table import dimensions
from linnet.errors import ModelFileError, UnsupportedModelError

ARCH = Path(__file__).parents[2] / "src" / "linnet" / "arch"
CLASSES = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
MODELS = {
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
}
SMALL = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def spec_of(values: dict) -> ModelSpec:
    return build(Config(values, "config.json"))[0]


def rope_of(spec: ModelSpec) -> Rope:
    (rope,) = spec.layers[0].attention.ropes
    return rope


def small(**extra) -> dict:
    return {"model_type": "llama", **SMALL, **extra}


def test_every_family_is_reachable_and_has_a_table():
    for name in {*HF_FAMILIES.values(), *GGUF_FAMILIES.values()}:
        module = import_module(f"linnet.arch.{name}")
        assert callable(module.build)
        assert callable(module.table)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("family", MODELS)
def test_table_is_exactly_the_state_dict_of_transformers(family, saved, tmp_path):
    for extra in ({}, {"tie_word_embeddings": True, "head_dim": 24}):
        config = CLASSES[family](**SMALL, **extra)
        model = MODELS[family](config)
        if saved:
            config.save_pretrained(tmp_path)
            values = json.loads((tmp_path / "config.json").read_text())
        else:
            values = config.to_dict()
        spec, table = build(Config(values, "config.json"))
        found = {}
        for row in table.rows:
            for index, layer in enumerate(spec.layers):
                sizes = dimensions(spec, layer)
                stored = row.hf[0] if isinstance(row.hf, tuple) else row.hf  # by itself, not inside a checkpoint that sees
                name = stored if isinstance(stored, str) else stored.name
                found[name.replace("{layer}", str(index))] = tuple(sizes[symbol] for symbol in row.shape)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        if spec.tied:
            expected.pop("lm_head.weight")
        assert found == expected


@pytest.mark.parametrize("family", MODELS)
def test_table_of_a_spec_takes_whatever_biases_there_are(family):
    spec, table = build(Config(CLASSES[family](**SMALL).to_dict(), "config.json"))
    required = {row.field for row in table_of(spec).rows if not row.optional}
    assert required == {row.field for row in table.rows}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_mean_what_transformers_reads(name):
    values = PUBLISHED[name]
    spec = spec_of(values)
    config = CLASSES[values["model_type"]](**values)
    attention = spec.layers[0].attention
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert (spec.family, spec.hidden, spec.vocab_size, len(spec.layers)) == (
        config.model_type,
        config.hidden_size,
        config.vocab_size,
        config.num_hidden_layers,
    )
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (config.num_attention_heads, config.num_key_value_heads, head_dim)
    assert (spec.layers[0].mlp.width, spec.final_norm.epsilon, spec.tied) == (
        config.intermediate_size,
        config.rms_norm_eps,
        config.tie_word_embeddings,
    )
    assert attention.scale == head_dim**-0.5
    assert (rope_of(spec).theta, rope_of(spec).dim, rope_of(spec).interleaved) == (config.rope_parameters["rope_theta"], head_dim, False)
    windows = getattr(config, "layer_types", None) or ["sliding_attention"] * len(spec.layers)
    assert [layer.attention.window for layer in spec.layers] == [
        getattr(config, "sliding_window", None) if kind == "sliding_attention" else None for kind in windows
    ]


def test_contexts_of_published_configurations():
    expected = {"vicuna-16k": 16384, "yarn-llama": 131072, "llama-3.2": 131072, "qwen2.5": 32768}
    assert {name: spec_of(PUBLISHED[name]).context for name in expected} == expected


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({"rope_type": "default"}, None),
        ({"rope_type": "linear", "factor": 2.0}, LinearScaling(2.0)),
        ({"rope_type": "dynamic", "factor": 4}, DynamicScaling(4.0)),
        ({"rope_type": "llama3", **LLAMA3}, Llama3Scaling(8.0, 1.0, 4.0, 64)),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, YarnScaling(4.0, 64, 1.138629436111989)),
    ],
)
@pytest.mark.parametrize("spelling", ["rope_scaling with type", "rope_scaling with rope_type", "rope_parameters"])
def test_both_spellings_of_rotary_scaling(spelling, scaling, expected):
    scaling = dict(scaling)
    if spelling == "rope_scaling with type":
        scaling["type"] = scaling.pop("rope_type")
    values = (
        {"rope_parameters": {**scaling, "rope_theta": 7.0}}
        if spelling == "rope_parameters"
        else {"rope_scaling": scaling, "rope_theta": 7.0}
    )
    rope = rope_of(spec_of(small(**values)))
    assert rope == Rope(16, 7.0, 256, False, expected)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"factor": 1.0},
        {"attention_factor": 0.7},
        {"mscale": 0.707, "mscale_all_dim": 1.2},
        {"mscale": 0.707},
        {"beta_fast": 20.0, "beta_slow": 2.0, "truncate": False},
        {"factor": None},
    ],
)
def test_yarn_resolves_as_transformers_does(extra):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, **extra}
    scaling = {key: value for key, value in scaling.items() if value is not None or key == "factor"}
    found = rope_of(spec_of(small(rope_parameters={**scaling, "rope_theta": 10000.0}))).scaling
    config = transformers.LlamaConfig(**SMALL)
    config.rope_parameters = {**scaling, "rope_theta": 10000.0}
    _, attention_factor = ROPE_INIT_FUNCTIONS["yarn"](config)
    assert isinstance(found, YarnScaling)
    assert found.attention_factor == pytest.approx(attention_factor, rel=1e-12)
    assert (found.beta_fast, found.beta_slow, found.truncate) == (
        extra.get("beta_fast", 32.0),
        extra.get("beta_slow", 1.0),
        extra.get("truncate", True),
    )


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize(
    "extra",
    [
        {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 8},
        {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 8},
        {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8},
        {"use_sliding_window": False, "max_window_layers": 2, "sliding_window": 8},
        {"use_sliding_window": True},
    ],
)
def test_windows_lie_where_transformers_puts_them(family, extra):
    config = CLASSES[family](**SMALL, **extra)
    spec = spec_of({"model_type": family, **SMALL, **extra})
    expected = [config.sliding_window if kind == "sliding_attention" else None for kind in config.layer_types]
    assert [layer.attention.window for layer in spec.layers] == expected
    assert spec == spec_of(config.to_dict())


def test_mistral_without_a_word_on_windows_has_that_of_the_first_release():
    values = {"model_type": "mistral", **SMALL}
    assert spec_of(values).layers[0].attention.window == transformers.MistralConfig(**SMALL).sliding_window == 4096
    assert spec_of({**values, "sliding_window": None}).layers[0].attention.window is None


UNSUPPORTED = {
    "quantization_config": {"quant_method": "awq", "bits": 4},
    "embedding_multiplier": 12.0,
    "num_local_experts": 8,
    "rope_interleaved": True,
    "sliding_window": 128,
    "layer_types": ["full_attention"] * 4,
    "hidden_act": "mystery",
    "rope_scaling": {"rope_type": "spiral", "factor": 2.0},
}


@pytest.mark.parametrize("key", UNSUPPORTED)
def test_keys_that_matter_and_are_not_understood_are_named(key):
    with pytest.raises(UnsupportedModelError, match=rf"config\.json.*{key}"):
        spec_of(small(**{key: UNSUPPORTED[key]}))


def test_nested_keys_that_are_not_understood_are_named_in_full():
    with pytest.raises(UnsupportedModelError, match=r"rope_scaling\.alpha = 1000"):
        spec_of(small(rope_scaling={"type": "dynamic", "factor": 1.0, "alpha": 1000.0}))
    with pytest.raises(UnsupportedModelError, match=r"mlp_bias = True"):
        spec_of({**MISTRAL_V1, "mlp_bias": True})


def test_keys_that_switch_nothing_on_are_ignored():
    quiet = {"embedding_multiplier": None, "num_experts": 0, "use_mystery": False, "note": "made on a Tuesday", "extra": {}, "more": []}
    assert spec_of(small(**quiet)) == spec_of(small())


def test_an_unknown_architecture_is_named():
    with pytest.raises(UnsupportedModelError, match=r"'mamba'.*llama, m"):
        spec_of({"model_type": "mamba"})
    with pytest.raises(ModelFileError, match="model_type is missing"):
        spec_of({})


NUMBERS = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"]


@pytest.mark.parametrize("value", [0, -1, 2**31, 10**30, 1.5, float("nan"), float("inf"), "8", True, [8], {}])
@pytest.mark.parametrize("key", NUMBERS)
def test_impossible_sizes_are_named(key, value):
    with pytest.raises(ModelFileError, match=key):
        spec_of(small(**{key: value}))


@pytest.mark.parametrize("value", [0, -1e-5, float("nan"), float("inf"), "1e-5", True, 1e300])
@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
def test_impossible_numbers_are_named(key, value):
    with pytest.raises(ModelFileError, match=key):
        spec_of(small(**{key: value}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"hidden_size": 66}, "num_attention_heads"),
        ({"head_dim": 15}, "head_dim"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"hidden_act": 3}, "hidden_act"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_scaling": {"type": "linear"}}, r"rope_scaling\.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, r"rope_scaling\.factor"),
        ({"rope_scaling": {"type": "linear", "factor": -2}}, r"rope_scaling\.factor"),
        ({"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1.0}}, r"rope_scaling\.high_freq_factor"),
        ({"rope_scaling": {"type": 5}}, r"rope_scaling\.type"),
    ],
)
def test_contradictions_are_named(values, message):
    with pytest.raises(ModelFileError, match=message):
        spec_of(small(**values))


@pytest.mark.parametrize("key", NUMBERS)
def test_missing_sizes_are_named(key):
    values = small()
    del values[key]
    with pytest.raises(ModelFileError, match=f"{key} is missing"):
        spec_of(values)


def test_specs_are_values():
    assert dataclasses.asdict(spec_of(small())) == dataclasses.asdict(spec_of(small()))
    hash(spec_of(small()))


ODD = [
    None,
    0,
    1,
    -1,
    2**31 - 1,
    2**63,
    10**40,
    0.0,
    1e-300,
    1e12,
    -2.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    True,
    False,
    [],
    [1],
    [None],
    {},
    {"a": 1},
]


@pytest.mark.parametrize("name", ["llama-3.2", "yarn-llama", "vicuna-16k", "mistral-v0.1", "qwen2.5", "qwen3"])
def test_any_value_of_any_key_is_a_spec_or_an_error_of_ours(name):
    values = {**PUBLISHED[name], "layer_types": None, "use_sliding_window": False, "rope_parameters": None, "partial_rotary_factor": None}
    scaling = {"mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "attention_factor": 1.0, **(values.get("rope_scaling") or {})}
    changes = [{key: odd} for key in values for odd in ODD]
    changes += [{"rope_scaling": {**scaling, key: odd}} for key in scaling for odd in ODD]
    outcomes = {"spec": 0, "error": 0}
    for change in changes:
        try:
            spec = spec_of({**values, **change})
        except ModelFileError:
            outcomes["error"] += 1
        else:
            outcomes["spec"] += 1
            assert 1 <= spec.context < 2**31
            assert len(spec.layers) <= 10_000
    assert min(outcomes.values()) > 50
