"""A chart of results: prompt and generated tokens a second. matplotlib is imported here alone, and only when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linnet.bench.measure import Result
from linnet.charts import save

DIMENSIONS = {"batch_size": "batch", "input_len": "input", "output_len": "output"}
FIGURES = {"prompt_tokens_per_s": "prompt tokens/s", "generated_tokens_per_s": "generated tokens/s"}


def plot(results: Sequence[Result], path: Path, title: str) -> None:
    """Writes the chart: along x the dimension of the cases that has the most values, a line for each of the others' combinations."""
    from matplotlib.figure import Figure

    done = [result for result in results if result.error is None]
    along = max(DIMENSIONS, key=lambda name: len({getattr(result.case, name) for result in done}))
    others = [name for name in DIMENSIONS if name != along]
    lines: dict[tuple[int, ...], list[Result]] = {}
    for result in sorted(done, key=lambda result: int(getattr(result.case, along))):
        lines.setdefault(tuple(getattr(result.case, name) for name in others), []).append(result)
    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    figure.suptitle(title.replace("$", r"\$"))  # a pair of them would set formulas
    ticks = sorted({int(getattr(result.case, along)) for result in done})
    for axes, (name, label) in zip(figure.subplots(1, 2), FIGURES.items(), strict=True):
        for values, line in lines.items():
            points = [(getattr(result.case, along), getattr(result, name)) for result in line if getattr(result, name) is not None]
            legend = ", ".join(f"{DIMENSIONS[other]} {value}" for other, value in zip(others, values, strict=True))
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=legend)
        axes.set(xlabel=DIMENSIONS[along], ylabel=label, xscale="log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    if 0 < len(lines) <= 20:
        figure.axes[0].legend(fontsize="small")
    save(figure, path)
