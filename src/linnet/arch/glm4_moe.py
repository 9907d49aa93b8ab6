"""GLM 4.5 and 4.6 (2025): experts chosen as in DeepSeek V3; half of each head rotates; the large ones normalise queries and keys.

Layers that predict further tokens are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from linnet.arch.config import Config
from linnet.arch.deepseek import later_layers
from linnet.arch.moe import moe_rows, read_corrected_router, read_moe, with_experts
from linnet.arch.qwen2 import qwen_spec
from linnet.arch.sizes import further_layers
from linnet.arch.spec import ModelSpec
from linnet.arch.table import ATTENTION, QUERY_KEY_NORMS, QUERY_KEY_VALUE, Table, biases, layer_row, standard_table

_NORM = layer_row("mlp_norm.weight", "post_attention_layernorm", "post_attention_norm", "hidden")


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if not gguf:
        config.assume(partial_rotary_factor=0.5, rms_norm_eps=1e-5, first_k_dense_replace=1, n_shared_experts=1)
    normed = "blk.0.attn_q_norm.weight" in config.tensors if gguf else config.flag("use_qk_norm", False)
    dense = qwen_spec(config, "glm4_moe", query_key_norms=normed, read_windows=lambda config, layers: [None] * layers)
    layers = len(dense.layers)
    spec = with_experts(dense, read_moe(config, read_corrected_router), later_layers(config, layers))
    return spec, table(spec, None if gguf else config.flag("attention_bias", False), further_layers(config, layers))


def table(spec: ModelSpec, attention_bias: bool | None = None, ignored: Sequence[str] = ()) -> Table:
    """Biases: on queries, keys and values, on none, or (None) as the checkpoint has them. ignored: patterns of tensors not needed."""
    norms = QUERY_KEY_NORMS if spec.layers[0].attention.query_norm else ()
    rows = (*ATTENTION, *biases(QUERY_KEY_VALUE, attention_bias), *norms, _NORM, *moe_rows(spec)[1:])
    return standard_table(spec, rows, ignored=ignored)
