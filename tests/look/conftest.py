"""Lets these tests use the writer of GGUF files in tests/load."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "load"))
