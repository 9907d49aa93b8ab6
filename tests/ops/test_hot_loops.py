"""The compiled inner loops of the kernels keep what they compute in registers: no stack traffic where the time goes.

Compiles each kernel source to assembly with the flags that the build gives it and looks at every innermost loop that multiplies.
Only slots at a fixed place of the frame count: spills. An array on the stack that a loop walks along is data, and the end of a loop
may be compared where it lies: that is one instruction either way.
"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from kernel_builds import COMPILER, ROOT, flags, knows

KERNELS = ("linear_block", "linear_superblock", "linear_float", "attention")
ISAS = ("avx2", "avxvnni", "avx512")
MULTIPLIES = re.compile(r"(\{vex\}\s+)?(vpdpbusd|vpmaddubsw|vpmaddwd|vfmadd)")
SHARE = 0.2
"""Of the instructions of a loop of several tokens with sixteen registers, which do not hold sums and totals of a whole tile
(block_tile.h says what the alternative costs). The worst is Q5_K with AVX2, whose sums are scaled twice as often as others'."""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")


class Loop(NamedTuple):
    function: str
    lines: list[str]
    spills: list[str]

    @property
    def multiplies(self) -> int:
        return sum(bool(MULTIPLIES.match(line)) for line in self.lines)

    def __str__(self) -> str:
        return f"{self.function}: {len(self.spills)} of {len(self.lines)} instructions, {self.multiplies} multiply; {self.spills[:3]}"


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    assert COMPILER
    folder, compiler = tmp_path_factory.mktemp("assembly"), COMPILER
    if not subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True).stdout.startswith("x86_64"):
        pytest.skip("reads x86-64 assembly")

    def compile(job: tuple[str, str]) -> str:
        isa, kernel = job
        to = folder / f"{kernel}.{isa}.s"
        subprocess.run(
            [
                compiler,
                "-S",
                *flags(isa),
                "-fPIC",
                "-fvisibility=hidden",
                "-w",
                "-o",
                str(to),
                str(ROOT / "csrc" / "kernels" / f"{kernel}.cc"),
            ],
            check=True,
        )
        return to.read_text()

    jobs = [(isa, kernel) for isa in ISAS for kernel in KERNELS if "-mavxvnni" not in flags(isa) or knows(COMPILER, "-mavxvnni")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(jobs, pool.map(compile, jobs), strict=True))


def functions(text: str) -> dict[str, list[str]]:
    """Instructions and labels of each function."""
    found: dict[str, list[str]] = {}
    body: list[str] = []
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if name := re.match(r"([A-Za-z_][\w.$]*):", line):
            body = found.setdefault(name[1], [])
        elif line and (line.startswith(".L") or not line.startswith(".")):
            body.append(line)
    return found


def reaches(body: list[str], labels: dict[str, int], start: int, end: int) -> bool:
    """Does control that enters at `start` come to `end` without leaving what lies between? Where cold code was moved behind the
    rest of its function, it jumps back and makes no loop."""
    seen, left = set(), [start]
    while left:
        i = left.pop()
        if i == end:
            return True
        if i in seen or not start <= i < end:
            continue
        seen.add(i)
        if jump := re.match(r"j\w+\s+(\.L\w+)$", body[i]):
            left.append(labels.get(jump[1], -1))
        if not re.match(r"(jmp|ret)\b", body[i]):
            left.append(i + 1)
    return False


def hot_loops(text: str) -> list[Loop]:
    """Innermost loops that multiply. One that calls is what is left of a row that does not fill vectors."""
    found = []
    for function, body in functions(text).items():
        labels = {line[:-1]: i for i, line in enumerate(body) if line.endswith(":")}
        jumps = [(labels.get(jump[1], i), i) for i, line in enumerate(body) if (jump := re.match(r"j\w+\s+(\.L\w+)$", line))]
        loops = [(start, end) for start, end in jumps if start < end and reaches(body, labels, start, end)]
        frame = "rsp|rbp" if any(re.match(r"movq\s+%rsp, %rbp", line) for line in body) else "rsp"
        slot = re.compile(rf"\(%({frame})\)")
        for start, end in loops:
            if any((a, b) != (start, end) and start <= a and b <= end for a, b in loops):
                continue
            lines = [line for line in body[start : end + 1] if not line.endswith(":")]
            if not any(re.match("call", line) for line in lines):
                found.append(Loop(function, lines, [line for line in lines if slot.search(line) and not line.startswith(("lea", "cmp"))]))
    return [loop for loop in found if loop.multiplies]


def formats(loops: list[Loop]) -> dict[str, list[Loop]]:
    """Loops of block kernels by the weights' format."""
    found: dict[str, list[Loop]] = {}
    for loop in loops:
        name = re.search(r"BlockTileINS0_\d([A-Z]\w*?)EE", loop.function)
        assert name, loop.function
        found.setdefault(name[1], []).append(loop)
    return found


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", ["linear_float", "attention"])
def test_float_and_attention_loops_use_no_stack(assembly: dict[tuple[str, str], str], isa: str, kernel: str) -> None:
    if (isa, kernel) not in assembly:
        pytest.skip("the compiler does not know this instruction set")
    loops = hot_loops(assembly[isa, kernel])
    assert len(loops) >= 8
    assert not [str(loop) for loop in loops if loop.spills]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("kernel", "count"), [("linear_block", 7), ("linear_superblock", 6)])
def test_block_loops_use_no_stack(assembly: dict[tuple[str, str], str], isa: str, kernel: str, count: int) -> None:
    if (isa, kernel) not in assembly:
        pytest.skip("the compiler does not know this instruction set")
    by_format = formats(hot_loops(assembly[isa, kernel]))
    assert len(by_format) == count
    for loops in by_format.values():
        assert len(loops) >= 4
        one_token = min(loop.multiplies for loop in loops)
        for loop in loops:
            allowed = 0 if isa == "avx512" or loop.multiplies == one_token else SHARE * len(loop.lines)
            assert len(loop.spills) <= allowed, str(loop)


def test_nothing_inline_is_shared_between_instruction_sets(assembly: dict[tuple[str, str], str]) -> None:
    """The linker keeps one of all weak functions of a name: that of AVX-512 would end a processor that has less."""
    for (isa, kernel), text in assembly.items():
        shared = [name for name in re.findall(r"\.weak\s+(_Z\w+)", text) if f"{len(isa)}{isa}" not in name]
        assert not shared, (isa, kernel)


def test_spills_are_found(tmp_path: Path) -> None:
    """Twenty sums in sixteen registers cannot be kept: were this loop passed, nothing would be proved by the others."""
    source, to = tmp_path / "spill.cc", tmp_path / "spill.s"
    source.write_text(
        """#include <immintrin.h>
        void many(const float* x, const float* w, long count, float* y) {
          __m256 sum[20];
          for (int i = 0; i < 20; i++) sum[i] = _mm256_setzero_ps();
          for (long k = 0; k < count; k++, x += 160, w += 8) {
            _Pragma("GCC unroll 20") for (int i = 0; i < 20; i++)
              sum[i] = _mm256_fmadd_ps(_mm256_loadu_ps(x + 8 * i), _mm256_loadu_ps(w), sum[i]);
          }
          for (int i = 0; i < 20; i++) _mm256_storeu_ps(y + 8 * i, sum[i]);
        }"""
    )
    assert COMPILER
    subprocess.run([COMPILER, "-S", "-O3", "-mavx2", "-mfma", "-o", str(to), str(source)], check=True)
    assert any(len(loop.spills) >= 4 for loop in hot_loops(to.read_text()))
