"""`linnet info`: what this machine is, and how a model is best run on it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from linnet.cli.terminal import clean, page
from linnet.look.phrases import size

if TYPE_CHECKING:
    from linnet.hardware.gpus import Gpu
    from linnet.hardware.processor import Processor
    from linnet.hardware.recommend import Recommendation
    from linnet.hardware.report import HardwareInfo


def info(
    recommend: Annotated[
        str | None,
        typer.Option(
            help="say how a model is best run here: tiny, a folder, a .gguf file, a hub id in the local cache, or a size such as llm:7b",
            metavar="MODEL",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Say what this machine is, and how a model is best run on it.

    Processor, instruction sets, cores, caches, memory and how fast it is read (measured, for half a second), GPUs. With --recommend
    instead: device, weight type, context, batch, the tokens/s that memory allows and the memory it takes, with the reasons; no weight is
    read.
    """
    if recommend is not None:
        _recommend(recommend, as_json)
        return
    from linnet.hardware.report import hardware_info

    found = hardware_info()
    if as_json:
        print(json.dumps(found.record()), flush=True)
    else:
        _print(_machine_rows(found))


def _recommend(model: str, as_json: bool) -> None:
    from linnet.hardware.recommend import recommend

    found = recommend(model)
    if as_json:
        print(json.dumps(found.record()), flush=True)
        return
    speed = "not measured" if found.tokens_per_s is None else f"{found.tokens_per_s:.3g} tokens/s at most"
    memory = f"{size(found.total_bytes)}: weights {size(found.weight_bytes)}, KV cache {size(found.kv_cache_bytes)}"
    _print(
        [
            ("model", found.model),
            ("device", found.device),
            ("weights", "as stored" if found.weights == "auto" and found.device == "cpu" else found.weights),
            ("context", str(found.context)),
            ("batch", str(found.batch)),
            ("speed", speed),
            ("memory", memory),
            *(("because" if index == 0 else "", reason) for index, reason in enumerate(found.reasons)),
            ("in Python", _call(found)),
        ]
    )


def _call(found: Recommendation) -> str:
    """What opens the model so, in Python; the context and weights are flags of every command, too."""
    options = ", ".join(f"{name}={value!r}" for name, value in found.options.items())
    model = "MODEL" if found.model.lower().startswith("llm:") else repr(found.model)  # a size stands for any model of it
    return f"LLM({model}, {options})"


def _machine_rows(found: HardwareInfo) -> list[tuple[str, str]]:
    memory = [f"{size(found.available_bytes)} can be taken now"]
    if found.memory_bytes is not None:
        memory.insert(0, f"{size(found.memory_bytes)} installed")
    if found.memory_limit is not None:
        memory.append(f"the container's limit is {size(found.memory_limit)}")
    if found.read_bandwidth is not None:
        memory.append(f"{found.processor.default_threads} threads read {size(found.read_bandwidth)} a second")
    gpus = [_gpu(gpu) for gpu in found.gpus] or ["none found"]
    return [
        *_processor_rows(found.processor),
        ("memory", "; ".join(memory)),
        *(("GPU", gpu) for gpu in gpus),
        *(("note", note) for note in found.notes),
    ]


def _processor_rows(processor: Processor) -> list[tuple[str, str]]:
    counts = [(processor.sockets, "sockets"), (processor.cores, "cores"), (processor.threads, "threads")]
    cores = [f"{count} {what if count != 1 else what[:-1]}" for count, what in counts if count is not None]
    if processor.usable_threads < processor.threads:
        cores.append(f"{processor.usable_threads} of them for this process")
    if processor.quota is not None:
        cores.append(f"the container gets the time of {processor.quota:g}")
    caches = [f"L{cache.level} {cache.kind.lower()} {cache.count} x {cache.nbytes // 1024} KiB" for cache in processor.caches]
    return [
        ("processor", processor.name),
        ("instructions", f"{', '.join(processor.isas)}; {processor.isa} runs"),
        ("cores", f"{', '.join(cores)}; Linnet uses {processor.default_threads} unless told"),
        *([("caches", ", ".join(caches))] if caches else []),
    ]


def _gpu(gpu: Gpu) -> str:
    said = [gpu.name, f"device {gpu.device}" if gpu.device is not None else "not found by PyTorch"]
    if gpu.total_bytes is not None:
        said.append(f"{size(gpu.total_bytes)}" + (f", {size(gpu.free_bytes)} free" if gpu.free_bytes is not None else ""))
    said += [f"{gpu.load:g}% busy"] if gpu.load is not None else []
    said += [f"{gpu.temperature:g} °C"] if gpu.temperature is not None else []
    said += [f"driver {gpu.driver}"] if gpu.driver is not None else []
    return "; ".join(said)


def _print(rows: list[tuple[str, str]]) -> None:
    console, width = page(), max(len(name) for name, _ in rows)
    for name, text in rows:
        console.print(f"{name:<{width}}  {clean(text)}", soft_wrap=True)
