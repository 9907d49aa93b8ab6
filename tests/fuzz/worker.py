"""One process of fuzzing: `worker.py TARGET FIRST_SEED SECONDS FOLDER` runs seeds one by one; `--only` stops after the first.

Prints one JSON line for every case that ended in anything but success or an error of Linnet's, or took too much time or
memory, and a summary. A crash or a hang ends the process; FOLDER/seed then says which case it was.
LINNET_TEST_CORE: an extension module to use in place of the package's own (one built under sanitizers).
"""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from pathlib import Path

from core_under_test import CORE  # first: it decides which core the package gets
from exercise import use, use_vocabulary, watched
from targets import write_case

HANG_SECONDS = 20
MEMORY_FACTOR = 16
MEMORY_CONSTANT = (512 if CORE else 64) * 2**20
"""A case may grow the process by so many times its files and this much besides; sanitizers shadow and keep memory."""


def main(target: str, first: int, seconds: float, folder: Path, only: bool) -> int:
    seed, ran, bad = first, 0, 0
    done: dict[str, int] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end or not ran:
        (folder / "seed").write_text(str(seed))
        path = write_case(target, seed, folder / "case")
        size = sum(file.stat().st_size for file in (folder / "case").rglob("*") if file.is_file())
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        result = watched(use_vocabulary if target == "vocabulary" else use, path)
        faulthandler.cancel_dump_traceback_later()
        kind = result["outcome"].split(":")[0]
        done[kind] = done.get(kind, 0) + 1
        if kind.startswith("CRASH") or result["grown"] > MEMORY_FACTOR * size + MEMORY_CONSTANT:
            bad += 1
            print(json.dumps({"target": target, "seed": seed, "size": size, **result}), flush=True)
        elif only:
            print(json.dumps(result))
        ran, seed = ran + 1, seed + 1
        if only:
            break
    print(json.dumps({"target": target, "cases": ran, "bad": bad, "outcomes": done}), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    target, first, seconds, folder = sys.argv[1:5]
    Path(folder).mkdir(parents=True, exist_ok=True)
    sys.exit(main(target, int(first), float(seconds), Path(folder), "--only" in sys.argv))
