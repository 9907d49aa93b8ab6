"""What a model is: frozen dataclasses, resolved once from a checkpoint's config and typed throughout.

Nothing here computes or reads files. A family (`arch/llama.py` ...) builds a `ModelSpec`; `forward.py` walks it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from linnet.arch.rope_spec import Rope

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu", "relu_squared", "sigmoid", "clamped_swiglu"]
"""clamped_swiglu is that of gpt-oss and only a gate: g = min(gate, 7), u = clip(up, -7, 7): g * sigmoid(1.702 g) * (u + 1)."""


@dataclass(frozen=True)
class Norm:
    """Normalisation of a row, times a weight and plus a bias where the checkpoint has them.

    rms: x / sqrt(mean(x^2) + epsilon) (Zhang & Sennrich 2019). layer: (x - mean) / sqrt(variance + epsilon) (Ba et al. 2016).
    """

    epsilon: float
    kind: Literal["rms", "layer"] = "rms"


@dataclass(frozen=True)
class Latent:
    """Keys and values through a narrow projection (DeepSeek-V2's multi-head latent attention, 2024).

    compressed = norm(x @ key_value_down) [rank] gives keys (all but their last `rope_dim` entries) and values of every head;
    one rotated key part of `rope_dim` entries is shared by all heads. query_rank: the queries' own such projection, or None.
    """

    rank: int
    rope_dim: int
    norm: Norm
    query_rank: int | None = None


@dataclass(frozen=True)
class Temperature:
    """What rotated queries are multiplied by, the more the further on: 1 + beta * log(1 + floor(position / length)) (Llama 4)."""

    beta: float
    length: int


@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention.

    head_dim: width of a query and key head; value_dim: of a value head (None: the same).
    ropes: applied one after another, usually one or none.
    scale: multiplies query times key.
    window: how many positions back a token sees (itself included).
    alibi: each head's slope, added to scores as slope * (key position - query position) (Press et al. 2022); after `scale`.
    softcap: scores become softcap * tanh(score / softcap) before masking (Gemma 2).
    sinks: each head has a learned score that takes part in the softmax and gives no value (gpt-oss).
    query_norm, key_norm: over each head, or over the whole row when not `norm_heads` (OLMo 2); after rotation when
        `norm_rotated` (nanochat). Their weights are [head_dim] for all heads or [heads * head_dim], or there are none.
    value_gate: how many leading columns of the layer's input gate its value embeddings, which are then added to the values
        times value_gate_scale (nanochat); None: it has none.
    keys_as_values: the values are the projected keys, before key_norm and rotation; there is no projection of values (Gemma 4).
    value_norm: over each value head, never the whole row; without a weight (Gemma 4).
    temperature: of the queries, once they are rotated (Ministral 3).
    kv_layer: the number of an earlier layer, alike in window and shape, whose keys and values this one reads; it then has none of
        its own, and what belongs to them is None here (Gemma 3n).
    gated: whether what the heads give is multiplied by the sigmoid of a projection of the layer's input (Qwen 3 Next).
    """

    heads: int
    kv_heads: int
    head_dim: int
    ropes: tuple[Rope, ...]
    scale: float
    window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    norm_heads: bool = True
    norm_rotated: bool = False
    value_dim: int | None = None
    alibi: tuple[float, ...] | None = None
    softcap: float | None = None
    sinks: bool = False
    latent: Latent | None = None
    value_gate: int | None = None
    value_gate_scale: float = 1.0
    keys_as_values: bool = False
    value_norm: Norm | None = None
    temperature: Temperature | None = None
    kv_layer: int | None = None
    gated: bool = False

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def value_head_dim(self) -> int:
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def value_width(self) -> int:
        return self.kv_heads * self.value_head_dim

    @property
    def output_width(self) -> int:
        """Width of what attention gives: every query head's mix of values."""
        return self.heads * self.value_head_dim


@dataclass(frozen=True)
class GatedDeltaNet:
    """Linear attention by the gated delta rule (Yang et al. 2024): a matrix S [key_dim, value_dim] for each value head in place of keys
    and values, so that a token costs the same wherever it stands.

    Queries, keys and values pass a causal convolution of `taps` positions for each column, then SiLU. Queries and keys are divided by their
    length (1e-6 is added to its square), queries also by sqrt(key_dim). For each value head there is a decay
    g = exp(-decay * softplus(rate)) and a strength b = sigmoid(strength): S = g S; S += key (b (value - key S))^T; the head gives query S,
    which is normalised and multiplied by the SiLU of its gate.
    Value heads share `key_heads` query and key heads, neighbours the same.
    norm: over each head of the result; its weight is [value_dim].
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    norm: Norm

    @property
    def key_width(self) -> int:
        return self.key_heads * self.key_dim

    @property
    def value_width(self) -> int:
        return self.value_heads * self.value_dim

    @property
    def tap_widths(self) -> tuple[int, int, int]:
        """Columns that are convolved: of queries, keys and values."""
        return self.key_width, self.key_width, self.value_width

    @property
    def state_size(self) -> int:
        """Entries of a sequence's state: the last inputs of the convolutions, then S of every head."""
        return (self.taps - 1) * sum(self.tap_widths) + self.value_heads * self.key_dim * self.value_dim


@dataclass(frozen=True)
class ShortConvolution:
    """A causal convolution of `taps` positions for each of `width` columns, between two gates (LFM2, Liquid AI 2025):
    output_gate * convolved(input_gate * value), all three projections of the layer's input."""

    width: int
    taps: int

    @property
    def state_size(self) -> int:
        """Entries of a sequence's state: the last inputs."""
        return (self.taps - 1) * self.width


Recurrent: TypeAlias = GatedDeltaNet | ShortConvolution
"""What remembers a sequence in a state of fixed size, rather than in keys and values of every position."""

Mixer: TypeAlias = Attention | Recurrent
"""How a layer's tokens learn of those before them."""


@dataclass(frozen=True)
class Mlp:
    """Feed-forward block: down(act(gate(x)) * up(x)) when `gated`, else down(act(up(x)))."""

    width: int
    activation: Activation
    gated: bool = True


@dataclass(frozen=True)
class Router:
    """How a token's experts are chosen from the router's logits [experts], and weighed.

    scoring: softmax or sigmoid over all experts; "softmax_chosen" picks by logit and takes the softmax over those chosen.
    normalise: whether the chosen weights are divided by their sum (plus 1e-20 for sigmoid); scale multiplies them afterwards.
    groups, active_groups: experts form `groups` equal groups, of which only the best `active_groups` may be chosen from; a group
        is worth its largest score, or the sum of its two largest for sigmoid scoring (DeepSeek V2, V3).
    corrected: whether a learned value per expert is added to the scores for choosing, not for weighing (DeepSeek V3).
    rescaled: whether each expert's weight is, last of all, multiplied by a learned value of that expert (Gemma 4).
    input_scale: multiplies the input that the logits are made of (Gemma 4).
    Ties go to the smaller index. Results are summed in descending order of score.
    """

    active: int
    scoring: Literal["softmax", "sigmoid", "softmax_chosen"] = "softmax"
    normalise: bool = True
    scale: float = 1.0
    groups: int = 1
    active_groups: int = 1
    corrected: bool = False
    rescaled: bool = False
    input_scale: float = 1.0


@dataclass(frozen=True)
class Moe:
    """Mixture of experts: the `router.active` best of `experts` blocks of `expert`'s shape, weighed and summed; plus, where there
    is one, a `shared` block that every token passes, itself weighed by sigmoid of one output when `shared_gated`.

    branch_norm: the experts and the router each normalise the layer's sum for themselves, while the shared block reads what mlp_norm
    made of it; and what experts and shared block give is normalised before it is added (Gemma 4). None: all read what mlp_norm made.
    """

    experts: int
    expert: Mlp
    router: Router
    shared: Mlp | None = None
    shared_gated: bool = False
    branch_norm: Norm | None = None


@dataclass(frozen=True)
class PerLayer:
    """A layer's own embedding of each token (Gemma 3n), which its last step adds: x += norm(project(act(gate(x)) * own)), where own
    [width] is the layer's part of (table[token] * sqrt(width) + norm(first @ projection / sqrt(hidden))) / sqrt(2). first is the first
    layer's input, the table [vocab, layers * width]; the norm inside is over each layer's part."""

    width: int
    activation: Activation
    norm: Norm


@dataclass(frozen=True)
class Layer:
    """One decoder layer. With every option at its default: x += attention(norm(x)); x += mlp(norm(x)).

    attention_norm, mlp_norm: of what goes in; None: nothing is normalised there (OLMo 2; and see parallel).
    attention_post_norm, mlp_post_norm: of what comes out, before it is added (Gemma 2, OLMo 2).
    attention_sum_norm, mlp_sum_norm: of the sum (post-norm models: OPT 350M).
    parallel: attention and mlp both read the layer's input; without an mlp_norm the mlp reads attention's normalised input.
    residual: what the outputs are added to: the input, or the input as normalised (ChatGLM-6B, BLOOM's option).
    residual_scale: multiplies what is added to (ChatGLM-6B); branch_scale: what is added (Granite).
    remixed: the input is first a learned mix of itself and of the first layer's input (nanochat).
    per_layer: the same in every layer of a model, or in none.
    rescaled: the output is multiplied by a learned number (Gemma 4).
    mixer: attention, or what stands in its place; what is said of attention above goes for it too.
    """

    mixer: Mixer
    mlp: Mlp | Moe
    attention_norm: Norm | None
    mlp_norm: Norm | None
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    attention_sum_norm: Norm | None = None
    mlp_sum_norm: Norm | None = None
    parallel: bool = False
    residual: Literal["input", "normed"] = "input"
    residual_scale: float = 1.0
    branch_scale: float = 1.0
    remixed: bool = False
    per_layer: PerLayer | None = None
    rescaled: bool = False

    @property
    def attention(self) -> Attention:
        """The mixer of a layer that is known to have attention."""
        assert isinstance(self.mixer, Attention)
        return self.mixer


@dataclass(frozen=True)
class Positions:
    """Absolute positions added to the embeddings: row position + offset of a table of `count` rows, learned, or computed as
    sine, cosine pairs side by side (Vaswani et al. 2017: sin(p / 10000^(2i / hidden)), then cos of the same)."""

    count: int
    kind: Literal["learned", "sinusoidal"] = "learned"
    offset: int = 0


@dataclass(frozen=True)
class Embedding:
    """From token ids to the first layer's input: rows of the table times `scale`, normalised, plus positions, in the order
    rows, projection, scale, positions, norm, smear.

    width: of the table's rows when they are projected to the hidden size (OPT 350M; and back before the output); None: hidden.
    smear: how many leading columns decide what share of the previous token's embedding is added (nanochat); None: none.
    """

    scale: float = 1.0
    norm: Norm | None = None
    positions: Positions | None = None
    width: int | None = None
    smear: int | None = None


@dataclass(frozen=True)
class Output:
    """From the last hidden state to logits: (x @ output + bias) * scale, then softcap * tanh(logits / softcap)."""

    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A whole decoder.

    vocab_size: rows of the output (often padded past the tokenizer's entries). context: the longest sequence that the model was
    made for. tied: the output is the embedding.
    bidirectional_prompt: tokens of the prompt but for its last see each other whatever their order (ChatGLM-6B's prefix).
    backout: the layer whose output, times a learned factor, is taken away from the last one's (nanochat); None: none.
    """

    family: str
    vocab_size: int
    hidden: int
    context: int
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    tied: bool
    embedding: Embedding = field(default_factory=Embedding)
    output: Output = field(default_factory=Output)
    bidirectional_prompt: bool = False
    backout: int | None = None

    @property
    def attentions(self) -> list[Attention]:
        """Of those layers that have one."""
        return [layer.mixer for layer in self.layers if isinstance(layer.mixer, Attention)]

    @property
    def is_recurrent(self) -> bool:
        """Whether any layer has a state, which goes forward only: it cannot be had again of an earlier position."""
        return len(self.attentions) < len(self.layers)

    @property
    def main_rope(self) -> Rope | None:
        """That of a layer which sees everything, if there is one: where ropes differ, it alone scales."""
        everywhere = sorted(self.attentions, key=lambda attention: attention.window is not None)
        return next((rope for attention in everywhere for rope in attention.ropes), None)

    @property
    def kv_layers(self) -> tuple[int, ...]:
        """The numbers of the layers that have keys and values, or a state, of their own."""
        return tuple(
            index for index, layer in enumerate(self.layers) if not isinstance(layer.mixer, Attention) or layer.mixer.kv_layer is None
        )

    @property
    def dense_block(self) -> Mlp:
        """The first dense feed-forward block; of a model without one the shared block, or an expert."""
        for layer in self.layers:
            if isinstance(layer.mlp, Mlp):
                return layer.mlp
        assert isinstance(layer.mlp, Moe)
        return layer.mlp.shared or layer.mlp.expert
