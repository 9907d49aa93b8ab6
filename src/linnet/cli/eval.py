"""`linnet eval`: how good a model is, on data of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet import __version__
from linnet.cli.answering import check_system
from linnet.cli.opening import ModelArgument, check, require_chat_template
from linnet.cli.options import SINGLE_USER, model_group, sampling_group, shell_params, with_options
from linnet.cli.terminal import note, one_interrupt, page, progress_bar
from linnet.errors import InvalidRequestError
from linnet.options import check_writable

if TYPE_CHECKING:
    from linnet.eval.evaluation import Evaluation
    from linnet.eval.plan import Plan
    from linnet.llm import LLM

_SAMPLING = sampling_group(without=("n", "logprobs", "prompt_logprobs"), advised=False)

MAX_TOKENS = 256
"""Of an answer, where the command line does not say."""


@with_options(sampling=_SAMPLING, load=model_group((*SINGLE_USER, "max_batch")))
def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(help="a .json, .jsonl, .csv or .txt file, or the folder of a CORE bundle", metavar="DATA")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="of answers: exact_match, bleu, rouge, perplexity (of the reference), or a function FILE.py:NAME(answer, reference) -> "
            "number; may be repeated (default: the first three)",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="which columns are meant: prompt=question,reference=answer; others are left out", metavar="FIELD=COLUMN,..."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first rows; of CORE, so many of each task", metavar="N")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="answer prompts as they stand, without the chat template")] = False,
    system: Annotated[str | None, typer.Option(help="a system message before each prompt", metavar="TEXT")] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="what stands between a prompt and a choice (default: a space)", metavar="TEXT", show_default=False)
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="of texts: most tokens seen at once (default: the context)", metavar="N", show_default=False),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(help="of texts: how far the window moves on (default: half of it)", metavar="N", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="write the figures here, and beside it, as they come, what the model gave", metavar="FILE.json"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run of --output that stopped")] = False,
    html: Annotated[
        Path | None,
        typer.Option(help='write a page with plots and the worst rows (needs: pip install "linnet[plot]")', metavar="FILE.html"),
    ] = None,
    worst: Annotated[
        int, typer.Option(min=0, max=1000, help="rows that the report shows (default: 20)", metavar="N", show_default=False)
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, what --output gets, and nothing else")] = False,
    *,
    sampling: dict[str, Any],
    load: dict[str, Any],
) -> None:
    """Measure how good a model is on your data.

    Rows with a prompt and a reference are answered and compared (exact match, BLEU, ROUGE); rows with a prompt, choices and an answer
    are decided by likelihood; texts give perplexity; the folder of a CORE bundle gives the CORE measure of base models. Answers are
    greedy and have up to 256 tokens unless a flag says otherwise; what the model's publishers advise is not followed. A model with a chat
    template gets each prompt as a message, unless --raw. What stops can be resumed: --output with --resume.
    """
    check_system(system, raw)
    check(model, load, sampling)
    if resume and output is None:
        raise InvalidRequestError("--resume goes on with the run that --output names; add it")
    files = {"--output": output, "--html": html}
    for option, path in files.items():
        if path is None:
            continue
        check_writable(option, path)
        if data.resolve() in (path.resolve(), _samples(path).resolve()):
            raise InvalidRequestError(f"{option} {path} would overwrite the data; name another file")
    from linnet.eval.plan import plan
    from linnet.eval.report import check_report
    from linnet.eval.rows import Question

    if html is not None:
        check_report()
    params = shell_params({"max_tokens": MAX_TOKENS, **sampling}, {})
    own = {"delimiter": delimiter, "window": window, "stride": stride, "metrics": [_metric(name) for name in metric] if metric else None}
    planned = plan(data, columns=_columns(columns), limit=limit, **own)
    if isinstance(planned.rows[0], Question):
        planned.options.update(params=params, system=system)
    else:
        for name in [*sampling, *(["raw"] if raw else []), *(["system"] if system is not None else [])]:
            raise InvalidRequestError(f"--{name.replace('_', '-')} is for rows with a reference, and {data} has none; leave it out")
    found = _run(model, load, planned, raw, output, resume)
    record = {"linnet": __version__, **found.record()}
    if output is not None:
        _write("--output", output, json.dumps({**record, "samples": str(_samples(output))}, indent=1, ensure_ascii=False) + "\n")
    if html is not None:
        from linnet.eval.report import report_page

        _write("--html", html, report_page(found, worst))
    _show(found, record, as_json)


def _run(model: str, load: dict[str, Any], planned: Plan, raw: bool, output: Path | None, resume: bool) -> Evaluation:
    from linnet.eval.evaluation import carry_out
    from linnet.llm import LLM

    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)
        with LLM(model, **load) as llm, one_interrupt():
            if "params" in planned.options:
                planned.options["chat"] = _chats(llm, model, load, raw, planned.options["system"])
            samples = None if output is None else _samples(output)
            try:
                return carry_out(
                    llm, planned, samples, resume, lambda done, count: bar.update(task, description="running", completed=done, total=count)
                )
            except KeyboardInterrupt:
                if output is not None:
                    note(f"stopped; what is done stands in {samples}: go on with --resume")
                raise


def _chats(llm: LLM, model: str, load: dict[str, Any], raw: bool, system: str | None) -> bool:
    """Whether prompts become messages."""
    templates = llm.tokenizer.chat_templates if llm.tokenizer is not None else {}
    if raw or (system is None and not templates and "chat_template" not in load):
        return False
    require_chat_template(llm, model, load)
    return True


def _samples(output: Path) -> Path:
    return output.with_suffix(".samples.jsonl")


def _columns(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    for field, equals, column in pairs:
        if not field or not equals or not column:
            raise InvalidRequestError(f"--columns {text!r} is not FIELD=COLUMN,..., such as prompt=question,reference=answer")
    return {field: column for field, _, column in pairs}


def _metric(name: str) -> str | Callable[[str, Any], float]:
    """A metric's name, or the function that FILE.py:NAME means, which is run: the command line asked for it."""
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return name
    from runpy import run_path

    try:
        found = run_path(file).get(function)
    except Exception as error:
        raise InvalidRequestError(f"--metric {name}: {file} cannot be run ({type(error).__name__}: {error})") from None
    if not callable(found):
        raise InvalidRequestError(f"--metric {name}: {file} has no function {function!r}")
    return found  # type: ignore[no-any-return]


def _show(found: Evaluation, record: dict[str, Any], as_json: bool) -> None:
    for name, reason in found.failed.items():
        note(f"metric {name} failed: {reason}")
    if as_json:
        print(json.dumps(record), flush=True)
        return
    console = page()
    width = max(map(len, found.metrics), default=0)
    for name, value in found.metrics.items():
        console.print(f"{name:<{width}}  {value if isinstance(value, str) else format(value, '.6g')}", soft_wrap=True)
    rate = f", {found.ran / found.seconds:.1f} a second" if found.ran and found.seconds > 0 else ""
    note(f"{found.ran} of {len(found.samples)} items run in {found.seconds:.1f} s{rate}")


def _write(option: str, path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise InvalidRequestError(f"{option} {path}: cannot be written ({error.strerror})") from None
