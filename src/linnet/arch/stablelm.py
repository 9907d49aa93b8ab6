"""StableLM 3B and StableLM 2 (Tow et al. 2023, Bellagente et al. 2024): Llama's layer with layer norms and part of each head rotated.

The 12B model has attention and feed-forward block side by side and normalises queries and keys, with a weight for each head. GGUF
tells by the tensors that there are.
"""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.rope_config import longest, read_rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Attention, Layer, Mlp, ModelSpec, Norm
from linnet.arch.table import ATTENTION, FINAL_NORM, GATED_MLP, QUERY_KEY_VALUE, Row, Table, biases, standard_table

HEADS = "model.layers.{layer}.self_attn.%s_layernorm.norms.{expert}.weight"
HEAD_NORMS = (
    Row("layers.attention.query_norm.weight", HEADS % "q", "blk.{layer}.attn_q_norm.weight", ("heads", "head")),
    Row("layers.attention.key_norm.weight", HEADS % "k", "blk.{layer}.attn_k_norm.weight", ("kv_heads", "head")),
)


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    parallel, normed = config.flag("use_parallel_residual", False), config.flag("qk_layernorm", False)
    if gguf:
        parallel, normed = "blk.0.ffn_norm.weight" not in config.tensors, "blk.0.attn_q_norm.weight" in config.tensors
    else:
        config.assume(partial_rotary_factor=0.25)
    sizes = read_sizes(config)
    rope = read_rope(config, sizes.head_dim)
    norm = Norm(config.number("layer_norm_eps", 1e-5), "layer")
    head_norm = norm if normed else None
    scale = sizes.head_dim**-0.5
    attention = Attention(sizes.heads, sizes.kv_heads, sizes.head_dim, (rope,), scale, None, head_norm, head_norm)
    layer = Layer(attention, Mlp(sizes.width, config.activation()), norm, None if parallel else norm, parallel=parallel)
    tied = config.flag("tie_word_embeddings", False)
    spec = ModelSpec("stablelm", sizes.vocab, sizes.hidden, longest(rope), (layer,) * sizes.layers, norm, tied)
    return spec, table(spec, None if gguf else config.flag("use_qkv_bias", False))


def table(spec: ModelSpec, query_key_value_bias: bool | None = None) -> Table:
    """Biases: on queries, keys and values, on none, or (None) as the checkpoint has them."""
    layer = spec.layers[0]
    norms = [ATTENTION[0], *([] if layer.parallel else [GATED_MLP[0]])]
    rows = [*norms, *ATTENTION[1:], *GATED_MLP[1:], *(HEAD_NORMS if layer.attention.query_norm else ())]
    added = (*biases((*norms, FINAL_NORM), of="weight"), *biases(QUERY_KEY_VALUE, query_key_value_bias))
    return standard_table(spec, (*rows, *added))
