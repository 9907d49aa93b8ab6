"""Files that llama.cpp quantizes: what `llama-quantize` does, through the C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import gguf
from peer import quiet_llama_cpp

# Every type that llama.cpp makes and that has no kernels here, by matrices of the built-in model: regular expressions, of which
# the first that fits counts. Ternary types are for models that were trained so: one small matrix each.
WITHOUT_KERNELS = {
    r"blk\.0\.attn_k": gguf.GGMLQuantizationType.TQ1_0,
    r"blk\.1\.attn_k": gguf.GGMLQuantizationType.TQ2_0,
    "attn_q": gguf.GGMLQuantizationType.IQ1_M,
    "attn_output": gguf.GGMLQuantizationType.IQ2_XXS,
    "ffn_gate": gguf.GGMLQuantizationType.IQ2_XS,
    "ffn_up": gguf.GGMLQuantizationType.IQ2_S,
    "ffn_down": gguf.GGMLQuantizationType.IQ3_XXS,
    "attn_v": gguf.GGMLQuantizationType.IQ3_S,
    "attn_k": gguf.GGMLQuantizationType.IQ1_S,
}


def quantize(source: Path, target: Path, file_type: int, overrides: Mapping[str, gguf.GGMLQuantizationType] | None = None) -> None:
    """What `llama-quantize SOURCE TARGET TYPE` does, with every column of every matrix as important as the others."""
    api = quiet_llama_cpp()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 1
    matrices = [tensor for tensor in gguf.GGUFReader(source).tensors if len(tensor.shape) == 2]
    importance = (api.llama_model_imatrix_data * (len(matrices) + 1))()
    columns = [(ctypes.c_float * int(matrix.shape[0]))(*([1.0] * int(matrix.shape[0]))) for matrix in matrices]
    for entry, matrix, ones in zip(importance, matrices, columns, strict=False):  # the last stays empty: the end
        entry.name, entry.data, entry.size = matrix.name.encode(), ctypes.cast(ones, ctypes.POINTER(ctypes.c_float)), len(ones)
    params.imatrix = importance
    types = (api.llama_model_tensor_override * (len(overrides or {}) + 1))()
    for entry, (pattern, type) in zip(types, (overrides or {}).items(), strict=False):
        entry.pattern, entry.type = pattern.encode(), int(type)
    params.tt_overrides = types
    assert api.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0
