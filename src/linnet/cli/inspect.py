"""`linnet inspect`: what a model is, without loading it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet.cli.opening import ModelArgument, check
from linnet.cli.options import LISTED, model_group, with_options
from linnet.cli.terminal import clean, page, text_width
from linnet.errors import InvalidRequestError
from linnet.look.phrases import size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from linnet.look.report import ModelReport, TensorFacts
    from linnet.look.tokenizer_facts import NamedToken, TokenizerFacts

_TEMPLATE_LINES = 6
_SPECIAL_TOKENS = 12
_LEAST_TEXT = 40
"""Columns of what is said beside a name, at least."""


@with_options(load=model_group(("weights",)))
def inspect(
    model: ModelArgument,
    tensors: Annotated[
        str | None,
        typer.Option(
            help="list each tensor whose name matches, such as `*.attn_q.*`, and nothing else; with --json: of the tensors only these",
            metavar="PATTERN",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(help=f"plan memory for requests of so many tokens, prompt and answer together: {LISTED}", metavar="N,..."),
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(help=f"plan memory for so many requests at once: {LISTED} (default: 1,4,16)", metavar="N,...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, with every tensor and whole chat templates")] = False,
    *,
    load: dict[str, Any],
) -> None:
    """Say what a model is, without loading it.

    Family and architecture in words, parameters by part, types and tensors, tokenizer and chat template, and the memory that it
    takes by context and batch. Only headers and configuration are read, however large the model is.
    """
    from linnet.bench.cases import MAX_BATCH, MAX_LENGTH, parse_sizes

    if tensors is not None and not as_json:
        planned = [name for name, value in (("context", context), ("batch-size", batch_size), *load.items()) if value is not None]
        if planned:
            raise InvalidRequestError(f"--{planned[0]} is for the plan of memory, and --tensors lists tensors alone; leave one of them out")
    contexts = None if context is None else parse_sizes("--context", context, MAX_LENGTH)
    batch_sizes = parse_sizes("--batch-size", batch_size or "1,4,16", MAX_BATCH)
    check(model, load, {})
    from linnet.look.report import inspect_model
    from linnet.look.tensor_families import matching

    report = inspect_model(model, contexts=contexts, batch_sizes=batch_sizes, **load)
    if tensors is not None:
        report = replace(report, tensors=matching(report.tensors, tensors))
    if as_json:
        print(json.dumps(report.record()), flush=True)
    elif tensors is not None:
        _print_each(page(), report.tensors)
    else:
        _print(page(), report)


def _print(console: Console, report: ModelReport) -> None:
    many = "" if len(report.files) == 1 else f" in {len(report.files)} files"
    console.print(f"{clean(report.model)}: {report.format}, {size(report.file_bytes)}{many}")
    for section in report.description:
        console.print(f"\n{section.title}", style="bold")
        console.print(_grid([(topic, "; ".join(said)) for topic, said in section.facts.items()]))
    _print_parameters(console, report)
    _print_types(console, report)
    _print_families(console, report)
    _print_tokenizer(console, report)
    _print_templates(console, report)
    _print_memory(console, report)


def _print_parameters(console: Console, report: ModelReport) -> None:
    parameters = report.parameters
    active = "" if parameters.active == parameters.total else f", of which {parameters.active:,} work on a token"
    console.print(f"\n{parameters.total:,} parameters{active}", style="bold")
    table = _table("part", "parameters", "share")
    for part, count in parameters.parts.items():
        table.add_row(f"  {part}", f"{count:,}", f"{100 * count / parameters.total:.1f}%")
    console.print(table)


def _print_types(console: Console, report: ModelReport) -> None:
    console.print(f"\n{report.bits_per_weight:.2f} bits per weight", style="bold")
    table = _table("type", "tensors", "values", "size", "bits per weight")
    for share in report.types:
        table.add_row(f"  {share.type}", str(share.tensors), f"{share.values:,}", size(share.nbytes), f"{share.bits_per_weight:g}")
    console.print(table)


def _print_families(console: Console, report: ModelReport) -> None:
    from linnet.look.tensor_families import families

    console.print(f"\n{len(report.tensors)} tensors", style="bold")
    table = _table("name", "shape", "type", "size", "of them", "part", left=("shape", "type", "part"))
    for family in families(report.tensors):
        first = family.first
        table.add_row(
            f"  {clean(family.name)}", _shape(first), first.type, size(first.nbytes), str(family.count), first.part or "not needed"
        )
    console.print(table)


def _print_each(console: Console, tensors: list[TensorFacts]) -> None:
    table = _table("name", "shape", "type", "bytes", "part", left=("shape", "type", "part"))
    for tensor in tensors:
        table.add_row(f"  {clean(tensor.name)}", _shape(tensor), tensor.type, str(tensor.nbytes), tensor.part or "not needed")
    console.print(table)
    console.print(f"{len(tensors)} tensors, {size(sum(tensor.nbytes for tensor in tensors))}")


def _print_tokenizer(console: Console, report: ModelReport) -> None:
    console.print("\ntokenizer", style="bold")
    if report.tokenizer is None:
        console.print(f"  {'none' if report.tokenizer_error is None else f'cannot be read: {clean(report.tokenizer_error)}'}")
        return
    console.print(_grid(_tokenizer_rows(report.tokenizer, report.spec.vocab_size)))


def _tokenizer_rows(facts: TokenizerFacts, embedding_rows: int) -> list[tuple[str, str]]:
    fewer = "" if facts.vocab_size == embedding_rows else f" (the model has {embedding_rows} embedding rows)"
    return [
        ("kind", facts.kind),
        ("vocabulary", f"{facts.vocab_size} tokens{fewer}"),
        ("beginning", "none" if facts.bos is None else _tokens([facts.bos])),
        ("end", "none" if facts.eos is None else _tokens([facts.eos])),
        ("every text gets", _tokens(facts.added) or "nothing"),
        ("ends an answer", _tokens(facts.ends) or "nothing"),
        ("special", f"{len(facts.special)}: {_tokens(facts.special[:_SPECIAL_TOKENS])}{' ...' * (len(facts.special) > _SPECIAL_TOKENS)}"),
    ]


def _print_templates(console: Console, report: ModelReport) -> None:
    if not report.chat_templates:
        console.print("\nno chat template", style="bold")
    for name, template in report.chat_templates.items():
        lines = template.splitlines()
        console.print(f"\nchat template {name!r}, {len(template)} characters in {len(lines)} lines", style="bold")
        for line in lines[:_TEMPLATE_LINES]:
            console.print(f"  {clean(line[:160])}{' ...' * (len(line) > 160)}")
        if len(lines) > _TEMPLATE_LINES:
            console.print("  ...")


def _print_memory(console: Console, report: ModelReport) -> None:
    """A row for each type of KV cache and context, a column for each batch size."""
    needs = {(need.kv_dtype, need.context, need.batch_size): need for need in report.memory}
    batch_sizes = list(dict.fromkeys(need.batch_size for need in report.memory))
    console.print(
        f"\nmemory: weights {size(report.memory[0].weight_bytes)}, and the KV cache of a batch (all together, with what a step works in)",
        style="bold",
    )
    table = _table("KV type", "context", *(f"batch {batch_size}" for batch_size in batch_sizes))
    for kv_dtype, context in dict.fromkeys((need.kv_dtype, need.context) for need in report.memory):
        row = [needs[kv_dtype, context, batch_size] for batch_size in batch_sizes]
        cells = (f"{size(need.kv_cache_bytes)} ({size(need.total_bytes)}){' ' if need.fits else '*'}" for need in row)
        table.add_row(f"  {kv_dtype}", str(context), *cells)
    console.print(table)
    if not all(need.fits for need in report.memory):
        console.print("  * more than the KV cache gets of this machine's memory as it is now: fewer run at once, or none")


def _table(*columns: str, left: tuple[str, ...] = ()) -> Table:
    """A table without lines; its first column, and those named, are texts."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for index, column in enumerate(columns):
        is_text = index == 0 or column in left
        table.add_column(f"  {column}" if index == 0 else column, justify="left" if is_text else "right", no_wrap=True)
    return table


def _grid(rows: list[tuple[str, str]]) -> Table:
    from rich.table import Table

    names = max(len(name) for name, _ in rows)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=max(_LEAST_TEXT, text_width() - names - 4))
    for name, text in rows:
        grid.add_row(f"  {name}", clean(text))
    return grid


def _shape(tensor: TensorFacts) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _tokens(tokens: list[NamedToken]) -> str:
    return ", ".join(f"{token.text!r} ({token.id})" for token in tokens)
