"""Measures every type on the built-in model and writes the table of docs/quantize.md:
python docs/generate_quantize.py
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "models" / "tiny"))
from corpus import documents  # noqa: E402
from score import score  # noqa: E402

import linnet  # noqa: E402
from linnet.quantize.file_types import FILE_TYPES  # noqa: E402
from linnet.quantize.report import QuantizeReport  # noqa: E402

PAGE = ROOT / "docs" / "quantize.md"
BEGIN, END = "<!-- begin: generate_quantize.py -->\n", "<!-- end -->\n"
SUMS = 500
CALIBRATED = ("Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K")
CALIBRATION_TEXTS = 1200
"""Training texts of another seed: none of them is compared on."""


def row(name: str, report: QuantizeReport, path: Path) -> str:
    with linnet.LLM(path) as llm:
        share = score(llm, SUMS)
    found = report.evaluation
    assert found is not None
    cells = (
        name,
        f"{report.bits_per_weight:.2f}",
        f"{report.nbytes / 1e6:.2f}",
        f"{100 * share:.1f}%",
        f"{found.perplexity:.3f}",
        f"{found.kl_divergence:.2g}" if found.kl_divergence < 1e-3 else f"{found.kl_divergence:.4f}",
        f"{100 * found.top1_agreement:.2f}%",
    )
    return f"| {' | '.join(cells)} |\n"


def table(folder: Path) -> str:
    text = folder / "calibration.txt"
    text.write_text("".join(islice(documents(4_000_037), CALIBRATION_TEXTS)), "utf-8")
    lines = "| type | bits per weight | MB | sums right | perplexity | KL divergence | same top token |\n|---|---|---|---|---|---|---|\n"
    for name in FILE_TYPES:
        if name != "MXFP4_MOE":  # of a model without experts: Q8_0
            path = folder / f"{name}.gguf"
            lines += row(name, linnet.quantize("tiny", path, name), path)
    for name in CALIBRATED:
        path = folder / f"{name}-calibrated.gguf"
        lines += row(f"{name}, calibrated", linnet.quantize("tiny", path, name, calibrate=text, special=True), path)
    return lines


def main() -> None:
    page = PAGE.read_text("utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(f"{before}{BEGIN}{table(Path(folder))}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
