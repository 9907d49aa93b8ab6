"""Converts a GGUF file of make_model.py for the engines that do not read it: to a Hugging Face folder in float16, and from there to
CTranslate2's in int8.

The weights are the same, as far as the other types can hold them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from shapes import SHAPES, Shape

TOP_LEVEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
MODEL_TYPES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def token(index: int) -> str:
    """The made-up vocabulary of the converted models, where ids go in and come out."""
    return f"t{index}"


def config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": [MODEL_TYPES[shape.architecture]],
        "model_type": shape.architecture,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_base,
        "rms_norm_eps": shape.norm_epsilon,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float16",
    }


def tensors(path: Path, shape: Shape) -> Iterator[tuple[str, NDArray[np.float16]]]:
    """Every tensor of the file under its Hugging Face name, decoded to float16."""
    for tensor in gguf.GGUFReader(path).tensors:
        stem, suffix = tensor.name.rsplit(".", 1)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
        if stem in TOP_LEVEL:
            yield f"{TOP_LEVEL[stem]}.{suffix}", values
            continue
        _, layer, part = stem.split(".")
        if shape.architecture == "llama" and part in ("attn_q", "attn_k"):
            values = rotary_halves(values, shape.heads if part == "attn_q" else shape.kv_heads)
        yield f"model.layers.{layer}.{IN_LAYER[part]}.{suffix}", values


def rotary_halves(values: NDArray[np.float16], heads: int) -> NDArray[np.float16]:
    """Rows of a query or key matrix from GGUF's pairs (2i, 2i + 1) to halves (i, i + d/2), head by head."""
    pairs = values.reshape(heads, -1, 2, values.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def to_hugging_face(source: Path, target: Path, shape: Shape) -> None:
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models

    (target / "config.json").write_text(json.dumps(config(shape)))
    vocabulary = {token(index): index for index in range(shape.vocab)}
    Tokenizer(models.WordLevel(vocabulary, unk_token=token(0))).save(str(target / "tokenizer.json"))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": token(0), "bos_token": token(1), "eos_token": token(2)}
    (target / "tokenizer_config.json").write_text(json.dumps(special))
    save_file(dict(tensors(source, shape)), target / "model.safetensors", {"format": "pt"})


def to_ctranslate2(source: Path, target: Path) -> None:
    """`source`: a Hugging Face folder. Weights become int8, with a scale a row."""
    converters: Any = import_module("ctranslate2.converters")
    converters.TransformersConverter(str(source), low_cpu_mem_usage=True).convert(str(target), quantization="int8", force=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="for .hf, a file of make_model.py; for .ct2, the .hf folder")
    parser.add_argument("target", type=Path, help="the folder to write: NAME.hf for Hugging Face's form, NAME.ct2 for CTranslate2's")
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama")
    arguments = parser.parse_args()
    source, target = arguments.source, arguments.target
    if target.suffix not in (".hf", ".ct2"):
        parser.error(f"{target} ends neither in .hf nor in .ct2")
    partial = target.with_name(target.name + ".partial")  # a folder that is there is whole
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if target.suffix == ".hf":
        to_hugging_face(source, partial, SHAPES[arguments.shape])
    else:
        to_ctranslate2(source, partial)
    partial.rename(target)


if __name__ == "__main__":
    main()
