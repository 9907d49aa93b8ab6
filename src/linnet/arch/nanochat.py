"""nanochat as transformers has it (Karpathy 2025): relu squared, norms without weights, one of them after the embedding, queries and
keys normalised after a rotation that turns backwards. What nanochat itself saves is in `nanochat_torch.py`.
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.plain import PLAIN_LAYER
from linnet.arch.rope_config import read_rope
from linnet.arch.rope_spec import FactorScaling, Rope
from linnet.arch.sizes import Sizes, read_sizes
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Norm, Output
from linnet.arch.table import Table, biases, renamed, standard_table
from linnet.errors import UnsupportedModelError

MATRICES = [row for row in PLAIN_LAYER if row.field.endswith(".matrix")]
NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.fc1", "mlp.fc2")


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.assume(hidden_act="relu2")
    sizes, norm = read_sizes(config), Norm(config.number("rms_norm_eps", 1e-6))
    rope = read_rope(config, sizes.head_dim)
    if rope.scaling is not None:
        raise UnsupportedModelError(f"{config.where}: a rotary scaling, which no nanochat model has; it is not built")
    layers = (nanochat_layer(sizes, norm, rope, Mlp(sizes.width, config.activation(), gated=False)),) * sizes.layers
    tied, output = config.flag("tie_word_embeddings", False), Output(softcap=config.optional_number("final_logit_softcapping", 15.0))
    spec = ModelSpec("nanochat", sizes.vocab, sizes.hidden, rope.context, layers, norm, tied, Embedding(norm=norm), output)
    return spec, table(spec, config.flag("attention_bias", False))


def nanochat_layer(sizes: Sizes, norm: Norm, rope: Rope, mlp: Mlp) -> Layer:
    """Turning backwards is dividing each frequency by -1."""
    backwards = replace(rope, scaling=FactorScaling((-1.0,) * (rope.dim // 2)))
    attention = Attention(
        sizes.heads,
        sizes.kv_heads,
        sizes.head_dim,
        (backwards,),
        sizes.head_dim**-0.5,
        query_norm=norm,
        key_norm=norm,
        norm_rotated=True,
    )
    return Layer(attention, mlp, norm, norm)


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    rows = renamed(MATRICES, "model.layers.{layer}.", NAMES)
    made = standard_table(spec, [*rows, *biases(rows[:4], attention_bias)])
    return replace(made, rows=tuple(row for row in made.rows if row.field != "final_norm.weight"))  # which has none
