"""Compiles Triton's kernels for GPUs that are not there, down to machine code; says how much shared memory a program takes, in bytes.

Run by `test_triton_kernels.py`, in a process of its own, in which Triton does not interpret.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from linnet.ops.torch import kernels, recurrent_kernels
from linnet.ops.torch.kernels import EXPANDED, MOST_SPLITS, TILE
from linnet.ops.torch.recurrent_kernels import CONVOLVED, STATE_COLUMNS

SHARED = {75: 64 * 1024, 86: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
"""Of one program, by compute capability: https://docs.nvidia.com/cuda/cuda-c-programming-guide/#compute-capabilities"""

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "i8": 1}
NUMBERS = "window width splits heads kv_heads length rows outs columns groups count between size start key_heads".split()
FLOATS = {"scale": "fp32", "softcap": "fp32"} | dict.fromkeys(
    "slopes sums largest totals sinks decays states weights biases".split(), "*fp32"
)
INTEGERS = dict.fromkeys(NUMBERS, "i32") | dict.fromkeys("tables positions ends sources middles targets".split(), "*i64")
ROUND = ("columns", "outs", "groups", "size", "start")
"""Numbers that are multiples of 16 in most models, as pointers are: what is known to be so is fetched ahead, into shared memory."""


def compiled(capability: int, kernel: Any, types: dict[str, str], constants: dict[str, Any], warps: int = 4) -> None:
    signature = {name: "constexpr" if name in constants else (types | FLOATS | INTEGERS | types)[name] for name in kernel.arg_names}
    values = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    even = [name for name, type in signature.items() if type[0] == "*" or (type == "i32" and name in ROUND)]
    source = ASTSource(kernel, signature, values, {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in even})
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    assert made.asm["cubin"]
    print(kernel.__name__, capability, types, made.metadata.shared)
    assert made.metadata.shared <= SHARED[capability]


def attention(capability: int, q: str, stored: str, width: int = 128, features: bool = False) -> None:
    at_once = max(16, min(64, TILE // (width * max(BYTES[q], BYTES[stored]))))
    sizes = {"HEAD": width, "VALUE": width, "HEAD_BLOCK": width, "VALUE_BLOCK": width, "GROUP": 4, "GROUP_BLOCK": 16, "PAGE": 32}
    chosen = {"SCALED": 32 if stored == "i8" else 0, "SOFTCAP": features, "WINDOW": features, "ALIBI": features, "N": at_once}
    pointers = {"q": f"*{q}", "keys": f"*{stored}", "values": f"*{stored}", "key_scales": "*fp16", "value_scales": "*fp16"}
    compiled(capability, kernels._attend_split, pointers, sizes | chosen)
    merge = {"VALUE": width, "VALUE_BLOCK": width, "SPLITS_BLOCK": MOST_SPLITS, "SINKS": features}
    compiled(capability, kernels._merge_splits, {"out": f"*{q}"}, merge)


def packed(capability: int, x: str, low: bool, minima: bool, scales: str) -> None:
    pointers = {"x": f"*{x}", "out": f"*{x}", "codes": "*u8" if low else "*i8", "scales": f"*{scales}", "minima": f"*{scales}"}
    kinds = {"GROUP": 32, "LOW": low, "MINIMA": minima}
    for rows in (16, 32, 64):
        sizes = {"ROWS": rows, "OUTS": rows, "COLUMNS": TILE // 2 // (rows * BYTES[x])}
        compiled(capability, kernels._packed_product, pointers, kinds | sizes)
    compiled(capability, kernels._expand, pointers, kinds | {"BLOCK": EXPANDED})


def recurrent(capability: int, x: str, key: int, value: int) -> None:
    pointers = dict.fromkeys("q k v rate strength out x".split(), f"*{x}") | {"begins": "*i8"}
    net = {"KEY": key, "VALUE": value, "KEY_BLOCK": 1 << (key - 1).bit_length(), "COLUMNS": STATE_COLUMNS}
    compiled(capability, recurrent_kernels._delta_rule, pointers, net, warps=1)
    for bias in (False, True):
        compiled(capability, recurrent_kernels._convolve_row, pointers, {"TAPS": 4 - bias, "BIAS": bias, "COLUMNS": CONVOLVED}, warps=1)


if __name__ == "__main__":
    capability = int(sys.argv[1])
    half = "fp16" if capability < 80 else "bf16"
    for stored, width in (("i8", 128), (half, 128), ("fp16", 256), ("fp32", 256)):
        attention(capability, half, stored, width, features=stored == "i8")
    packed(capability, half, True, True, "fp16")
    packed(capability, half, False, False, "fp16")
    for kind in (half, "fp32"):  # the widest heads that there are, Gemma 4's
        attention(capability, kind, kind, 512)
    packed(capability, "fp32", True, True, "fp32")
    recurrent(capability, half, 128, 128)
    recurrent(capability, "fp32", 80, 36)
