"""Quantizing a model, Linnet against llama.cpp, in turns: seconds from a file to a file, on the same threads.

    python benchmarks/quantize.py MODEL.gguf --types q4_0 q4_k_m --threads 2 --runs 1

MODEL.gguf holds float16 (`benchmarks/make_model.py` makes one of any shape). Each run is a whole one: read, quantize,
write, with what either does beside it (Linnet measures each tensor's error and flushes the file to the disk). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from peer import quiet_llama_cpp

import linnet

FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q2_k": 10, "q3_k_m": 12, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}
"""llama.cpp's numbers of mixtures (LLAMA_FTYPE_MOSTLY_*)."""


def seconds(engine: str, source: Path, target: Path, type: str, threads: int) -> float:
    target.unlink(missing_ok=True)
    begin = time.perf_counter()
    if engine == "linnet":
        linnet.quantize(source, target, type, threads=threads)
    else:
        api = quiet_llama_cpp()
        params = api.llama_model_quantize_default_params()
        params.ftype, params.nthread = FILE_TYPES[type], threads
        if api.llama_model_quantize(str(source).encode(), str(target).encode(), params):
            raise RuntimeError(f"llama.cpp does not quantize {source}: {' '.join(api.linnet_errors)}")
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--types", nargs="+", default=["q4_0", "q4_k_m"], choices=FILE_TYPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the files are written, one at a time (default: beside the model)")
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder or arguments.model.parent) as folder:
        target = Path(folder) / "out.gguf"
        for type in arguments.types:
            taken: dict[str, list[float]] = {"linnet": [], "llama.cpp": []}
            for _ in range(arguments.runs):
                for engine, times in taken.items():
                    times.append(seconds(engine, arguments.model, target, type, arguments.threads))
            ours, theirs = median(taken["linnet"]), median(taken["llama.cpp"])
            rows[type] = {"linnet_s": round(ours, 2), "llama_cpp_s": round(theirs, 2), "speedup": round(theirs / ours, 2)}
            print(f"{type}: Linnet {ours:.1f} s, llama.cpp {theirs:.1f} s, {theirs / ours:.2f} times as fast", flush=True)
    print(json.dumps({"model_bytes": arguments.model.stat().st_size, "threads": arguments.threads, **rows}))


if __name__ == "__main__":
    main()
