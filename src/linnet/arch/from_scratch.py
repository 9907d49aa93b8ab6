"""The GPT of "Transformer from scratch" tutorials (Wayland Zhang 2024): one matrix per attention head, ReLU, computed positions,
an output with a bias, and the final norm as the last of the blocks. Two spellings of its names are known.

Source: https://github.com/waylandzhang/Transformer-from-scratch
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.plain import PLAIN_LAYER
from linnet.arch.sizes import MAX_HEAD_DIM, MAX_LAYERS
from linnet.arch.spec import Attention, Embedding, Layer, Mlp, ModelSpec, Norm, Positions
from linnet.arch.table import EMBEDDING, FINAL_NORM, OUTPUT, Part, Row, Stored, Table, biases

_ATTENTION, _LONG_ATTENTION = "mha", "multi_head_attention_layer"
_NAMES = (
    ("ln1", "layer_norm_1"),
    (f"{_ATTENTION}.heads.{{head}}.Wq", f"{_LONG_ATTENTION}.heads.{{head}}.query_layer"),
    (f"{_ATTENTION}.heads.{{head}}.Wk", f"{_LONG_ATTENTION}.heads.{{head}}.key_layer"),
    (f"{_ATTENTION}.heads.{{head}}.Wv", f"{_LONG_ATTENTION}.heads.{{head}}.value_layer"),
    (f"{_ATTENTION}.projection_layer", f"{_LONG_ATTENTION}.projection_layer"),
    ("ln2", "layer_norm_2"),
    ("ffn.ffn.0", "feed_forward_layer.ffn.0"),
    ("ffn.ffn.2", "feed_forward_layer.ffn.2"),
)
"""Of the rows of PLAIN_LAYER, in either spelling."""
_OUTPUTS = ("model_out_linear_layer.weight", "language_model_out_linear_layer.weight")
_EMBEDDING = "token_embedding_lookup_table.weight"
_TRAINING = "TORCH_SEED batch_size device dropout eval_interval eval_iters learning_rate max_iters".split()


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.ignore(_TRAINING)
    hidden, heads, context = config.integer("d_model"), config.integer("num_heads"), config.integer("context_length")
    if hidden % heads or hidden // heads > MAX_HEAD_DIM:
        raise config.error("num_heads", f"a divisor of d_model ({hidden}) that leaves at most {MAX_HEAD_DIM} each")
    long = any(_LONG_ATTENTION in name for name in config.tensors)
    width = _rows(config, f"transformer_blocks.0.{_NAMES[6][long]}.weight", 4 * hidden)
    norm, head_dim = Norm(1e-5, "layer"), hidden // heads
    layer = Layer(Attention(heads, heads, head_dim, (), head_dim**-0.5), Mlp(width, "relu", gated=False), norm, norm)
    layers = (layer,) * config.integer("num_blocks", high=MAX_LAYERS)
    vocab, embedding = config.integer("max_token_value"), Embedding(positions=Positions(context, "sinusoidal"))
    spec = ModelSpec("from_scratch", vocab, hidden, context, layers, norm, False, embedding)
    return spec, table(spec, long, _rows(config, _EMBEDDING, vocab))


def _rows(config: Config, name: str, default: int) -> int:
    return (config.tensors.get(name) or (default,))[0]


def table(spec: ModelSpec, long: bool | None = None, embedding_rows: int = 0) -> Table:
    """long: which spelling; None: as the checkpoint has it. embedding_rows: of the tensor, which some have one more than needed."""
    spellings = (False, True) if long is None else (long,)
    names = [tuple(f"transformer_blocks.{{layer}}.{pair[spelling]}.weight" for spelling in spellings) for pair in _NAMES]
    rows: list[Row] = [replace(row, hf=ways) for row, ways in zip(PLAIN_LAYER, names, strict=True)]
    final_norm = replace(FINAL_NORM, hf=f"transformer_blocks.{len(spec.layers)}.weight")
    output = replace(OUTPUT, hf=tuple(_OUTPUTS[spelling] for spelling in spellings))
    embedding = replace(EMBEDDING, hf=Stored(_EMBEDDING, Part(0, spec.vocab_size, max(embedding_rows, spec.vocab_size))))
    norms = [row for row in rows if row.field.endswith("norm.weight")]
    rows += [*biases([*norms, final_norm], of="weight"), *biases([*rows, output], None)]
    return Table((embedding, *rows, final_norm, output), ("*.tril", "*.mask", "position_encoding_lookup_table"))
