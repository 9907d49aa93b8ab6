"""Mixtures of experts: what their configurations and their tables have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from linnet.arch.config import Config
from linnet.arch.spec import Layer, Mlp, ModelSpec, Moe, Router
from linnet.arch.table import GATED_MLP, How, Part, Row, Stored, is_dense, is_moe
from linnet.errors import UnsupportedModelError

MAX_EXPERTS = 4096
"""Eight times the most there are."""

_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_TRAINING = "output_router_logits router_aux_loss_coef router_jitter_noise aux_loss_alpha seq_aux ep_size".split()
_GATING_FUNCTIONS = {"softmax": 1, "sigmoid": 2, "softmax_chosen": 3}
"""What GGUF calls them; 0: the architecture's own."""
SIGMOID = _GATING_FUNCTIONS["sigmoid"]


def read_experts(config: Config) -> int:
    """How many experts a layer has, by whichever name."""
    counts = {key: count for key in _COUNTS if (count := config.optional_integer(key)) is not None}
    if len(set(counts.values())) > 1:
        raise config.error(list(counts)[1], f"the same as {config.name(next(iter(counts)))}")
    key = next(iter(counts), "num_experts")
    return config.integer(key, high=MAX_EXPERTS)


def read_router(
    config: Config,
    experts: int,
    normalise: bool,
    scoring: Literal["softmax", "sigmoid", "softmax_chosen"] = "softmax",
    scale: float = 1.0,
    groups: int = 1,
    active_groups: int = 1,
    corrected: bool = False,
) -> Router:
    """A router as its family has it. Raises ModelFileError, naming the key, where experts and groups do not go together, and
    UnsupportedModelError for another way to score."""
    config.ignore(_TRAINING)
    runs = scoring.replace("_chosen", "")
    name = config.text("scoring_func", runs)
    if scoring == "sigmoid" and name == "noaux_tc":  # dots.llm1 says both in one
        name = runs
    number = config.integer("expert_gating_func", 0, low=0)
    if name != runs or number not in (0, _GATING_FUNCTIONS[scoring]):
        key, value = ("scoring_func", repr(name)) if name != runs else ("expert_gating_func", str(number))
        raise UnsupportedModelError(f"{config.where}: {config.name(key)} is {value}; only {runs} runs here")
    if experts % groups:
        raise config.error("n_group", f"a divisor of the number of experts ({experts})")
    if active_groups > groups:
        raise config.error("topk_group", f"at most the number of groups ({groups})")
    active = config.integer("num_experts_per_tok")
    if active > (choice := experts // groups * active_groups):
        raise config.error("num_experts_per_tok", f"at most the {choice} experts there are to choose from")
    return Router(active, scoring, normalise, scale, groups, active_groups, corrected)


def read_corrected_router(config: Config, experts: int) -> Router:
    """That of DeepSeek V3 ("noaux_tc"), which many took over: sigmoids, corrected for choosing, from the best groups of experts."""
    gguf = config.format == "gguf"
    if (method := config.text("topk_method", "noaux_tc")) != "noaux_tc":
        raise UnsupportedModelError(f"{config.where}: {config.name('topk_method')} is {method!r}; only noaux_tc runs in this family")
    groups, active = config.integer("n_group", 1), config.integer("topk_group", 1)
    normalise, scale = config.flag("norm_topk_prob", not gguf), config.number("routed_scaling_factor", 1.0)
    return read_router(config, experts, normalise, "sigmoid", scale, groups, active, is_corrected(config))


def is_corrected(config: Config) -> bool:
    """Whether a family's router is corrected: always but in GGUF files that lack the tensors."""
    return config.format != "gguf" or any(name.endswith(".exp_probs_b.bias") for name in config.tensors)


def read_moe(config: Config, read_router: Callable[[Config, int], Router]) -> Moe:
    """A mixture in DeepSeek's words. read_router: from the configuration and the number of experts."""
    experts, width = read_experts(config), config.integer("moe_intermediate_size")
    return Moe(experts, Mlp(width, config.activation()), read_router(config, experts), read_shared(config, width))


def read_shared(config: Config, width: int) -> Mlp | None:
    """DeepSeek's block that every token passes: as wide as `n_shared_experts` experts of `width`; None without any."""
    count = config.optional_integer("n_shared_experts", low=0)
    return Mlp(count * width, config.activation()) if count else None


def with_experts(spec: ModelSpec, moe: Moe, sparse: Sequence[bool]) -> ModelSpec:
    """The decoder with a mixture in place of the dense block of its `sparse` layers."""

    def layer(layer: Layer, sparse: bool) -> Layer:
        return replace(layer, mlp=moe) if sparse else layer

    return replace(spec, layers=tuple(map(layer, spec.layers, sparse)))


def moe_rows(
    spec: ModelSpec, block: str = "mlp", names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"), shared: str = "shared_experts"
) -> tuple[Row, ...]:
    """The rows of every layer's feed-forward block, dense or a mixture. block, names, shared: what published checkpoints call the
    mixture, the projections of an expert and the block that all tokens pass."""
    moe = next((layer.mlp for layer in spec.layers if isinstance(layer.mlp, Moe)), None)
    dense = tuple(replace(row, when=is_dense) for row in GATED_MLP[1:])
    if moe is None:
        return GATED_MLP[:1] + dense
    rows = (*GATED_MLP[:1], *dense, _router(block), *_experts(moe.expert.width, block, names))
    if moe.router.corrected:
        rows += (_CORRECTION,)
    return rows + _shared(shared) if moe.shared else rows


_CORRECTION = Row(
    "layers.router_correction",
    "model.layers.{layer}.mlp.gate.e_score_correction_bias",
    "blk.{layer}.exp_probs_b.bias",
    ("experts",),
    when=is_moe,
)


def _router(block: str) -> Row:
    # The second name of experts and routers is what transformers 5 calls them in memory.
    hf = (f"model.layers.{{layer}}.{block}.gate.weight", "model.layers.{layer}.mlp.gate.weight")
    return Row("layers.router.matrix", hf, "blk.{layer}.ffn_gate_inp.weight", ("experts", "hidden"), when=is_moe)


def _experts(width: int, block: str, names: Sequence[str]) -> tuple[Row, ...]:
    """Published with a tensor for each expert; in memory and in GGUF stacked (but for the first GGUF files of Mixtral), perhaps with
    gates above ups."""
    hf_both, gguf_both = "model.layers.{layer}.mlp.experts.gate_up_proj", "blk.{layer}.ffn_gate_up_exps.weight"
    upper, lower = Part(0, width, 2 * width), Part(width, 2 * width, 2 * width)
    down: How = "model.layers.{layer}.mlp.experts.down_proj"

    def row(field: str, name: str, *others: How, gguf: How | None = None) -> Row:
        hf = (f"model.layers.{{layer}}.{block}.experts.{{expert}}.{name}.weight", *others)
        stored = (f"blk.{{layer}}.ffn_{field}_exps.weight", f"blk.{{layer}}.ffn_{field}.{{expert}}.weight")
        shape = ("experts", "hidden", "expert_width") if field == "down" else ("experts", "expert_width", "hidden")
        return Row(f"layers.experts.{field}.matrix", hf, (*stored, gguf) if gguf else stored, shape, when=is_moe)

    return (
        row("gate", names[0], Stored(hf_both, upper), gguf=Stored(gguf_both, upper)),
        row("up", names[1], Stored(hf_both, lower), gguf=Stored(gguf_both, lower)),
        row("down", names[2], down),
    )


def _shared(name: str) -> tuple[Row, ...]:
    def row(row: Row) -> Row:
        assert isinstance(row.hf, str)
        assert isinstance(row.gguf, str)
        gguf = row.gguf.replace(".weight", "_shexp.weight")
        return replace(row, hf=row.hf.replace(".mlp.", f".mlp.{name}."), gguf=gguf, when=is_moe)

    return tuple(map(row, GATED_MLP[1:]))
