"""Where the built-in model's files are, and its GGUF files by type, as `conftest.tiny_in` makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

TINY = Path(__file__).parents[2] / "models" / "tiny"

Quantized = Callable[[str], Path]
