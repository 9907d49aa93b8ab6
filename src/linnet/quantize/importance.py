"""How much each column of each matrix counts: mean squares of what it is multiplied with, from a text, to and from a file.

The file is llama.cpp's imatrix in GGUF (https://github.com/ggml-org/llama.cpp/tree/master/tools/imatrix): for each tensor sums of
squares, NAME.in_sum2 [experts, columns], and how many rows were summed, NAME.counts [experts, 1].
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import InvalidRequestError
from linnet.load.checkpoint import Checkpoint
from linnet.load.dequantize import dequantize
from linnet.load.gguf_reader import read_part
from linnet.quantize import Progress
from linnet.quantize.atomic import whole_file
from linnet.quantize.calibrate import run_observed
from linnet.quantize.evaluate import WINDOW, windows
from linnet.quantize.file_types import is_quantized
from linnet.quantize.gguf_tensors import Tensor
from linnet.quantize.gguf_writer import Entry, GgufWriter
from linnet.quantize.progress import counter
from linnet.tensors import F32
from linnet.text.tokenizer import Tokenizer

Floats = NDArray[np.float32]

_SUMS, _COUNTS = ".in_sum2", ".counts"
EMBEDDING = "token_embd.weight"
"""Where it is the output matrix too, its rows are also what the first layer reads, and what that makes of its columns is not what the
output does: importances of the one use do harm to the other (dev/LOG.md has figures; llama.cpp's imatrix leaves it out as well)."""
_EXPERT = re.compile(r"\.(\d+)\.weight$")


@dataclass(frozen=True)
class Sums:
    """By the names of tensors: sums of squares [matrices, columns], and the rows that were summed [matrices]. windows: of `length`
    tokens each."""

    sums: Mapping[str, Floats]
    counts: Mapping[str, Floats]
    windows: int
    length: int

    def means(self) -> dict[str, Floats]:
        """[columns], or [experts, columns]; ones for an expert that no row came to."""
        found = {}
        for name, sums in self.sums.items():
            counts = self.counts[name][:, None]
            means = np.divide(sums, counts, out=np.ones_like(sums), where=counts > 0)
            found[name] = means[0] if len(means) == 1 else means
        return found


def calibrated(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    token_ids: Sequence[int],
    tensors: Sequence[Tensor],
    threads: int | None,
    progress: Progress | None,
) -> Sums:
    """The sums over a text. Raises InvalidRequestError for one of less than two tokens."""
    length = min(WINDOW, checkpoint.spec.context)
    texts = windows(token_ids, length, tokenizer.vocabulary.beginning, len(token_ids))
    if not texts:
        raise InvalidRequestError(f"calibrate: the text has {len(token_ids)} tokens; give more, several thousand at best")
    squares: dict[int, NDArray[np.float64]] = {}
    rows: dict[int, int] = {}

    def observe(matrix: Any, x: Floats) -> None:
        summed = np.einsum("ij,ij->j", x, x, dtype=np.float64)
        squares[id(matrix)] = squares.get(id(matrix), 0) + summed
        rows[id(matrix)] = rows.get(id(matrix), 0) + len(x)

    weights = run_observed(checkpoint, texts, observe, threads, counter(progress, "calibrating", sum(map(len, texts))))
    sums, counts = {}, {}
    for tensor in filter(is_quantized, tensors):
        matrices = _matrices(weights, tensor)
        if tensor.name == EMBEDDING or not any(id(matrix) in squares for matrix in matrices):
            continue
        nothing = np.zeros(tensor.shape[-1])
        sums[tensor.name] = np.stack([squares.get(id(matrix), nothing) for matrix in matrices]).astype(np.float32)
        counts[tensor.name] = np.array([rows.get(id(matrix), 0) for matrix in matrices], np.float32)
    return Sums(sums, counts, len(texts), length)


def _matrices(weights: Any, tensor: Tensor) -> list[Any]:
    """The op set's matrices that a tensor holds; of several fields in one, which all multiply the same, the first."""
    if not tensor.places:
        return []
    layer, path = tensor.places[0]
    node = weights if layer is None else weights.layers[layer]
    for part in path.split("."):
        node = getattr(node, part)
    if not isinstance(node, list):
        return [node]
    expert = _EXPERT.search(tensor.name)
    return node if len(tensor.shape) > 2 or expert is None else [node[int(expert[1])]]


def write_importance(path: Path, found: Sums, dataset: str, force: bool = False) -> None:
    """Writes the file, over one that is there if `force`. Raises InvalidRequestError where that is not possible."""
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": [dataset],
        "imatrix.chunk_count": found.windows,
        "imatrix.chunk_size": found.length,
    }
    arrays: dict[str, Floats] = {}
    for name, sums in found.sums.items():
        arrays |= {name + _SUMS: sums, name + _COUNTS: found.counts[name][:, None]}
    entries = [Entry(name, values.shape, F32) for name, values in arrays.items()]
    with whole_file(path, force) as file:
        writer = GgufWriter(file, metadata, entries)
        for entry in entries:
            writer.write(np.ascontiguousarray(arrays[entry.name]).data)
            writer.end_tensor(entry)
        writer.finish()


def read_importance(path: Path, tensors: Sequence[Tensor]) -> dict[str, Floats]:
    """The means of a file, for these tensors. Raises ModelFileError for a file that is none, InvalidRequestError where it is of another
    model: it has none of the names, or other widths."""
    source = read_part(path)
    try:
        sums: dict[str, Floats] = {}
        counts: dict[str, Floats] = {}
        names = set(source.names())
        for tensor in filter(is_quantized, tensors):
            if {tensor.name + _SUMS, tensor.name + _COUNTS} <= names:
                summed, count = (dequantize(source.read(tensor.name + part)) for part in (_SUMS, _COUNTS))
                summed, count = summed.reshape(-1, summed.shape[-1]), count.reshape(-1)
                matrices = tensor.shape[0] if len(tensor.shape) > 2 else 1
                if summed.shape[1] != tensor.shape[-1] or len(summed) not in (1, matrices) or len(count) != len(summed):
                    shapes = f"sums of {list(summed.shape)} for a tensor of {list(tensor.shape)}"
                    raise InvalidRequestError(f"importance {path}: {tensor.name} has {shapes}: it is of another model")
                if not (np.isfinite(summed).all() and (summed >= 0).all() and np.isfinite(count).all()):
                    raise InvalidRequestError(f"importance {path}: {tensor.name} has sums that are below zero or not finite")
                sums[tensor.name], counts[tensor.name] = summed, count
    finally:
        source.close()
    if not sums:
        raise InvalidRequestError(f"importance {path}: has nothing for any tensor of this model")
    return Sums(sums, counts, 0, 0).means()
