"""Devices by name: which there are, what each needs, how much memory it has free and which numbers it computes with best."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from linnet.errors import InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from torch import device as Device
    from torch import dtype as DType

    from linnet.ops.torch.matrices import Kernels

logger = logging.getLogger("linnet.ops")

DEVICES: dict[str, tuple[str, str | None]] = {
    "cpu": ("a processor", None),
    "cuda": ("GPUs of NVIDIA, and of AMD, MetaX and Iluvatar, whose builds of PyTorch go by that name", None),
    "mps": ("Apple's GPUs", None),
    "xpu": ("Intel's GPUs", None),
    "mlu": ("Cambricon's accelerators", "torch_mlu"),
    "musa": ("GPUs of Moore Threads", "torch_musa"),
    "npu": ("Huawei's Ascend", "torch_npu"),
}
"""What `device` may be, before a number: what it stands for, and the package that PyTorch drives it with, where that is another."""

_DEVICE_FILES = ("nvidia[0-9]*", "kfd", "dri/renderD*", "dxg")
"""Under /dev: of NVIDIA's, AMD's, Intel's (and others') GPUs, and of whichever Windows lends to its Linux."""

VENDORS = {"nvidia": "cuda", "cambricon": "mlu", "metax": "cuda", "moore": "musa", "iluvatar": "cuda"}
"""Names of makers, as the command line takes them (--nvidia), by device."""


ADD_UP = ("cuda", "cpu")
"""Devices that can share a model: torch.distributed adds up what each has, by NCCL or by gloo."""


def parse_device(name: str) -> tuple[str, int | None]:
    """("cuda", 1) of "cuda:1". Raises InvalidRequestError for what is no name of a device."""
    kind, colon, number = name.partition(":")
    if kind not in DEVICES or (colon and not number.isdecimal()):
        raise InvalidRequestError(f"device {name!r} is not one of {', '.join(DEVICES)}, or one of them with a number, such as cuda:1")
    if kind == "cpu" and colon:
        raise InvalidRequestError(f"device {name!r}: processors have no numbers; say device='cpu'")
    return kind, int(number) if colon else None


def open_device(name: str) -> Device:
    """The device of that name, ready to use. Raises InvalidRequestError where this machine has none, MissingDependencyError where the
    package that drives it is not installed."""
    torch = import_torch()
    kind, number = parse_device(name)
    plugin = DEVICES[kind][1]
    if plugin is not None:
        try:
            import_module(plugin)
        except ImportError:
            raise MissingDependencyError(f"device {name!r} is driven by the package {plugin}: install the one of its maker") from None
    count = 1 if kind == "cpu" else _count(torch, kind)
    if (number or 0) >= count:
        has = f"this machine has {count} of them" if count else f"PyTorch {torch.__version__} finds none here"
        raise InvalidRequestError(f"device {name!r} is {DEVICES[kind][0]}, and {has}; use device='cpu'")
    device: Device = torch.device(kind) if kind == "cpu" else torch.device(kind, number or 0)
    return device


def open_devices(name: str | None, count: int) -> list[Device]:
    """`count` devices of a kind, for tensor parallelism, or the one of that name. None: the usual kind. Raises as `open_device`."""
    name = name or usual_device()
    kind, number = parse_device(name)
    if count == 1:
        return [open_device(name)]
    if number is not None:
        raise InvalidRequestError(f"tp is {count}, and device {name!r} is a single one; say device={kind!r} for the first {count}")
    if kind not in ADD_UP:
        raise InvalidRequestError(f"tp is {count}, and devices {kind!r} cannot add up what each has; use device={' or '.join(ADD_UP)}")
    first = open_device(kind)
    if kind == "cpu":
        return [first] * count
    if (there := _count(import_torch(), kind)) < count:
        raise InvalidRequestError(f"tp is {count}, and this machine has {there} devices {kind!r}; lower tp")
    return [open_device(f"{kind}:{index}") for index in range(count)]


def usual_device() -> str:
    """The device that is meant where none is named: the first of an accelerator that is there, or the processor."""
    torch = import_torch()
    return next((kind for kind in ("cuda", "mps", "xpu") if _count(torch, kind)), "cpu")


def accelerators() -> list[str]:
    """Every GPU that PyTorch drives here: "cuda:0" ... Where there can be none, PyTorch is not imported to find out."""
    if not may_have_gpu():
        return []
    torch = import_torch()
    return [f"{kind}:{index}" for kind in ("cuda", "mps", "xpu") for index in range(_count(torch, kind))]


def may_have_gpu(root: Path = Path("/")) -> bool:
    """Whether PyTorch is installed, was built for GPUs, and the system has a device file of one. root: the folder that holds dev."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return False
    if sys.platform == "darwin":
        return True
    try:
        version = (Path(found.origin).parent / "version.py").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        version = ""
    if "torch" not in sys.modules and not re.search(r"^(cuda|hip|xpu)\b.*= *['\"]", version, re.MULTILINE):
        return False
    return sys.platform != "linux" or any(next((root / "dev").glob(name), None) is not None for name in _DEVICE_FILES)


