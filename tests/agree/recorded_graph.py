"""A stand-in for a CUDA graph: records the operations of a run, and does the same ones again on the same memory.

What Python worked out meanwhile is not worked out again, and no tensor moves: whatever a captured step takes from elsewhere than its
buffers, a replay gets wrong, as a graph would.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linnet.ops.torch.decode import Run


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a value was brought to the host: no graph can hold that")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, [x for x in tree_leaves(result) if isinstance(x, Tensor)]))
        return result

    def replay(self) -> None:
        with torch.inference_mode():
            for func, args, kwargs, made in self.calls:
                again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
                for old, new in zip(made, again, strict=True):
                    if old.data_ptr() != new.data_ptr():  # else it is a view, or what was changed in place
                        old.copy_(new)


class Graphs:
    """captured: how many graphs there are; replays: how often any of them ran."""

    def __init__(self) -> None:
        self.captured = self.replays = 0

    def __call__(self, run: Run) -> Run:
        run()  # warm-up
        recorder = Recorder()
        with recorder:
            result = run()
        self.captured += 1

        def replay() -> Tensor:
            self.replays += 1
            recorder.replay()
            return result

        return replay
