"""PNG charts: whether one can be drawn, before the work that it shows, and writing it. matplotlib is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linnet.errors import InvalidRequestError, MissingDependencyError
from linnet.options import check_writable


def check_plot(path: Path) -> None:
    """Raises MissingDependencyError without matplotlib, and InvalidRequestError for a path that is no .png or cannot be written.
    Nothing is written yet."""
    if path.suffix.lower() != ".png":
        raise InvalidRequestError(f"--plot {path}: the chart is a PNG file; give it a name that ends in .png")
    check_writable("--plot", path)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingDependencyError('--plot needs matplotlib: pip install "linnet[plot]"') from None


def save(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure; InvalidRequestError where that is not possible."""
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise InvalidRequestError(f"--plot {path}: cannot be written ({error.strerror})") from None
