"""Granite 3 with mixtures (IBM 2024): Granite's multipliers, and a mixture in every layer, perhaps with a block that every token passes."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.granite import granite_spec
from linnet.arch.moe import moe_rows, read_experts, read_router, with_experts
from linnet.arch.spec import Mlp, ModelSpec, Moe
from linnet.arch.table import ATTENTION, How, Part, Stored, Table, biases, split_rows, standard_table

_LAYER = "model.layers.{layer}"
_MIXTURE = f"{_LAYER}.block_sparse_moe"


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    dense = granite_spec(config, "granitemoe")
    expert, experts = dense.layers[0].mlp, read_experts(config)
    assert isinstance(expert, Mlp)
    shared = config.integer("shared_expert_intermediate_size" if gguf else "shared_intermediate_size", 0, low=0)
    moe = Moe(experts, expert, read_router(config, experts, normalise=True), replace(expert, width=shared) if shared else None)
    spec = with_experts(dense, moe, [True] * len(dense.layers))
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    moe = spec.layers[0].mlp
    assert isinstance(moe, Moe)
    stored = _experts(moe.expert.width) | (_shared(moe.shared.width) if moe.shared else {})
    rows = [replace(row, hf=stored.get(row.field, row.hf)) for row in moe_rows(spec)]
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *rows))


def _experts(width: int) -> dict[str, tuple[How, ...]]:
    """Gates lie above ups. The second names are those of transformers 5 in memory."""
    both = [f"{_MIXTURE}.input_linear.weight", f"{_MIXTURE}.experts.gate_up_proj"]
    parts = {"gate": Part(0, width, 2 * width), "up": Part(width, 2 * width, 2 * width)}
    return {
        "layers.router.matrix": (f"{_MIXTURE}.router.layer.weight", f"{_MIXTURE}.router.weight"),
        **{f"layers.experts.{name}.matrix": tuple(Stored(way, part) for way in both) for name, part in parts.items()},
        "layers.experts.down.matrix": (f"{_MIXTURE}.output_linear.weight", f"{_MIXTURE}.experts.down_proj"),
    }


def _shared(width: int) -> dict[str, tuple[How, ...]]:
    gate, up = split_rows(f"{_LAYER}.shared_mlp.input_linear.weight", (width, width))
    down = f"{_LAYER}.shared_mlp.output_linear.weight"
    return {"layers.mlp.gate.matrix": (gate,), "layers.mlp.up.matrix": (up,), "layers.mlp.down.matrix": (down,)}
