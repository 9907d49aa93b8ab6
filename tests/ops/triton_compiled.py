"""Compiles Triton's kernels for GPUs that are not there, down to machine code; says how much shared memory a program takes, in bytes.

Run by `test_triton_kernels.py`, in a process of its own, in which Triton does not interpret.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from linnet.ops.torch import kernels
from linnet.ops.torch.kernels import AT_ONCE

SHARED = {75: 64 * 1024, 86: 99 * 1024, 90: 227 * 1024}
"""Of one program, by compute capability: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities"""

NUMBERS = "window width splits heads kv_heads length rows outs columns groups".split()
FLOATS = {"scale": "fp32", "softcap": "fp32"} | dict.fromkeys("slopes sums largest totals sinks".split(), "*fp32")
INTEGERS = dict.fromkeys(NUMBERS, "i32") | dict.fromkeys("tables positions ends".split(), "*i64")


def compiled(capability: int, kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> None:
    signature = {name: "constexpr" if name in constants else (types | FLOATS | INTEGERS | types)[name] for name in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): value for name, value in constants.items()})
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert made.asm["cubin"]
    print(kernel.__name__, capability, types, made.metadata.shared)
    assert made.metadata.shared <= SHARED[capability]


def attention(capability: int, q: str, stored: str, features: bool) -> None:
    width, at_once = 128, AT_ONCE // (4 if q == "fp32" else 2)
    sizes = {"HEAD": width, "VALUE": width, "HEAD_BLOCK": width, "VALUE_BLOCK": width, "GROUP": 4, "GROUP_BLOCK": 16, "PAGE": 32}
    chosen = {"SCALED": 32 if stored == "i8" else 0, "SOFTCAP": features, "WINDOW": features, "ALIBI": features, "N": at_once}
    pointers = {"q": f"*{q}", "keys": f"*{stored}", "values": f"*{stored}", "key_scales": "*fp16", "value_scales": "*fp16"}
    compiled(capability, kernels._attend_split, pointers, sizes | chosen)
    merge = {"VALUE": width, "VALUE_BLOCK": width, "SPLITS_BLOCK": 64, "SINKS": features}
    compiled(capability, kernels._merge_splits, {"out": f"*{q}"}, merge)


def packed(capability: int, x: str, low: bool, minima: bool, scales: str) -> None:
    pointers = {"x": f"*{x}", "out": f"*{x}", "codes": "*u8" if low else "*i8", "scales": f"*{scales}", "minima": f"*{scales}"}
    columns = 2 * AT_ONCE // (4 if x == "fp32" else 2)
    constants = {"GROUP": 32, "LOW": low, "MINIMA": minima, "ROWS": 32, "OUTS": columns // 4, "COLUMNS": columns}
    compiled(capability, kernels._packed_product, pointers, constants)


if __name__ == "__main__":
    capability = int(sys.argv[1])
    half = "fp16" if capability < 80 else "bf16"
    attention(capability, half, "i8", features=True)
    attention(capability, half, half, features=False)
    packed(capability, half, True, True, "fp16")
    packed(capability, half, False, False, "fp16")
    attention(capability, "fp32", "fp32", features=False)
    packed(capability, "fp32", True, True, "fp32")
