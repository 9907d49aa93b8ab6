"""Every way in which files, and transformers in memory, store experts and latent attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import product
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.errors import ModelFileError
from linnet.load.assemble import Naming, assemble, wanted
from linnet.load.checkpoint import Checkpoint
from linnet.load.memory import MemorySource
from linnet.ops.reference import ReferenceOps
from linnet.weights import Weights

Settings = dict[str, Any]
Arrays = dict[str, NDArray[np.float32]]

SMALL = {
    "vocab_size": 20,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
}
MIXTRAL = {**SMALL, "model_type": "mixtral", "num_local_experts": 3, "rms_norm_eps": 1e-5}
LATENT = {
    **SMALL,
    "model_type": "deepseek_v2",
    "kv_lora_rank": 16,
    "moe_intermediate_size": 12,
    "n_routed_experts": 3,
    "n_shared_experts": 1,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
}


def loaded(values: Settings, naming: Naming, rename: Callable[[Arrays], Arrays] = lambda arrays: arrays) -> Weights:
    """The weights of a tiny model of random numbers, from tensors that are first renamed."""
    spec, table = build(Config(values, "config.json"))
    random = np.random.default_rng(0)
    shapes = {name: slot.shape for _, slot in wanted(spec, table, naming) for name in slot.names}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return assemble(ReferenceOps(), spec, table, MemorySource(rename(arrays)), naming=naming)


def assert_same(ours: Any, theirs: Any) -> None:
    if ours is None or isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
        return
    parts = ours if isinstance(ours, tuple) else [getattr(ours, field.name) for field in fields(ours)]
    others = theirs if isinstance(theirs, tuple) else [getattr(theirs, field.name) for field in fields(theirs)]
    for part, other in zip(parts, others, strict=True):
        assert_same(part, other)


def stack(arrays: Arrays, name: str) -> NDArray[np.float32]:
    """Takes the tensors of `name` with the numbers of experts in it."""
    return np.stack([arrays.pop(name.replace("{expert}", str(expert))) for expert in range(3)])


def as_transformers_holds_them(arrays: Arrays) -> Arrays:
    for layer in range(2):
        block, mlp = f"model.layers.{layer}.block_sparse_moe", f"model.layers.{layer}.mlp"
        gate, up, down = (stack(arrays, f"{block}.experts.{{expert}}.{name}.weight") for name in ("w1", "w3", "w2"))
        router = arrays.pop(f"{block}.gate.weight")
        arrays |= {f"{mlp}.experts.gate_up_proj": np.concatenate([gate, up], axis=1), f"{mlp}.experts.down_proj": down}
        arrays[f"{mlp}.gate.weight"] = router
    return arrays


def as_the_first_gguf_files_have_them(arrays: Arrays) -> Arrays:
    for layer, name in product(range(2), ("gate", "up", "down")):
        for expert, matrix in enumerate(arrays.pop(f"blk.{layer}.ffn_{name}_exps.weight")):
            arrays[f"blk.{layer}.ffn_{name}.{expert}.weight"] = matrix
    return arrays


def with_gates_above_ups(arrays: Arrays) -> Arrays:
    for layer in range(2):
        both = [arrays.pop(f"blk.{layer}.ffn_{name}_exps.weight") for name in ("gate", "up")]
        arrays[f"blk.{layer}.ffn_gate_up_exps.weight"] = np.concatenate(both, axis=1)
    return arrays


def with_keys_and_values_split(arrays: Arrays) -> Arrays:
    for layer in range(2):
        heads = arrays.pop(f"blk.{layer}.attn_kv_b.weight").reshape(4, 6 + 5, 16)
        arrays[f"blk.{layer}.attn_k_b.weight"] = heads[:, :6].swapaxes(1, 2)
        arrays[f"blk.{layer}.attn_v_b.weight"] = heads[:, 6:]
    return arrays


@pytest.mark.parametrize(
    ("values", "naming", "rename"),
    [
        (MIXTRAL, "hf", as_transformers_holds_them),
        (MIXTRAL, "gguf", as_the_first_gguf_files_have_them),
        (MIXTRAL, "gguf", with_gates_above_ups),
        (LATENT, "gguf", with_keys_and_values_split),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_every_way_to_store_them(values: Settings, naming: Naming, rename: Callable[[Arrays], Arrays]) -> None:
    assert_same(loaded(values, naming, rename), loaded(values, naming))


def test_a_model_of_transformers_in_memory() -> None:
    config = transformers.MixtralConfig(**{key: value for key, value in MIXTRAL.items() if key != "model_type"})
    model = transformers.MixtralForCausalLM(config)
    checkpoint = Checkpoint.from_memory(config, model.state_dict())
    experts = checkpoint.assemble(ReferenceOps()).layers[1].experts
    assert experts is not None
    np.testing.assert_array_equal(experts.up.matrix, model.model.layers[1].mlp.experts.gate_up_proj[:, 24:].detach().numpy())


def test_missing_experts_are_listed_by_their_published_names() -> None:
    def without(arrays: Arrays) -> Arrays:
        del arrays["model.layers.1.block_sparse_moe.experts.2.w3.weight"]
        return arrays

    with pytest.raises(ModelFileError, match=r"missing: model\.layers\.1\.block_sparse_moe\.experts\.2\.w3\.weight$"):
        loaded(MIXTRAL, "hf", without)
