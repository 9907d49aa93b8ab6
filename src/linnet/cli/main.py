"""The entry point: the commands, and what every failure looks like from outside.

A LinnetError or a wrong command line is one line on standard error and exit code 2; Ctrl-C is 130; a reader that has gone
away is 1, in silence. A traceback is shown only with --debug.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any, Literal

import typer

from linnet import LinnetError, __version__
from linnet.cli import terminal
from linnet.cli.bench import bench
from linnet.cli.chat import chat
from linnet.cli.convert import convert
from linnet.cli.eval import evaluate
from linnet.cli.info import info
from linnet.cli.inspect import inspect
from linnet.cli.quantize import quantize
from linnet.cli.run import run
from linnet.cli.serve import serve
from linnet.cli.trace import trace

app = typer.Typer(
    name="linnet",
    add_completion=False,
    rich_markup_mode="markdown",  # which joins the lines of a paragraph
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(chat)
app.command()(serve)
app.command()(bench)
app.command("eval")(evaluate)
app.command()(inspect)
app.command()(info)
app.command()(trace)
app.command()(quantize)
app.command()(convert)

# The root of usage errors is click's, of which newer versions of Typer carry their own copy without a public name.
_UsageError: Any = typer.BadParameter.__mro__[1]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"linnet {__version__}")
        raise typer.Exit


def _set_debug(wanted: bool) -> None:
    if wanted:
        os.environ["LINNET_DEBUG"] = "1"


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="print the version and leave", callback=_print_version, is_eager=True)] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="what the library logs on standard error; left out: nothing", metavar="debug|info|warning|error"),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="show tracebacks (as LINNET_DEBUG=1 does)", callback=_set_debug, is_eager=True)
    ] = False,
) -> None:
    """Run open language models.

    Exit codes: 0 done; 2 a mistake in the command line, the model or the input, named on one line of standard error; 130
    Ctrl-C; 1 anything else.
    """
    if log_level is not None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("linnet")
        logger.addHandler(handler)
        logger.setLevel(log_level.upper())


def main() -> None:
    """Runs the command line and exits."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        code = 1
    sys.exit(code)


def _open_closed_streams() -> None:
    """Whoever starts a program may close its streams (`linnet run tiny <&-`): Python then has None, and the next file that is opened gets
    their number. What is written goes nowhere, and what is read is empty."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good


def _run() -> int:
    try:
        return app(standalone_mode=False, prog_name="linnet") or 0
    except _UsageError as error:
        message, where = error.format_message(), error.ctx.command_path if error.ctx is not None else "linnet"
        if message:  # else help was printed, which said it all
            terminal.error(f"{message.rstrip('.')}; see {where} --help")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        terminal.report(error)
        return 2 if isinstance(error, LinnetError) else 1


if __name__ == "__main__":
    main()
