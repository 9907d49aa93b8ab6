"""`linnet convert`: a model as a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from linnet.cli.opening import ModelArgument
from linnet.cli.terminal import clean, note, page, stages


def convert(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="the folder to write", metavar="OUT", readable=False)],
    dtype: Annotated[
        Literal["f16", "bf16", "f32"], typer.Option(help="type of the weights (default: f16)", metavar="f16|bf16|f32", show_default=False)
    ] = "f16",
    tokenizer: Annotated[Path | None, typer.Option(help="a tokenizer in place of the model's own", metavar="PATH")] = None,
    threads: Annotated[int | None, typer.Option(help="threads (default: one per physical core)", metavar="N")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a model's folder that is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, and nothing else")] = False,
) -> None:
    """Write a model as a Hugging Face folder that transformers loads.

    MODEL is anything that opens: a GGUF file, quantized or not, a PyTorch checkpoint, a folder. config.json, model.safetensors, the
    tokenizer and the chat template are written; what transformers has no words for is refused by name. The folder appears under its
    name once it is whole.
    """
    from linnet.look.phrases import size
    from linnet.quantize.convert import convert as write

    with stages() as progress:
        report = write(model, out, dtype, tokenizer=tokenizer, threads=threads, force=force, progress=progress)
    if as_json:
        print(json.dumps(report.record()), flush=True)
        return
    page().print(f"{clean(report.out)}: {report.model_type}, {size(report.nbytes)} in {report.dtype.upper()}, {report.seconds:.1f} s")
    for line in report.notes:
        note(f"note: {line}")