def _count(torch: Any, kind: str) -> int:
    module = getattr(torch, kind, None)
    if module is None or not (torch.backends.mps.is_available() if kind == "mps" else module.is_available()):
        return 0
    return int(module.device_count())


def dtype_of(device: Device, wanted: str | None) -> DType:
    """What activations and weights are: float32 on a processor, else bfloat16 where it is fast, else float16; or as `wanted`, which is
    refused where the device cannot compute with it."""
    torch = import_torch()
    types: dict[str, DType] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    has_bf16 = device.type == "cpu" or _supports_bf16(torch, device)
    if wanted is None:
        wanted = "f32" if device.type == "cpu" else "bf16" if has_bf16 else "f16"
    if wanted == "bf16" and not has_bf16:
        raise InvalidRequestError(f"dtype 'bf16': device {str(device)!r} does not compute with it; use f16 or f32")
    return types[wanted]


def _supports_bf16(torch: Any, device: Device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device)[0] >= 8)  # before Ampere it is emulated
    probe: Callable[[], bool] | None = getattr(getattr(torch, device.type, None), "is_bf16_supported", None)
    return probe is None or bool(probe())


def free_memory(device: Device) -> int | None:
    """Bytes that can be taken on the device; None where PyTorch does not tell, and on a processor."""
    torch = import_torch()
    probe = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return None if device.type == "cpu" or probe is None else int(probe(device)[0])


def open_kernels(device: Device) -> Kernels | None:
    """Our kernels in Triton, for a device that it compiles for; None for others, and where it does not run, which the log says."""
    if device.type != "cuda":
        return None
    failure = _triton_failure(device)
    if failure is not None:
        logger.warning("Triton %s: PyTorch's own operations attend and expand weights, more slowly", failure)
        return None
    return cast("Kernels", import_module("linnet.ops.torch.kernels"))


def _triton_failure(device: Device) -> str | None:
    """Why Triton runs nothing on the device; None where it runs, and where it is there and no GPU is."""
    if find_spec("triton") is None:
        return "is not installed (pip install triton)"
    torch = import_torch()
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    if torch.cuda.get_device_capability(device)[0] < 7:
        return f"knows no GPUs as old as {str(device)!r}, from before NVIDIA's Volta (2017)"
    try:
        import_module("triton.runtime").driver.active.get_current_target()  # compiles what it launches kernels with
    except Exception as error:
        said = str(error).split("\n", 1)[0]
        return f"does not run (it needs a C compiler, as gcc, and Python's headers, as python3-dev): {said}"
    return None


def check_compiler(device: Device) -> None:
    """Raises MissingDependencyError where torch.compile has nothing to compile with for the device."""
    if device.type == "cpu":
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++")):
            raise MissingDependencyError("compile=True needs a C++ compiler: install g++ or clang++, or leave compile out")
    elif device.type in ("cuda", "xpu") and (failure := _triton_failure(device)) is not None:
        raise MissingDependencyError(f"compile=True needs Triton on this device, which {failure}; or leave compile out")


def import_torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingDependencyError('ops="torch" needs PyTorch: pip install "linnet[torch]"') from None
    return torch
