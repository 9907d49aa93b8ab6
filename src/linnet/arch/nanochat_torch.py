"""nanochat as it saves itself (Karpathy, 2025 and 2026). To the model that transformers has came, in 2026: a mix of each layer's input
with the first's, windows, value embeddings, a share of the token before (smear), and a middle layer's output taken off the last
one's (backout). A checkpoint has those whose tensors it has.

Source: https://github.com/karpathy/nanochat/blob/master/nanochat/gpt.py
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.nanochat import MATRICES, nanochat_layer
from linnet.arch.nanochat_history import SOFTCAP, generation_of, windows
from linnet.arch.rope_spec import Rope
from linnet.arch.sizes import read_sizes
from linnet.arch.spec import Embedding, Layer, Mlp, ModelSpec, Norm, Output
from linnet.arch.table import EMBEDDING, OUTPUT, Part, Row, Stored, Table, renamed

_NAMES = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_EMBEDDING, _OUTPUT, _SMEAR_GATE = "transformer.wte.weight", "lm_head.weight", "smear_gate.weight"
_VALUE_EMBEDDING, _VALUE_GATE = "value_embeds.{layer}.weight", "transformer.h.{layer}.attn.ve_gate.weight"


def build(config: Config) -> tuple[ModelSpec, Table]:
    config.called(hidden_size="n_embd", num_hidden_layers="n_layer", num_attention_heads="n_head", num_key_value_heads="n_kv_head")
    config.assume(intermediate_size=4 * config.integer("hidden_size"))
    sizes, context = read_sizes(config), config.integer("sequence_len")
    gates = [_columns(config, _VALUE_GATE.replace("{layer}", str(index))) for index in range(sizes.layers)]
    generation = generation_of(config, gates)
    norm = Norm(2.0**-23)  # what PyTorch takes where nothing is given, in float32
    plain = nanochat_layer(sizes, norm, Rope(sizes.head_dim, generation.theta, context), Mlp(sizes.width, "relu_squared", gated=False))
    plain = replace(plain, remixed="x0_lambdas" in config.tensors)
    sharpened = replace(plain.attention, scale=plain.attention.scale * generation.sharpening**2, value_gate_scale=generation.gate_scale)
    layers = tuple(
        replace(plain, mixer=replace(sharpened, window=window, value_gate=gate))
        for window, gate in zip(windows(config, context, sizes.layers, generation), gates, strict=True)
    )
    embedding, output = Embedding(norm=norm, smear=_columns(config, _SMEAR_GATE)), Output(softcap=SOFTCAP)
    backout = sizes.layers // 2 if "backout_lambda" in config.tensors else None
    spec = ModelSpec("nanochat_torch", sizes.vocab, sizes.hidden, context, layers, norm, False, embedding, output, backout=backout)
    return spec, table(spec, (config.tensors.get(_EMBEDDING) or (sizes.vocab,))[0])


def _columns(config: Config, name: str) -> int | None:
    """How many columns a gate reads; None: there is no such gate."""
    return (*config.tensors[name], 0, 0)[1] if name in config.tensors else None


def table(spec: ModelSpec, stored_vocab: int = 0) -> Table:
    """stored_vocab: rows of the tables of tokens, which are padded."""
    part = Part(0, spec.vocab_size, max(stored_vocab, spec.vocab_size))
    gate = next((layer.attention.value_gate for layer in spec.layers if _gated(layer)), None)
    rows = [
        replace(EMBEDDING, hf=Stored(_EMBEDDING, part)),
        *renamed(MATRICES, "transformer.h.{layer}.", _NAMES),
        replace(OUTPUT, hf=Stored(_OUTPUT, part)),
        Row("layers.input_scale", Stored("resid_lambdas", by_layer=True), None, (1,), when=_remixed),
        Row("layers.first_scale", Stored("x0_lambdas", by_layer=True), None, (1,), when=_remixed),
        Row("layers.attention.value_embedding", Stored(_VALUE_EMBEDDING, part), None, ("vocab", "value"), when=_gated),
        Row("layers.attention.value_gate.matrix", _VALUE_GATE, None, ("kv_heads", gate or 0), when=_gated),
    ]
    if spec.embedding.smear is not None:
        rows.append(Row("smear_gate.matrix", _SMEAR_GATE, None, (1, spec.embedding.smear)))
        rows.append(Row("smear_scale", "smear_lambda", None, (1,)))
    if spec.backout is not None:
        rows.append(Row("backout_scale", "backout_lambda", None, (1,)))
    return Table(tuple(rows))


def _gated(layer: Layer) -> bool:
    return layer.attention.value_gate is not None


def _remixed(layer: Layer) -> bool:
    return layer.remixed
