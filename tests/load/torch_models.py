"""Models in plain PyTorch, written as their tutorials and papers describe them: what plain checkpoints are made of and compared with.

Each takes token ids [1, n] and gives logits [1, n, vocabulary].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights of a size that lets tokens vary: what passes through keeps its size, and no bias decides alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(norm + 0.2 * noise if parameter.ndim < 2 else 1.5 * parameter.shape[1] ** -0.5 * noise)


@torch.no_grad()
def greedy(model: Any, prompt: list[int], count: int, context: int) -> list[int]:
    """`count` tokens after a prompt, each from the last `context` tokens alone, as such models' own loops crop them."""
    ids = torch.tensor([prompt])
    for _ in range(count):
        ids = torch.cat([ids, model(ids[:, -context:])[:, -1:].argmax(-1)], 1)
    return ids[0, len(prompt) :].tolist()


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None) -> Tensor:
    """[.., n, width] each; a token sees itself and `window` tokens before it, or all."""
    positions = torch.arange(query.shape[-2])
    distance = positions[:, None] - positions
    seen = (distance >= 0) & (distance <= (len(positions) if window is None else window))
    scores = (query @ key.transpose(-2, -1) * scale).masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ value


# ---- from-scratch tutorials: a matrix for each head


class TutorialHead(nn.Module):
    def __init__(self, width: int, size: int, context: int) -> None:
        super().__init__()
        self.Wq, self.Wk, self.Wv = (nn.Linear(width, size, bias=False) for _ in range(3))
        self.register_buffer("mask", torch.tril(torch.ones(context, context)))

    def forward(self, x: Tensor) -> Tensor:
        return causal_attention(self.Wq(x), self.Wk(x), self.Wv(x), self.Wq.out_features**-0.5)


