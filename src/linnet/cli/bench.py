"""`linnet bench`: how fast a model runs, case by case."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet.cli.opening import ModelArgument, check
from linnet.cli.options import LISTED, gathered, model_group, with_options
from linnet.cli.terminal import one_interrupt, page, progress_bar, write

if TYPE_CHECKING:
    from linnet.bench.machine import Machine
    from linnet.bench.measure import Result
    from linnet.bench.plan import Plan


_LOADED = ("weights", "threads", "prefill_threads", "kv_dtype", "low_memory", "ops", "device", "dtype", "tp", "offload", "compile")


@dataclass(frozen=True)
class BenchOptions:
    """The flags of its own."""

    batch_size: Annotated[str, typer.Option(help=f"requests at once: {LISTED} (default: 1)", metavar="N,...", show_default=False)] = "1"
    input_len: Annotated[str, typer.Option(help=f"tokens of each prompt: {LISTED} (default: 512)", metavar="N,...", show_default=False)] = (
        "512"
    )
    output_len: Annotated[
        str, typer.Option(help=f"tokens of each answer: {LISTED} (default: 128)", metavar="N,...", show_default=False)
    ] = "128"
    repeat: Annotated[
        int,
        typer.Option(
            min=1, max=1000, help="measured runs of each case, of which the median counts (default: 3)", metavar="N", show_default=False
        ),
    ] = 3
    skip_load: Annotated[
        bool, typer.Option("--skip-load", help="random weights of the model's shape: a folder needs no more than its config.json")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON list with one object a case, and nothing else")] = False
    plot: Annotated[
        Path | None, typer.Option(help='also draw a chart (needs: pip install "linnet[plot]")', metavar="FILE.png", show_default=False)
    ] = None


@gathered
@with_options(load=model_group(_LOADED))
def bench(
    model: ModelArgument,
    *,
    options: BenchOptions,
    load: dict[str, Any],
) -> None:
    """Measure how fast a model runs.

    The cases are the product of the three lists. They run in ascending order of their KV cache, so that running out of memory
    costs nothing that was measured before. A case whose KV cache does not fit is not run and said to be so; where none fits,
    the exit code is 2. Prompts are random token ids, answers greedy; every case runs once more at first, which is not counted.
    Prompt tokens/s are those of the whole batch until each of its requests has its first token; all figures of
    generated tokens are of the steps after that, in which every request of the batch gets one.
    """
    from linnet.bench.cases import MAX_BATCH, MAX_LENGTH, parse_sizes

    sizes = (
        parse_sizes("--batch-size", options.batch_size, MAX_BATCH),
        parse_sizes("--input-len", options.input_len, MAX_LENGTH),
        parse_sizes("--output-len", options.output_len, MAX_LENGTH),
    )
    check(model, load, {})
    from linnet.bench.plot import plot as draw
    from linnet.charts import check_plot

    if options.plot is not None:
        check_plot(options.plot)
    from linnet.bench.plan import prepare

    plan = prepare(model, *sizes, skip_load=options.skip_load, **load)
    with one_interrupt():  # a second Ctrl-C does not keep what was measured from being printed
        results = _measure(plan, options.repeat, options.as_json)
    if options.plot is not None:
        draw(results, options.plot, f"linnet bench {model}")


def _measure(plan: Plan, repeat: int, as_json: bool) -> list[Result]:
    """Runs the cases and prints their results, as far as they came, whatever ends them."""
    from linnet.bench.measure import run_cases, work
    from linnet.llm import LLM

    results: list[Result] = []
    machine = None
    try:
        with progress_bar() as bar:
            task = bar.add_task("measuring the machine", total=sum(work(case, repeat) for case in plan.cases))
            machine = plan.machine()
            bar.update(task, description="loading")
            with LLM.from_checkpoint(plan.checkpoint, **plan.options) as llm:
                bar.update(task, description="running")
                measured = run_cases(
                    llm,
                    plan.cases,
                    repeat=repeat,
                    cost=plan.cost,
                    machine=machine,
                    advance=lambda tokens: bar.advance(task, tokens),
                )
                with closing(measured):
                    for result in chain(measured, plan.refused):
                        results.append(result)
                        if as_json:
                            write(("[" if len(results) == 1 else ",\n ") + json.dumps(result.record()))
    finally:
        if as_json and results:
            write("]\n")
        elif results and machine is not None:
            _print_table(plan, results, machine)
    return results


def _print_table(plan: Plan, results: list[Result], machine: Machine) -> None:
    """The results as a table, and below it what its figures are measured against."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_row(result))
    console = page()
    console.print(table)
    cost = plan.cost
    lines = [f"not run: {result.case}: {result.error}" for result in results if result.error is not None]
    lines += [
        f"A step reads {_number(cost.step_bytes / 1e6)} MB of weights, and the keys and values so far. A token takes "
        f"{_number(cost.layer_multiply_adds / 1e6)} million multiply-adds with weights in a prompt, "
        f"{_number((cost.layer_multiply_adds + cost.output_multiply_adds) / 1e6)} million where it is generated.",
        *_measured_against(machine),
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def _measured_against(machine: Machine) -> tuple[str, str]:
    """What the shares are of."""
    read, integers, floats = (_number(rate / 1e9) for rate in (machine.read_bandwidth, machine.integer_peak, machine.float_peak))
    if machine.device is not None:
        return (
            f"of read: of the {read} GB/s that {machine.device} read and wrote in a copy in this run.",
            f"of peak: of the {floats} billion multiply-adds a second of a product of large matrices ({machine.isa}).",
        )
    return (
        f"of read: of the {read} GB/s that {machine.threads} threads read from memory in this run; weights that fit in caches are read "
        "faster.",
        f"of peak: of what {machine.threads} threads do in loops of nothing else ({machine.isa}): {integers} billion multiply-adds a "
        f"second of integers, for weights in blocks, and {floats} of float32, for the rest.",
    )


_COLUMNS = (
    "\nbatch",
    "\ninput",
    "\noutput",
    "KV cache\nMB",
    "prompt\ntokens/s",
    "prompt\nGmadd/s",
    "of\npeak",
    "generated\ntokens/s",
    "of\nread",
    "first\nms",
    "p50\nms",
    "p95\nms",
    "peak\nMB",
)


def _row(result: Result) -> list[str]:
    case = result.case
    figures = (
        (result.prompt_tokens_per_s, 1.0),
        (result.prompt_multiply_adds_per_s, 1e-9),
        (result.arithmetic_share, 100.0),
        (result.generated_tokens_per_s, 1.0),
        (result.read_bandwidth_share, 100.0),
        (result.first_token_s, 1e3),
        (result.inter_token_p50_s, 1e3),
        (result.inter_token_p95_s, 1e3),
        (result.peak_memory_bytes, 1e-6),
    )
    shown = ["-" if value is None else _number(value * scale) for value, scale in figures]
    for share in (2, 4):
        shown[share] += "" if shown[share] == "-" else "%"
    return [str(case.batch_size), str(case.input_len), str(case.output_len), _number(case.kv_cache_bytes / 1e6), *shown]


def _number(value: float) -> str:
    """Three digits that count, and none after the point from a hundred on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
