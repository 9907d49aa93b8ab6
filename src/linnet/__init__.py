"""Linnet runs open language models from Python, the shell and HTTP."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from linnet.errors import (
    CancelledError,
    ChatTemplateError,
    ClosedError,
    ContextLengthError,
    DeadlineError,
    InvalidRequestError,
    LinnetError,
    MissingDependencyError,
    ModelFileError,
    OutOfMemoryError,
    QueueFullError,
    UnsupportedModelError,
)
from linnet.quantize import quantize  # at once: later the package of that name would be found in its place

if TYPE_CHECKING:
    from linnet.engine.counters import Counters, Histogram
    from linnet.engine.params import SamplingParams
    from linnet.engine.sampling import TokenLogprob
    from linnet.engine.session import Session
    from linnet.handle import Handle
    from linnet.hardware.recommend import recommend
    from linnet.hardware.report import HardwareInfo, hardware_info
    from linnet.llm import LLM
    from linnet.look.report import ModelReport, inspect_model
    from linnet.memory import clear_memory_cache, memory_usage
    from linnet.outputs import Candidate, Chunk, Completion, Timings, TraceStep, Usage
    from linnet.quantize.convert import convert
    from linnet.text.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "CancelledError",
    "Candidate",
    "ChatTemplateError",
    "Chunk",
    "ClosedError",
    "Completion",
    "ContextLengthError",
    "Counters",
    "DeadlineError",
    "Handle",
    "HardwareInfo",
    "Histogram",
    "InvalidRequestError",
    "LinnetError",
    "MissingDependencyError",
    "ModelFileError",
    "ModelReport",
    "OutOfMemoryError",
    "QueueFullError",
    "SamplingParams",
    "Session",
    "Timings",
    "TokenLogprob",
    "Tokenizer",
    "TraceStep",
    "UnsupportedModelError",
    "Usage",
    "__version__",
    "clear_memory_cache",
    "convert",
    "hardware_info",
    "inspect_model",
    "memory_usage",
    "quantize",
    "recommend",
]

# Imported when first asked for, so that `import linnet` costs next to nothing.
_HOMES = {
    "Counters": "linnet.engine.counters",
    "Handle": "linnet.handle",
    "HardwareInfo": "linnet.hardware.report",
    "Histogram": "linnet.engine.counters",
    "LLM": "linnet.llm",
    "ModelReport": "linnet.look.report",
    "SamplingParams": "linnet.engine.params",
    "Session": "linnet.engine.session",
    "TokenLogprob": "linnet.engine.sampling",
    "Tokenizer": "linnet.text.tokenizer",
    "clear_memory_cache": "linnet.memory",
    "convert": "linnet.quantize.convert",
    "hardware_info": "linnet.hardware.report",
    "inspect_model": "linnet.look.report",
    "memory_usage": "linnet.memory",
    "recommend": "linnet.hardware.recommend",
    **dict.fromkeys(("Candidate", "Chunk", "Completion", "Timings", "TraceStep", "Usage"), "linnet.outputs"),
}

logging.getLogger("linnet").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'linnet' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