class TutorialBlock(nn.Module):
    def __init__(self, width: int, heads: int, context: int, projection_bias: bool) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mha = nn.Module()
        self.mha.heads = nn.ModuleList(TutorialHead(width, width // heads, context) for _ in range(heads))
        self.mha.projection_layer = nn.Linear(width, width, bias=projection_bias)
        self.ffn = nn.Module()
        self.ffn.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln1(x)
        x = x + self.mha.projection_layer(torch.cat([head(h) for head in self.mha.heads], -1))
        return x + self.ffn.ffn(self.ln2(x))


class Tutorial(nn.Module):
    """h_params are the keys of the tutorial. spare_row: whether the embedding has one row more than the output."""

    def __init__(self, h_params: dict[str, Any], projection_bias: bool = True, spare_row: bool = False) -> None:
        super().__init__()
        width, context, vocabulary = h_params["d_model"], h_params["context_length"], h_params["max_token_value"]
        self.token_embedding_lookup_table = nn.Embedding(vocabulary + spare_row, width)
        blocks = [TutorialBlock(width, h_params["num_heads"], context, projection_bias) for _ in range(h_params["num_blocks"])]
        self.transformer_blocks = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.model_out_linear_layer = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        width = self.token_embedding_lookup_table.embedding_dim
        angles = torch.arange(ids.shape[1])[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        table = torch.zeros(ids.shape[1], width)
        table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
        return self.model_out_linear_layer(self.transformer_blocks(self.token_embedding_lookup_table(ids) + table))


LONG_SPELLING = {
    "mha.": "multi_head_attention_layer.",
    "Wq": "query_layer",
    "Wk": "key_layer",
    "Wv": "value_layer",
    ".mask": ".tril",
    ".ffn.ffn.": ".feed_forward_layer.ffn.",
    "ln1": "layer_norm_1",
    "ln2": "layer_norm_2",
    "model_out_": "language_model_out_",
}


def spelled_out(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tutorial's tensors under its longer names."""

    def longer(name: str) -> str:
        for short, long in LONG_SPELLING.items():
            name = name.replace(short, long)
        return name

    return {longer(name): tensor for name, tensor in state.items()}


# ---- nanoGPT: GPT-2 with nn.Linear


class NanoGptBlock(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = (nn.LayerNorm(width, bias=bias) for _ in range(2))
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn, self.attn.c_proj = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width, bias=bias), nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.attn.c_attn(self.ln_1(x)).chunk(3, -1))
        mixed = causal_attention(query, key, value, query.shape[-1] ** -0.5)
        x = x + self.attn.c_proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp.c_proj(functional.gelu(self.mlp.c_fc(self.ln_2(x))))


class NanoGpt(nn.Module):
    def __init__(self, args: dict[str, Any], tied: bool = True) -> None:
        super().__init__()
        width, bias = args["n_embd"], args["bias"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(args["vocab_size"], width),
                "wpe": nn.Embedding(args["block_size"], width),
                "h": nn.ModuleList(NanoGptBlock(width, args["n_head"], bias) for _ in range(args["n_layer"])),
                "ln_f": nn.LayerNorm(width, bias=bias),
            }
        )
        self.lm_head = nn.Linear(width, args["vocab_size"], bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


# ---- nanochat


@dataclass(frozen=True)
class Generation:
    """What nanochat's model had at a time; see its repository's history of nanochat/gpt.py."""

    remixed: bool = False
    gates: int | None = None
    gate_scale: float = 2.0
    sharpening: float = 1.0
    theta: float = 10_000.0
    share: tuple[int, int] = (2, 1)
    """A short window's part of the context, rounded up to a multiple."""
    smear: bool = False
    backout: bool = False


GENERATIONS = {
    "2025-10": Generation(),
    "2026-01-11": Generation(remixed=True),
    "2026-01-17": Generation(remixed=True, gates=32),
    "2026-03-09": Generation(remixed=True, gates=12, gate_scale=3.0, sharpening=1.15, theta=100_000.0, share=(3, 128)),
    "2026-03-14": Generation(True, 12, 3.0, 1.2, 100_000.0, (4, 128), smear=True, backout=True),
    "2026-08": Generation(True, 12, 3.0, 1.2, 100_000.0, backout=True),
}


class NanoChat:
    """nanochat's model as a function of a flat dict of tensors, which is what it saves."""

    def __init__(self, config: dict[str, Any], generation: Generation, seed: int = 0) -> None:
        self.config, self.generation = config, generation
        self.head_dim = config["n_embd"] // config["n_head"]
        width, rows, layers = config["n_embd"], -(-config["vocab_size"] // 64) * 64, config["n_layer"]
        kv_width, draw = config["n_kv_head"] * self.head_dim, torch.Generator().manual_seed(seed)

        def matrix(out: int, into: int) -> Tensor:
            return 1.5 * into**-0.5 * torch.randn(out, into, generator=draw)

        self.state = {"transformer.wte.weight": matrix(rows, width), "lm_head.weight": 4 * matrix(rows, width)}
        for layer in range(layers):
            shapes = {"attn.c_q": (width, width), "attn.c_k": (kv_width, width), "attn.c_v": (kv_width, width)}
            shapes |= {"attn.c_proj": (width, width), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width)}
            for name, shape in shapes.items():
                self.state[f"transformer.h.{layer}.{name}.weight"] = matrix(*shape)
            if generation.gates and layer % 2 == (layers - 1) % 2:
                self.state[f"value_embeds.{layer}.weight"] = torch.randn(rows, kv_width, generator=draw)
                self.state[f"transformer.h.{layer}.attn.ve_gate.weight"] = matrix(config["n_kv_head"], generation.gates)
        if generation.remixed:
            self.state |= {"resid_lambdas": torch.linspace(1.3, 0.8, layers), "x0_lambdas": torch.linspace(0.4, -0.3, layers)}
        if generation.smear:
            self.state |= {"smear_gate.weight": matrix(1, 24), "smear_lambda": torch.tensor([0.7])}
        if generation.backout:
            self.state["backout_lambda"] = torch.tensor([0.3])

    def window(self, layer: int) -> int | None:
        pattern = self.config.get("window_pattern", "L")
        if pattern[layer % len(pattern)] == "L" or layer == self.config["n_layer"] - 1:
            return None
        share, multiple = self.generation.share
        return self.config.get("short_seq_len") or -(-self.config["sequence_len"] // share // multiple) * multiple

    def rotated(self, x: Tensor) -> Tensor:
        """[1, heads, n, head_dim], turned backwards and normalised."""
        half = self.head_dim // 2
        angles = torch.arange(x.shape[2])[:, None] / self.generation.theta ** (torch.arange(half) / half)
        first, second = x[..., :half], x[..., half:]
        turned = torch.cat([first * angles.cos() + second * angles.sin(), second * angles.cos() - first * angles.sin()], -1)
        return functional.rms_norm(turned, (self.head_dim,)) * self.generation.sharpening

    def attention(self, h: Tensor, ids: Tensor, layer: int) -> Tensor:
        config, prefix = self.config, f"transformer.h.{layer}.attn."

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        query, key, value = (heads(h @ self.state[f"{prefix}c_{name}.weight"].T) for name in "qkv")
        if f"value_embeds.{layer}.weight" in self.state:
            weight = self.state[prefix + "ve_gate.weight"]
            gate = self.generation.gate_scale * torch.sigmoid(h[..., : weight.shape[1]] @ weight.T)
            value = value + gate.transpose(1, 2)[..., None] * heads(self.state[f"value_embeds.{layer}.weight"][ids])
        shared = config["n_head"] // config["n_kv_head"]
        key, value = self.rotated(key).repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        mixed = causal_attention(self.rotated(query), key, value, self.head_dim**-0.5, self.window(layer))
        return mixed.transpose(1, 2).flatten(2) @ self.state[prefix + "c_proj.weight"].T

    def __call__(self, ids: Tensor) -> Tensor:
        width, layers = self.config["n_embd"], self.config["n_layer"]

        def norm(x: Tensor) -> Tensor:
            return functional.rms_norm(x, (width,))

        x = norm(self.state["transformer.wte.weight"][ids])
        if self.generation.smear:
            share = self.state["smear_lambda"] * torch.sigmoid(x[:, 1:, :24] @ self.state["smear_gate.weight"].T)
            x = torch.cat([x[:, :1], x[:, 1:] + share * x[:, :-1]], 1)
        first, middle = x, torch.zeros_like(x)
        for layer in range(layers):
            if self.generation.remixed:
                x = self.state["resid_lambdas"][layer] * x + self.state["x0_lambdas"][layer] * first
            x = x + self.attention(norm(x), ids, layer)
            up = norm(x) @ self.state[f"transformer.h.{layer}.mlp.c_fc.weight"].T
            x = x + up.relu().square() @ self.state[f"transformer.h.{layer}.mlp.c_proj.weight"].T
            if layer == layers // 2:
                middle = x
        if self.generation.backout:
            x = x - self.state["backout_lambda"] * middle
        logits = (norm(x) @ self.state["lm_head.weight"].T)[..., : self.config["vocab_size"]]
        return 15 * torch.tanh(logits / 15)
