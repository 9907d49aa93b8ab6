"""The shapes of the models that are measured, and which type `llama-quantize` gives each of their matrices."""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType as FileType


@dataclass(frozen=True)
class Shape:
    """A Llama-like model. architecture: GGUF's name of it. tied: the output matrix is the embedding. biased: queries, keys and values
    have biases."""

    name: str
    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocab: int
    context: int
    rope_base: float
    norm_epsilon: float
    tied: bool = False
    biased: bool = False

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of every matrix, in the order of a GGUF file."""
        found = {} if self.tied else {"output": (self.vocab, self.hidden)}
        found["token_embd"] = (self.vocab, self.hidden)
        for layer in range(self.layers):
            found |= {
                f"blk.{layer}.attn_q": (self.hidden, self.hidden),
                f"blk.{layer}.attn_k": (self.kv_width, self.hidden),
                f"blk.{layer}.attn_v": (self.kv_width, self.hidden),
                f"blk.{layer}.attn_output": (self.hidden, self.hidden),
                f"blk.{layer}.ffn_gate": (self.ff, self.hidden),
                f"blk.{layer}.ffn_up": (self.ff, self.hidden),
                f"blk.{layer}.ffn_down": (self.hidden, self.ff),
            }
        return found


SHAPES = {
    shape.name: shape
    for shape in (
        # The published TinyLlama-1.1B stops at 2048 positions; these files let measurements go on to 4096.
        Shape("tinyllama", "llama", 2048, 22, 32, 4, 5632, 32000, 4096, 10000.0, 1e-5),
        Shape("qwen2.5-0.5b", "qwen2", 896, 24, 14, 2, 4864, 151936, 32768, 1e6, 1e-6, tied=True, biased=True),
    )
}

FILE_TYPES = {
    "q4_0": (FileType.MOSTLY_Q4_0, Type.Q4_0),
    "q8_0": (FileType.MOSTLY_Q8_0, Type.Q8_0),
    "q4_k_m": (FileType.MOSTLY_Q4_K_M, Type.Q4_K),
    "f16": (FileType.MOSTLY_F16, Type.F16),
}


def matrix_type(shape: Shape, name: str, file_type: str) -> Type:
    """The type of one matrix in a file of FILE_TYPES: the output (or the embedding that serves as one) of 4-bit files is Q6_K, and so
    are half of the value and down matrices of Q4_K_M. Raises ValueError where the rows are no whole blocks: there llama-quantize
    chooses other types, for which nothing is written here."""
    chosen = FILE_TYPES[file_type][1]
    is_delicate = name == ("token_embd" if shape.tied else "output")
    if chosen is Type.Q4_K:
        is_delicate |= name.endswith(("attn_v", "ffn_down")) and _gets_more_bits(int(name.split(".")[1]), shape.layers)
    if chosen in (Type.Q4_0, Type.Q4_K) and is_delicate:
        chosen = Type.Q6_K
    columns, block = shape.matrices()[name][1], 256 if chosen in (Type.Q4_K, Type.Q6_K) else 32
    if columns % block:
        raise ValueError(f"{shape.name} has rows of {columns} in {name}, and {chosen.name} has blocks of {block}; try another --type")
    return chosen


def _gets_more_bits(layer: int, layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
