"""From a model and lists to what will run: everything that can be refused is refused here, before weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linnet.bench.cases import CACHE_SHARE, Case, make_cases, opening_options
from linnet.bench.cost import Cost, model_cost
from linnet.bench.measure import Result, refuse
from linnet.errors import OutOfMemoryError
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.random_weights import open_random
from linnet.machine_memory import available_memory
from linnet.model_options import ModelOptions
from linnet.ops.native import default_threads


@dataclass(frozen=True)
class Plan:
    """What `run_cases` needs. checkpoint and options: for `LLM.from_checkpoint`. cases: those to run, in order. refused: results
    of those whose KV cache does not fit, which are larger than all of them."""

    checkpoint: Checkpoint
    options: dict[str, Any]
    threads: int
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
        cost = model_cost(checkpoint, checked.kv_type, target)
        cases = make_cases(checkpoint.spec, checked.kv_type, batch_sizes, input_lens, output_lens)
        available = max(0, int((available_memory() - cost.weight_bytes) * CACHE_SHARE))
        refused = refuse(cases, available)
        fitting = cases[: len(cases) - len(refused)]
        if not fitting:
            raise OutOfMemoryError(f"{refused[0].case}: {refused[0].error}; lower --batch-size, --input-len or --output-len")
    except BaseException:
        checkpoint.close()
        raise
    threads = checked.threads or default_threads()
    return Plan(checkpoint, {**options, **opening_options(checkpoint.spec, checked.kv_type, fitting)}, threads, cost, fitting, refused)
