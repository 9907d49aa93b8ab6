"""gpt-oss (OpenAI 2025): a mixture of experts with biases in every layer; heads that may look at nothing (sinks)."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.moe import read_experts, read_router
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.rope_spec import YarnScaling
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Moe, Norm
from linnet.arch.table import ATTENTION, How, Part, Row, Stored, Table, biases, layer_row, standard_table
from linnet.errors import UnsupportedModelError

_YARN = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if not gguf:
        config.assume(rope_theta=150_000.0, head_dim=64)
        if config.group("rope_scaling") is None and config.group("rope_parameters") is None:
            config.assume(rope_scaling=_YARN)
        _check(config)
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    if gguf and isinstance(rope.scaling, YarnScaling):  # which GGUF has no word for
        rope = replace(rope, scaling=replace(rope.scaling, truncate=False))
    norm, experts = Norm(config.number("rms_norm_eps", 1e-5)), read_experts(config)
    width = config.integer("moe_intermediate_size", sizes.width)
    router = read_router(config, experts, normalise=False, scoring="softmax_chosen")
    moe, window = Moe(experts, Mlp(width, "clamped_swiglu"), router), config.optional_integer("sliding_window", None if gguf else 128)
    scale = sizes.head_dim**-0.5

    def layer(slides: bool) -> Layer:
        seen = window if slides else None
        return Layer(Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, seen, sinks=True), moe, norm, norm)

    layers = tuple(map(layer, sliding_layers(config, sizes.layers, lambda layer: layer % 2 == 0)))
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("gpt_oss", sizes.vocab, sizes.hidden, longest(rope), layers, norm, tied)
    return spec, table(spec, None if gguf else config.flag("attention_bias", True))


def _check(config: Config) -> None:
    """Raises UnsupportedModelError for another gate, or weights in another form than MXFP4 blocks or floats."""
    for key, value in {"swiglu_limit": 7.0, "swiglu_alpha": 1.702}.items():
        if config.number(key, value) != value:
            raise UnsupportedModelError(f"{config.where}: {config.name(key)} is {config.number(key):g}; only {value:g} runs")
    config.ignore(["experts_per_token", "initial_context_length"])  # what num_experts_per_tok and the rotary scaling say
    quantized = config.group("quantization_config")
    if quantized is not None:
        quantized.ignore(["modules_to_not_convert", "dequantize"])
        if (method := quantized.text("quant_method")) != "mxfp4":
            raise UnsupportedModelError(f"{config.where}: {quantized.name('quant_method')} is {method!r}; only mxfp4 runs")


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases of attention: on all four projections, on none, or (None) as the checkpoint has them."""
    router = (layer_row("router.matrix", "mlp.router", "ffn_gate_inp", "experts", "hidden"),)
    rows = (
        *(*ATTENTION, *biases(ATTENTION, attention_bias)),
        Row("layers.attention.sinks", "model.layers.{layer}.self_attn.sinks", "blk.{layer}.attn_sinks.weight", ("heads",)),
        layer_row("mlp_norm.weight", "post_attention_layernorm", "post_attention_norm", "hidden"),
        *(*router, *biases(router)),
        *_experts(spec),
    )
    return standard_table(spec, rows)


def _experts(spec: ModelSpec) -> tuple[Row, ...]:
    """Each gate's row lies before its up's. Blocks are [experts, out, in], floats [experts, in, out]."""
    first = spec.layers[0].mlp
    assert isinstance(first, Moe)
    both = 2 * first.expert.width

    def rows(field: str, tensor: str, part: Part | None, out: str, into: str) -> tuple[Row, ...]:
        name, gguf = f"model.layers.{{layer}}.mlp.experts.{tensor}", f"blk.{{layer}}.ffn_{field}_exps"
        blocks: How = Stored(f"{name}_blocks", part)
        matrix = (Stored(name, part, transposed=True), blocks)
        return (
            Row(f"layers.experts.{field}.matrix", matrix, f"{gguf}.weight", ("experts", out, into)),
            Row(f"layers.experts.{field}.bias", Stored(f"{name}_bias", part), f"{gguf}.bias", ("experts", out)),
        )

    return (
        *rows("gate", "gate_up_proj", Part(0, both, both, step=2), "expert_width", "hidden"),
        *rows("up", "gate_up_proj", Part(1, both, both, step=2), "expert_width", "hidden"),
        *rows("down", "down_proj", None, "hidden", "expert_width"),
    )
