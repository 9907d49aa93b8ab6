"""An engine in a process of its own, asked through pipes: while one computes, the others are blocked in a read.

The child reads lines of JSON, ["prompt", 512] for example, and answers each with one line. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


class Worker:
    """The parent's end. Raises RuntimeError where the child fails, which has then said why on stderr."""

    def __init__(self, engine: str, model: str, threads: int, context: int, batch: int, vocabulary: int) -> None:
        self.engine = engine
        # Engines get their thread count from us alone, and wait as they do by default.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "MKL_"))}
        arguments = [engine, model, *map(str, (threads, context, batch, vocabulary))]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = str(self._answer())

    def ask(self, call: str, *arguments: int) -> Any:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps([call, *arguments]) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def processor_seconds(self) -> float:
        """Of all its threads so far, in ticks of the system; 0 where the system does not tell."""
        with suppress(OSError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) * TICK_S
        return 0.0

    def close(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.engine} failed")
        return json.loads(line)


def serve(answers: TextIO) -> None:
    """The child: opens the engine, says what it is, then does as it is asked, until its stdin ends."""
    from engines import open_engine

    name, model, *numbers = sys.argv[1:]
    threads, context, batch, vocabulary = map(int, numbers)
    engine: Any = open_engine(name, model, threads, context, batch)
    draw = random.Random(0)  # every engine gets the same tokens

    def prompts(count: int, length: int) -> list[list[int]]:
        return [draw.choices(range(3, vocabulary), k=length) for _ in range(count)]

    def answer(result: Any) -> None:
        print(json.dumps(result), file=answers, flush=True)

    answer(engine.about())
    for line in sys.stdin:
        call, *arguments = json.loads(line)
        if call == "prompt":
            answer(engine.prompt(*prompts(1, arguments[0])))
        elif call == "fill":
            start = time.perf_counter()
            engine.fill(prompts(batch, arguments[0]))
            answer(time.perf_counter() - start)
        elif call == "decode":
            answer(engine.decode(arguments[0]))
        elif call == "serve":
            answer(engine.serve(prompts(batch, arguments[0]), arguments[1]))
        elif call == "steps":
            answer(engine.steps())
        else:
            raise ValueError(f"no such call: {call}")


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(answers)
