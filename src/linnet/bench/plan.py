"""From a model and lists to what will run: everything that can be refused is refused here, before weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from linnet.bench.cases import CACHE_SHARE, Case, make_cases, opening_options
from linnet.bench.cost import Cost, model_cost
from linnet.bench.device import measure_device
from linnet.bench.machine import Machine, measure
from linnet.bench.measure import Result, refuse
from linnet.choosing import choose
from linnet.errors import OutOfMemoryError
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.random_weights import open_random
from linnet.machine_memory import available_memory
from linnet.model_options import ModelOptions
from linnet.op_set import torch_bytes
from linnet.ops.native import default_threads
from linnet.ops.torch.devices import accelerators, dtype_of, free_memory, open_devices, usual_device
from linnet.ops.torch.placement import place


@dataclass(frozen=True)
class Plan:
    """What `run_cases` needs. checkpoint and options: for `LLM.from_checkpoint`. machine: measures what computes. cases: those to run,
    in order. refused: results of those whose KV cache does not fit, which are larger than all of them."""

    checkpoint: Checkpoint
    options: dict[str, Any]
    machine: Callable[[], Machine]
    cost: Cost
    cases: list[Case]
    refused: list[Result]


def prepare(
    model: str | Path,
    batch_sizes: Sequence[int],
    input_lens: Sequence[int],
    output_lens: Sequence[int],
    *,
    skip_load: bool = False,
    **options: Any,
) -> Plan:
    """Opens a model, and plans the cases of the lists' product. skip_load: random weights of its shape. options: as in `LLM`.

    A case fits whose KV cache takes no more than CACHE_SHARE of the memory that is available besides the weights. Raises
    ContextLengthError for cases that are longer than the model's positions reach, OutOfMemoryError where no case fits, and
    what opening the model raises.
    """
    checked = ModelOptions(**options)
    target = checked.target
    opened = open_random(model, target) if skip_load else open_checkpoint(model)
    # Token ids go in and come out: reading the tokenizer could only fail. Where devices share the model, each opens its files.
    checkpoint = replace(opened, path=opened.path if checked.tp > 1 else None, metadata=None)
    try:
        cases = make_cases(checkpoint.spec, checked.kv_type, batch_sizes, input_lens, output_lens)
        first = opening_options(checkpoint.spec, checked.kv_type, cases[:1])
        checked = replace(checked, device=_device(checkpoint, replace(checked, **first)))
        machine, cost, memory = _computing(checkpoint, checked)
        available = max(0, int(memory * CACHE_SHARE))
        refused = refuse(cases, available)
        fitting = cases[: len(cases) - len(refused)]
        if not fitting:
            raise OutOfMemoryError(f"{refused[0].case}: {refused[0].error}; lower --batch-size, --input-len or --output-len")
    except BaseException:
        checkpoint.close()
        raise
    opening = {**options, "device": checked.device, **opening_options(checkpoint.spec, checked.kv_type, fitting)}
    return Plan(checkpoint, opening, machine, cost, fitting, refused)


def _device(checkpoint: Checkpoint, options: ModelOptions) -> str | None:
    """Where it will run, as `LLM` chooses it; None: on the native op set."""
    if options.op_set == "torch":
        return options.device or usual_device()
    return choose(checkpoint, options).device if options.device is None and accelerators() else options.device


def _computing(checkpoint: Checkpoint, options: ModelOptions) -> tuple[Callable[[], Machine], Cost, int]:
    """What measures that which computes; what tokens cost there; the bytes there are beside the weights, on all devices together."""
    if options.op_set != "torch":
        cost = model_cost(checkpoint, options.kv_type, options.target)
        return partial(measure, options.threads or default_threads()), cost, available_memory() - cost.weight_bytes
    from linnet.ops.torch.matrices import matrix_bytes

    devices = open_devices(options.device, options.tp)
    dtype = dtype_of(devices[0], options.dtype)
    cost = model_cost(checkpoint, options.kv_type, options.target, partial(matrix_bytes, dtype=dtype))
    layers, outside, largest = torch_bytes(checkpoint, options.target, dtype)
    free = min((available_memory() if (memory := free_memory(device)) is None else memory) for device in devices)
    on_device = place(layers, outside, largest, options.offload, free if options.tp == 1 else None, options.kv_memory).on_device
    kept = (on_device - outside) // options.tp + outside
    return partial(measure_device, devices[0], dtype), cost, options.tp * (free - kept)
