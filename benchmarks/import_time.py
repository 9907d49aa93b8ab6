"""How long `import linnet` takes in a fresh interpreter."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

PROGRAM = "import time; start = time.perf_counter(); import linnet; print(time.perf_counter() - start)"
REPEATS = 11


def import_seconds() -> float:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return float(run.stdout)


def main() -> None:
    import_seconds()  # fills the page cache
    times = sorted(import_seconds() for _ in range(REPEATS))
    figures = {"import_median_s": round(statistics.median(times), 4), "import_best_s": round(times[0], 4), "repeats": REPEATS}
    print(f"import linnet: median {figures['import_median_s'] * 1000:.0f} ms of {REPEATS}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
