"""Has llama.cpp quantize the models of quality.py, measures how far each file is from its source, and writes recorded_quality.json, which
CI compares with. Calibrated files are made from the importances that Linnet measures.

Run it where llama-cpp-python is installed, after any change of models/tiny or quality.py (a quarter of an hour):
    python tests/peers/record_quality.py
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import comparison  # noqa: F401  # lets the next ones be found
from llama_quantize import quantize
from quality import CASES, MODELS, TYPES, calibration_text, divergence, predictions, write_model

import linnet
from linnet.load.checkpoint import open_checkpoint
from linnet.quantize.gguf_model import gguf_model
from linnet.quantize.importance import read_importance

RECORDED = Path(__file__).with_name("recorded_quality.json")


def record(name: str, folder: Path) -> dict[str, float]:
    """llama.cpp's divergences on one model, by type (calibrated ones end in +)."""
    model, text = write_model(name, folder / name), calibration_text(folder / "text.txt")
    source, kept, target = folder / "source.gguf", folder / "importance.gguf", folder / "target.gguf"
    linnet.quantize(model, target, "q4_k", calibrate=text, special=True, save_importance=kept, force=True)
    linnet.quantize(model, source, "f32", force=True)
    checkpoint = open_checkpoint(model)
    importance = read_importance(kept, gguf_model(checkpoint).tensors)
    checkpoint.close()
    expected, found = predictions(source), {}
    for type, calibrated in CASES:
        quantize(source, target, TYPES[type], importance=importance if calibrated else None, pure=True)
        found[type + "+" * calibrated] = float(f"{divergence(expected, predictions(target)):.6g}")
    return found


def main() -> None:
    figures = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = record(name, Path(folder))
        print(name, figures[name], flush=True)
    RECORDED.write_text(json.dumps({"llama_cpp_python": version("llama-cpp-python"), "divergence": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
