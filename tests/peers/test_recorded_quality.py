"""How far quantized files are from their source, beside llama.cpp's quantizer, whose figures record_quality.py wrote down."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import comparison  # noqa: F401  # lets the next ones be found
import numpy as np
import pytest
from quality import CASES, MODELS, calibration_text, divergence, predictions, write_model

import linnet

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded_quality.json").read_text())["divergence"]
LIMITS = {"q4_0": 1.0, "q2_k": 1.0, "q4_k": 1.0, "q6_k": 1.0, "q4_k+": 1.0, "q2_k+": 1.0}
"""Of the mean ratio to llama.cpp's divergence, where both quantizers are calibrated (+) or neither is."""
GAIN = {"q4_k": 0.9, "q2_k": 0.9}
"""Of the mean ratio, ours calibrated and llama.cpp's not."""
LUCK = {"random": 0.03, "tiny": 0.25}
"""Standard deviation of the logarithm of one model's ratio: a few rows decide what the built-in model predicts."""
QUICK = ["random-0", "tiny-0"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Our divergences on a model, by type."""

    @cache
    def measure(name: str) -> dict[str, float]:
        folder = tmp_path_factory.mktemp("quality")
        model, text, kept = write_model(name, folder / name), calibration_text(folder / "text.txt"), folder / "importance.gguf"
        linnet.quantize(model, folder / "out.gguf", "q4_k", calibrate=text, special=True, save_importance=kept)
        expected, found = predictions(model), {}
        for type, calibrated in CASES:
            linnet.quantize(model, folder / "out.gguf", type, pure=True, importance=kept if calibrated else None, force=True)
            found[type + "+" * calibrated] = divergence(expected, predictions(folder / "out.gguf"))
        return found

    return measure


def check(names: list[str], measured: Any) -> None:
    """Each mean within its limit, or as far above it as luck takes one mean of twenty."""
    luck = np.exp(2 * LUCK[names[0].partition("-")[0]] / len(names) ** 0.5)

    def ratio(ours: str, theirs: str) -> float:
        return float(np.exp(np.mean([np.log(measured(name)[ours] / RECORDED[name][theirs]) for name in names])))

    ratios = {type: ratio(type, type) for type in LIMITS}
    gains = {type: ratio(type + "+", type) for type in GAIN}
    print(names, ratios, gains)
    assert all(ratios[type] <= limit * luck for type, limit in LIMITS.items()), ratios
    assert all(gains[type] <= limit * luck for type, limit in GAIN.items()), gains


def test_every_model_is_recorded() -> None:
    assert list(RECORDED) == MODELS
    assert all(list(figures) == [type + "+" * calibrated for type, calibrated in CASES] for figures in RECORDED.values())


@pytest.mark.parametrize("name", QUICK)
def test_no_further_from_the_source_than_llama_cpp(name: str, measured: Any) -> None:
    check([name], measured)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LUCK)
def test_no_further_from_the_source_than_llama_cpp_on_average(kind: str, measured: Any) -> None:
    check([name for name in MODELS if name.startswith(kind)], measured)
