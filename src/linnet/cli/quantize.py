"""`linnet quantize`: a model as a smaller GGUF file, and how good it still is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linnet.cli.opening import ModelArgument
from linnet.cli.options import gathered
from linnet.cli.terminal import clean, note, page, stages
from linnet.errors import InvalidRequestError

if TYPE_CHECKING:
    from linnet.quantize.report import QuantizeReport

_TYPES = (
    "F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL, IQ4_XS, MXFP4, MXFP4_MOE, "
    "Q3_K_L, Q3_K_M, Q3_K_S, Q2_K"
)


@dataclass(frozen=True)
class QuantizeOptions:
    """The flags, which are arguments of `linnet.quantize`."""

    type: Annotated[str | None, typer.Option(help=f"file type, in any case: {_TYPES}; Q4_K is Q4_K_M, and so on", metavar="TYPE")] = None
    bits: Annotated[int | None, typer.Option(help="in place of a type: 2 (Q2_K), 4 (Q4_K_M) or 8 (Q8_0)", metavar="N")] = None
    pure: Annotated[bool, typer.Option("--pure", help="one type throughout, no mixture")] = False
    tensor_types: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type",
            help="the type of matrices in whose names (GGUF's) the regular expression is found, such as `attn_v=q8_0`; may be repeated",
            metavar="PATTERN=TYPE",
        ),
    ] = None
    output_type: Annotated[str | None, typer.Option(help="the type of output.weight", metavar="TYPE")] = None
    embedding_type: Annotated[str | None, typer.Option(help="the type of token_embd.weight", metavar="TYPE")] = None
    calibrate: Annotated[
        Path | None,
        typer.Option(help="a text to run through the model first, so that rounding minds what its activations meet", metavar="FILE"),
    ] = None
    calibration_tokens: Annotated[int | None, typer.Option(help="how many of its tokens are read (default: 16384)", metavar="N")] = None
    importance: Annotated[
        Path | None, typer.Option(help="what --save-importance or llama.cpp's imatrix (GGUF) wrote, in place of a text", metavar="FILE")
    ] = None
    save_importance: Annotated[Path | None, typer.Option(help="keep what --calibrate finds, as a GGUF imatrix", metavar="FILE")] = None
    eval_text: Annotated[
        Path | None, typer.Option(help="a text on which the file is compared with its source (tiny has one of its own)", metavar="FILE")
    ] = None
    eval_tokens: Annotated[int | None, typer.Option(help="how many of its tokens are compared (default: 4096)", metavar="N")] = None
    special: Annotated[bool, typer.Option("--special", help="control tokens written out in these texts are themselves")] = False
    tokenizer: Annotated[Path | None, typer.Option(help="a tokenizer in place of the model's own", metavar="PATH")] = None
    threads: Annotated[int | None, typer.Option(help="threads (default: one per physical core)", metavar="N")] = None
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="replace OUT.gguf, store in more bits what is quantized already, write a vocabulary that GGUF cannot say exactly",
        ),
    ] = False
    plot: Annotated[
        Path | None,
        typer.Option(help='also draw the error of every tensor (needs: pip install "linnet[plot]")', metavar="FILE.png"),
    ] = None


@gathered
def quantize(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(help="the GGUF file to write", metavar="OUT.gguf", readable=False)],
    *,
    options: QuantizeOptions,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, every tensor included, and nothing else")] = False,
) -> None:
    """Write a model as a GGUF file that llama.cpp runs, in fewer bits, and say how good it still is.

    MODEL is anything that opens: a folder, a GGUF file, a PyTorch checkpoint. Metadata, tokenizer and chat template go along. The
    report has the size, the tensors with the largest errors and, given a text, perplexity, KL divergence to the source and how
    often both expect the same token. The file appears under its name once it is whole.
    """
    import linnet

    given = {**vars(options), "tensor_types": _pairs(options.tensor_types or [])}
    with stages() as progress:
        report = linnet.quantize(model, out, **given, progress=progress)
    if as_json:
        print(json.dumps(report.record()), flush=True)
    else:
        _print(report)


def _pairs(given: list[str]) -> dict[str, str]:
    found = {}
    for entry in given:
        pattern, equals, name = entry.rpartition("=")
        if not equals or not pattern or not name:
            raise InvalidRequestError(f"--tensor-type {entry!r}: PATTERN=TYPE was expected, such as attn_v=q8_0")
        if pattern in found:
            raise InvalidRequestError(f"--tensor-type names the pattern {pattern!r} twice; say once which type it means")
        found[pattern] = name
    return found


def _print(report: QuantizeReport) -> None:
    from linnet.look.phrases import size

    console = page()
    counts = ", ".join(f"{count} {name.upper()}" for name, count in report.types.items())
    console.print(
        f"{clean(report.out)}: {report.type}, {size(report.nbytes)} of {size(report.source_bytes)}, "
        f"{report.bits_per_weight:.2f} bits per weight, {report.seconds:.1f} s"
    )
    console.print(f"  tensors        {counts}")
    worst = ", ".join(f"{clean(tensor.name)} {tensor.type.upper()} {tensor.relative_error:.3g}" for tensor in report.worst())
    console.print(f"  largest errors {worst or 'none: nothing was rounded'}", soft_wrap=True)
    found = report.evaluation
    if found is None:
        console.print("  quality        not measured; give a text with --eval-text FILE")
    else:
        console.print(
            f"  perplexity     {found.perplexity:.4f}, the source's {found.source_perplexity:.4f} ({found.tokens} tokens)\n"
            f"  KL divergence  {found.kl_divergence:.3g}, one token of a hundred above {found.kl_divergence_p99:.3g}\n"
            f"  same top token {100 * found.top1_agreement:.2f}%"
        )
    for line in report.notes:
        note(f"note: {line}")
