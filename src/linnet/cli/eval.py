"""`linnet eval`: how good a model is, on data of the user's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet import __version__
from linnet.cli.answering import check_raw
from linnet.cli.opening import ModelArgument, check, require_chat_template
from linnet.cli.options import SINGLE_USER, gathered, model_group, sampling_group, shell_params, with_options
from linnet.cli.terminal import note, one_interrupt, page, progress_bar, write_file
from linnet.errors import InvalidRequestError
from linnet.options import check_writable

if TYPE_CHECKING:
    from linnet.eval.evaluation import Evaluation
    from linnet.eval.plan import Plan
    from linnet.llm import LLM

_SAMPLING = sampling_group(without=("n", "logprobs", "prompt_logprobs"), advised=False)

MAX_TOKENS = 256
WORST = 20
"""Tokens of an answer and rows of a report, where the command line does not say."""


@dataclass(frozen=True)
class EvalOptions:
    """The flags of its own."""

    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="of answers: exact_match, bleu, rouge, perplexity (of the reference), or a function FILE.py:NAME(answer, reference) -> "
            "number; may be repeated (default: the first three)",
            metavar="NAME",
            show_default=False,
        ),
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(help="which columns are meant: prompt=question,reference=answer; others are left out", metavar="FIELD=COLUMN,..."),
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="only the first rows; of CORE, so many of each task", metavar="N")] = None
    raw: Annotated[bool, typer.Option("--raw", help="answer prompts as they stand, without the chat template")] = False
    system: Annotated[str | None, typer.Option(help="a system message before each prompt", metavar="TEXT")] = None
    delimiter: Annotated[
        str | None, typer.Option(help="what stands between a prompt and a choice (default: a space)", metavar="TEXT", show_default=False)
    ] = None
    window: Annotated[
        int | None,
        typer.Option(help="of texts: most tokens seen at once (default: the context)", metavar="N", show_default=False),
    ] = None
    stride: Annotated[
        int | None, typer.Option(help="of texts: how far the window moves on (default: half of it)", metavar="N", show_default=False)
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(help="write the figures here, and beside it, as they come, what the model gave", metavar="FILE.json"),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run of --output that stopped")] = False
    html: Annotated[
        Path | None,
        typer.Option(help='write a page with plots and the worst rows (needs: pip install "linnet[plot]")', metavar="FILE.html"),
    ] = None
    worst: Annotated[
        int | None, typer.Option(min=0, max=1000, help="rows that the report shows (default: 20)", metavar="N", show_default=False)
    ] = None


@gathered
@with_options(sampling=_SAMPLING, load=model_group((*SINGLE_USER, "max_batch")))
def evaluate(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(help="a .json, .jsonl, .csv or .txt file, or the folder of a CORE bundle", metavar="DATA")],
    *,
    options: EvalOptions,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object, what --output gets, and nothing else")] = False,
    sampling: dict[str, Any],
    load: dict[str, Any],
) -> None:
    """Measure how good a model is on your data.

    Rows with a prompt and a reference are answered and compared (exact match, BLEU, ROUGE); rows with a prompt, choices and an answer
    are decided by likelihood; texts give perplexity; the folder of a CORE bundle gives the CORE measure of base models. Answers are
    greedy and have up to 256 tokens unless a flag says otherwise; what the model's publishers advise is not followed. A model with a chat
    template gets each prompt as a message, unless --raw. What stops can be resumed: --output with --resume.
    """
    check_raw(options.raw, options.system, None)  # prompts that are messages have the template at any rate
    check(model, load, sampling)
    _check_files(data, options)
    planned = _plan(data, options, sampling, load)
    found = _run(model, load, planned, options)
    record = {"linnet": __version__, **found.record()}
    if options.output is not None:
        whole = {**record, "samples": str(_samples(options.output))}
        write_file("--output", options.output, json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    if options.html is not None:
        from linnet.eval.report import report_page

        write_file("--html", options.html, report_page(found, WORST if options.worst is None else options.worst))
    _show(found, record, as_json)
    if found.failed and not found.metrics:
        kept = "" if options.output is None else ", with --resume, which takes the answers that are there"
        raise InvalidRequestError(f"no metric gave a figure: all of them failed, for the reasons above; mend them and run again{kept}")


def _check_files(data: Path, options: EvalOptions) -> None:
    """Refuses what could not be written in the end, and what would overwrite the data."""
    if options.resume and options.output is None:
        raise InvalidRequestError("--resume goes on with the run that --output names; add it")
    if options.worst is not None and options.html is None:
        raise InvalidRequestError("--worst is of the report that --html names; add it, or leave --worst out")
    written = [("--output", options.output), ("--html", options.html)]
    if options.output is not None:
        written.insert(1, ("--output", _samples(options.output)))
    taken = {data.resolve(): "the data"}
    for flag, path in written:
        if path is None:
            continue
        check_writable(flag, path)
        if path.resolve() in taken:
            raise InvalidRequestError(f"{flag} {path} would overwrite {taken[path.resolve()]}; name another file")
        taken[path.resolve()] = f"what {flag} writes"
    if options.html is not None:
        from linnet.eval.report import check_report

        check_report()


def _plan(data: Path, options: EvalOptions, sampling: dict[str, Any], load: dict[str, Any]) -> Plan:
    """What the model is to do, as far as it can be checked without one."""
    from linnet.eval.plan import plan
    from linnet.eval.rows import Question

    params = shell_params({"max_tokens": MAX_TOKENS, **sampling}, {})
    metrics = [_metric(name) for name in options.metric] if options.metric else None
    texts = {"delimiter": options.delimiter, "window": options.window, "stride": options.stride}
    planned = plan(data, columns=_columns(options.columns), limit=options.limit, metrics=metrics, **texts)
    if isinstance(planned.rows[0], Question):
        planned.options.update(params=params, system=options.system)
        return planned
    useless = [*sampling, *(name for name in ("raw", "system") if getattr(options, name) not in (None, False))]
    useless += [name for name in ("chat_template", "draft") if name in load]
    if useless:
        raise InvalidRequestError(f"--{useless[0].replace('_', '-')} is for rows with a reference, and {data} has none; leave it out")
    return planned


def _run(model: str, load: dict[str, Any], planned: Plan, options: EvalOptions) -> Evaluation:
    from linnet.eval.evaluation import carry_out
    from linnet.llm import LLM

    samples = None if options.output is None else _samples(options.output)
    with progress_bar() as bar:
        task = bar.add_task("loading", total=None)

        def progress(done: int, count: int) -> None:
            bar.update(task, description="running", completed=done, total=count)

        with LLM(model, **load) as llm, one_interrupt():
            if "params" in planned.options:
                planned.options["chat"] = _chats(llm, model, load, options.raw, options.system)
            try:
                return carry_out(llm, planned, samples, options.resume, progress)
            except KeyboardInterrupt:
                if samples is not None:
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
    return output.parent / f"{output.stem}.samples.jsonl"


def _columns(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    for field, equals, column in pairs:
        if not field or not equals or not column:
            raise InvalidRequestError(f"--columns {text!r} is not FIELD=COLUMN,..., such as prompt=question,reference=answer")
        if sum(field == other for other, *_ in pairs) > 1:
            raise InvalidRequestError(f"--columns names the field {field!r} twice; say once which column it is")
    return {field: column for field, _, column in pairs}


def _metric(name: str) -> str | Callable[[str, Any], float]:
    """A metric's name, or the function that FILE.py:NAME means, which is run: the command line asked for it."""
    file, colon, function = name.rpartition(":")
    if not colon or not file.endswith(".py"):
        return name
    from runpy import run_path

    try:
        found = run_path(file).get(function)
    except (Exception, SystemExit) as error:
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
