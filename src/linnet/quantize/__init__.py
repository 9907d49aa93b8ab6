"""Writes smaller model files, and measures how good they still are: `linnet.quantize` and `linnet quantize`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from linnet.quantize.report import QuantizeReport

Progress = Callable[[str, int, int], object]
"""Called with the name of the present phase, how much of it is done, and how much there is to do."""


def quantize(
    model: str | Path,
    out: str | Path,
    type: str | None = None,
    *,
    bits: int | None = None,
    pure: bool = False,
    tensor_types: Mapping[str, str] | None = None,
    output_type: str | None = None,
    embedding_type: str | None = None,
    calibrate: str | Path | None = None,
    calibration_tokens: int | None = None,
    importance: str | Path | None = None,
    save_importance: str | Path | None = None,
    eval_text: str | Path | None = None,
    eval_tokens: int | None = None,
    special: bool = False,
    tokenizer: Any = None,
    threads: int | None = None,
    force: bool = False,
    plot: str | Path | None = None,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Writes any model that `LLM` opens as one GGUF file that llama.cpp runs, and measures how good it still is.

    type: a file type by llama.cpp's name in any case, such as "q4_k_m" ("q4_k" is the same), or bits: 2, 4 or 8 (Q2_K, Q4_K_M, Q8_0).
    The file types give some tensors more bits, as llama.cpp's do; pure: one type for all. tensor_types: types by regular expressions, for
    the tensors whose GGUF names contain a match ({"attn_v": "q8_0"}); output_type, embedding_type: those of output.weight and of
    token_embd.weight. Vectors, matrices that choose experts, and positions stay F32.

    calibrate: a text to run through the model first (its first `calibration_tokens` tokens; None: 16,384). Rounding is then most exact in
    the columns that meet large activations, except in an embedding that is also the output. importance: the same from a file, as
    save_importance or llama.cpp's imatrix writes it (GGUF).
    eval_text: a text on which the new file is compared with the source (its first `eval_tokens` tokens; None: 4,096); the built-in model
    has one of its own. special: control tokens that are spelled out in these texts become those tokens. tokenizer: replaces the model's.
    plot: a PNG file of the tensors' errors. force: replaces an existing file, stores tensors that are quantized already in more bits, and
    writes a vocabulary even if GGUF cannot express it exactly.

    The file gets its name once it is complete. Memory: the largest tensor and less than 1 GB, plus two models while they are compared, or
    one while it is calibrated. Raises InvalidRequestError for wrong options, paths that cannot be written and full disks, ModelFileError
    for files that cannot be read, and UnsupportedModelError for a model that GGUF cannot express.
    """
    from linnet.quantize.run import Job, run

    given = locals()
    return run(Job(**{name: given[name] for name in Job.__dataclass_fields__}))
