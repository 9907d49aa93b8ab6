"""Any checkpoint as a GGUF file, with a vocabulary of its size that means nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from linnet.errors import UnsupportedModelError
from linnet.load.checkpoint import Checkpoint
from linnet.quantize.file_types import Chosen, is_quantized
from linnet.quantize.gguf_model import gguf_model
from linnet.quantize.gguf_tensors import Tensor
from linnet.quantize.gguf_writer import GgufWriter
from linnet.quantize.stream import entry_of, write_tensors
from linnet.tensors import F32, TYPES


class NotInGgufError(Exception):
    """GGUF's keys cannot say what the model is; the message has the parts of the spec that would be lost."""


def export(checkpoint: Checkpoint, path: Path, architecture: str, type_name: str = "f32", preferred: tuple[str, ...] = ()) -> Path:
    """Writes the model to `path`. type_name: of matrices whose columns its block divides; the rest is f32. preferred: parts of names; a
    field that may be stored under several is under such a one, or else the first of its table. Raises NotInGgufError."""
    try:
        model = gguf_model(checkpoint, preferred, architecture)
    except UnsupportedModelError as error:
        raise NotInGgufError(str(error)) from None
    if model.notes:
        raise NotInGgufError("; ".join(model.notes))
    metadata = {"general.architecture": architecture, **model.metadata, **_vocabulary(model.spec.vocab_size)}
    chosen = [_chosen(tensor, type_name) for tensor in model.tensors]
    with path.open("wb") as file:
        writer = GgufWriter(file, metadata, [entry_of(one) for one in chosen])
        write_tensors(writer, chosen, {}, threads=1)
        writer.finish()
    return path


def _chosen(tensor: Tensor, type_name: str) -> Chosen:
    type = TYPES[type_name]
    return Chosen(tensor, type if is_quantized(tensor) and tensor.shape[-1] % type.block == 0 else F32)


def _vocabulary(size: int) -> dict[str, Any]:
    """Byte-level BPE: the visible ASCII characters, one merge of two of them, and names for the rest."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*letters, "!!", *(f"<{index}>" for index in range(size))][:size],
        "tokenizer.ggml.token_type": np.ones(size, np.int32),
        "tokenizer.ggml.merges": ["! !"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
    }
