"""An evaluation as one page of HTML that needs nothing else: its figures, plots of them, and the rows that did worst."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from linnet.errors import MissingDependencyError
from linnet.eval.evaluation import Evaluation
from linnet.html_page import html_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST = 4000
"""Characters of a text on the page."""
BINS = 20


def check_report() -> None:
    """Raises MissingDependencyError without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingDependencyError('a report has plots: pip install "linnet[plot]"') from None


def report_page(found: Evaluation, worst: int = 20) -> str:
    """The page. worst: how many rows it shows, those that did worst first."""
    facts = {"data": found.data, "items": f"{len(found.samples):,}", "seconds": f"{found.seconds:.1f}"}
    facts |= {name.replace("_", " "): str(value) for name, value in found.task.settings.items() if value not in (None, False)}
    return html_page(
        "linnet.eval",
        "report",
        title=f"An evaluation of {found.model}",
        model=found.model,
        facts=facts.items(),
        metrics={name: _shown(value) for name, value in found.metrics.items()},
        failed=found.failed,
        plots=plots(found),
        worst=[_row(found, row) for row in found.worst(worst)],
    )


def plots(found: Evaluation) -> list[tuple[str, str]]:
    """Titles and PNG images (as data: URLs): how each figure is distributed over the rows, and how long answers are."""
    drawn: dict[str, Sequence[float]] = dict(found.measured.each)
    lengths = [float(sample["completion_tokens"]) for sample in found.samples if "completion_tokens" in sample]
    if lengths:
        drawn["tokens of an answer"] = lengths
    images = [(name, _image(values)) for name, values in drawn.items()]
    tasks = {name.removesuffix("_centered"): value for name, value in found.metrics.items() if name.endswith("_centered")}
    return [("centered accuracy of each task", _bars(tasks)), *images] if tasks else images


def _row(found: Evaluation, row: int) -> dict[str, Any]:
    texts = {name: text if len(text) <= LONGEST else text[:LONGEST] + " …" for name, text in found.task.shown(row, found.samples).items()}
    return {"number": row, "figures": {name: _shown(values[row]) for name, values in found.measured.each.items()}, "texts": texts}


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def _image(values: Sequence[float]) -> str:
    def draw(axes: Axes) -> None:
        finite = [value for value in values if math.isfinite(value)]
        share = all(0 <= value <= 1 for value in finite)
        axes.hist(finite, bins=BINS, range=(0, 1) if share else None, color="#4c78a8")
        axes.set_ylabel("rows")

    return _png(draw, 4.2, 2.2)


def _bars(values: dict[str, Any]) -> str:
    def draw(axes: Axes) -> None:
        names = list(values)[::-1]
        axes.barh(range(len(names)), [values[name] for name in names], color="#4c78a8")
        axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
        axes.axvline(0, color="black", linewidth=0.8)

    return _png(draw, 9, 1 + 0.25 * len(values))


def _png(draw: Callable[[Axes], None], width: float, height: float) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.grid(alpha=0.3)
    image = BytesIO()
    figure.savefig(image, format="png")
    return f"data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}"
