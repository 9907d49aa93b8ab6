"""Files that llama.cpp quantizes: what `llama-quantize` does, through the C interface."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
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


def equal_importance(source: Path) -> dict[str, np.ndarray]:
    """Every column of every matrix as important as the others: some types are not made without importances."""
    return {tensor.name: np.ones(int(tensor.shape[0])) for tensor in gguf.GGUFReader(source).tensors if len(tensor.shape) == 2}


def quantize(
    source: Path,
    target: Path,
    file_type: int,
    overrides: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    importance: Mapping[str, np.ndarray] | None = None,
    pure: bool = False,
) -> None:
    """What `llama-quantize [--imatrix] [--pure] SOURCE TARGET TYPE` does. importance: [columns], by tensor; None: without."""
    api = quiet_llama_cpp()
    params = api.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.pure = file_type, 1, pure
    if importance is not None:
        entries = (api.llama_model_imatrix_data * (len(importance) + 1))()
        columns = [(ctypes.c_float * len(values))(*values.tolist()) for values in importance.values()]
        for entry, name, values in zip(entries, importance, columns, strict=False):  # the last stays empty: the end
            entry.name, entry.data, entry.size = name.encode(), ctypes.cast(values, ctypes.POINTER(ctypes.c_float)), len(values)
        params.imatrix = entries
    types = (api.llama_model_tensor_override * (len(overrides or {}) + 1))()
    for entry, (pattern, type) in zip(types, (overrides or {}).items(), strict=False):
        entry.pattern, entry.type = pattern.encode(), int(type)
    params.tt_overrides = types
    assert api.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0
