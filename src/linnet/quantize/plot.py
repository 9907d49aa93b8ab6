"""A chart of each tensor's error. matplotlib is imported here alone, and only when asked for."""

from __future__ import annotations

import re
from pathlib import Path

from linnet.quantize.atomic import whole_file
from linnet.quantize.report import QuantizeReport


def plot(report: QuantizeReport, path: Path, force: bool) -> None:
    """Writes a PNG file, over one that is there if `force`: along x the layers, a line for each kind of matrix; those outside the layers
    stand before them."""
    from matplotlib.figure import Figure

    lines: dict[str, list[tuple[int, float]]] = {}
    for tensor in report.tensors:
        if tensor.relative_error == 0:
            continue
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        kind = tensor.name if layer is None else re.sub(r"^blk\.\d+\.", "", tensor.name)
        lines.setdefault(kind.removesuffix(".weight"), []).append((-1 if layer is None else int(layer[1]), tensor.relative_error))
    figure = Figure(figsize=(10, 5), dpi=120, layout="constrained")
    title = f"{Path(report.out).name}: {report.type}, {report.bits_per_weight:.2f} bits per weight"
    if report.evaluation is not None:
        title += f", KL divergence {report.evaluation.kl_divergence:.3g}"
    figure.suptitle(title.replace("$", r"\$"))  # a pair of them would set formulas
    axes = figure.subplots()
    for kind, points in lines.items():
        axes.plot([x for x, _ in sorted(points)], [y for _, y in sorted(points)], marker="o", markersize=4, label=kind)
    axes.set(xlabel="layer (-1: outside the layers)", ylabel="relative error")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if 0 < len(lines) <= 30:
        axes.legend(fontsize="small", ncols=2)
    with whole_file(path, force) as file:
        figure.savefig(file, format="png")
