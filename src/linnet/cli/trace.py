"""`linnet trace`: an answer, and what else each of its tokens might have been."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet.cli.answering import PROMPT_HELP, RAW_HELP, answer_record, as_prompt, check_raw, figures, finite, read_prompt
from linnet.cli.opening import ModelArgument, check
from linnet.cli.options import gathered, model_group, sampling_group, shell_params, with_options
from linnet.cli.terminal import note, one_interrupt, page, write_file
from linnet.engine.params import BEAMS, MAX_CANDIDATES, SamplingParams
from linnet.errors import InvalidRequestError
from linnet.options import check_writable

if TYPE_CHECKING:
    from rich.console import Console

    from linnet.outputs import Candidate, Completion, TraceStep

_BAR = 32
"""Columns of a bar for a probability of 1."""
_WORD = 14
"""Columns of a candidate, at least, so that bars stand under each other."""
_TAIL = 60
"""Characters of the text so far that are shown."""


@dataclass(frozen=True)
class TraceOptions:
    """The flags of its own."""

    top: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_CANDIDATES, help="how many candidates to show for each token (default: 5)", metavar="N", show_default=False
        ),
    ] = 5
    raw: Annotated[bool, typer.Option("--raw", help=RAW_HELP)] = False
    system: Annotated[str | None, typer.Option(help="a system message before the prompt", metavar="TEXT")] = None
    html: Annotated[
        Path | None,
        typer.Option(help="also write a page on which each token shows what else it might have been", metavar="FILE", show_default=False),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="print one JSON object: model, text, token_ids, finish_reason, usage, timings, seed, prompt (its tokens), and steps, "
            "each with position, in_prompt, text, entropy (in bits), chosen, candidates",
        ),
    ] = False


@gathered
@with_options(sampling=sampling_group(without=("n", "logprobs", *BEAMS)), load=model_group())
def trace(
    model: ModelArgument,
    prompt: Annotated[str | None, typer.Argument(help=PROMPT_HELP, metavar="PROMPT")] = None,
    *,
    options: TraceOptions,
    sampling: dict[str, Any],
    load: dict[str, Any],
) -> None:
    """Answer one prompt, and show for each token what else it might have been.

    Every step has the likeliest candidates with their probabilities, the one that was chosen, and how unsure the model was
    (entropy, in bits: 0 is sure). Probabilities are the model's own, before temperature, penalties and biases. With
    --prompt-logprobs N the prompt's tokens are shown so, too, with N candidates each.
    """
    check_raw(options.raw, options.system, load.get("chat_template"))
    if sampling.get("max_tokens") == 0 and "prompt_logprobs" not in sampling:
        raise InvalidRequestError("--max-tokens 0 generates nothing to trace; add --prompt-logprobs N to trace the prompt")
    check(model, load, sampling)
    if options.html is not None:
        check_writable("--html", options.html)
    text = read_prompt(prompt)
    from linnet.llm import LLM
    from linnet.tracing import token_text

    with LLM(model, **load) as llm:
        params = shell_params(sampling, llm.generation_config)
        asked = as_prompt(llm, model, text, options.system, options.raw, load)
        ids = llm.tokenize(asked)
        given = [(token, token_text(token, llm.tokenizer)) for token in ids]
        traced = asked if isinstance(asked, str) else ids  # what is rendered once is what is shown
        with one_interrupt(), closing(llm.trace(traced, options.top, params, stream=True)) as stream:
            steps = list(stream) if options.as_json else _show(stream, given)
    if not steps or (completion := steps[-1].completion) is None:
        raise InvalidRequestError("the prompt is a single token, which nothing predicts: there is nothing to trace")
    if options.html is not None:
        _write_page(options.html, model, given, steps, params)
    if options.as_json:
        print(json.dumps(_record(model, given, steps, completion)), flush=True)
    note(figures([completion]))


def _show(stream: Iterable[TraceStep], given: list[tuple[int, str]]) -> list[TraceStep]:
    """Prints each step as it comes."""
    console = page()
    so_far = "".join(text for _, text in given)
    console.print(f"{len(given)} prompt tokens: {_tail(so_far)}", style="dim")
    steps: list[TraceStep] = []
    for step in stream:
        if not step.in_prompt and (not steps or steps[-1].in_prompt):
            so_far = ""
        _print_step(console, step, so_far)
        so_far += step.text
        steps.append(step)
    return steps


def _print_step(console: Console, step: TraceStep, so_far: str) -> None:
    """The text before it, and a line with a bar for each candidate; the chosen one too, where it is not among them."""
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

    where = f"position {step.position}, {step.entropy:.2f} bits"
    console.print(f"\n{where}" if step.in_prompt else f"\n{where}, after {_tail(so_far)}", style="dim")
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(min_width=_WORD)
    for candidate in _with_chosen(step):
        chosen = candidate.token_id == step.chosen.token_id
        probability = math.exp(candidate.logprob)
        style = "bold" if chosen else ""
        cells = (Text("▸" if chosen else " ", style), Text(_word(candidate), style), Text(f"{100 * probability:6.2f}%", style))
        grid.add_row(*cells, Bar(1.0, 0.0, probability, width=_BAR, color="cyan" if chosen else "bright_black"))
    console.print(grid)


def _with_chosen(step: TraceStep) -> list[Candidate]:
    chosen = step.chosen.token_id
    return step.candidates if any(c.token_id == chosen for c in step.candidates) else [*step.candidates, step.chosen]


def _word(candidate: Candidate) -> str:
    """As Python writes it: with spaces, line ends and what cannot be printed to be seen."""
    return repr(candidate.text) if candidate.text else f"[{candidate.token_id}]"


def _tail(text: str) -> str:
    return repr(text if len(text) <= _TAIL else f"…{text[-_TAIL:]}")


def _write_page(path: Path, model: str, given: list[tuple[int, str]], steps: list[TraceStep], params: SamplingParams) -> None:
    from linnet.look.trace_page import trace_page

    answer = [step for step in steps if not step.in_prompt]
    completion = steps[-1].completion
    assert completion is not None
    facts = [("prompt tokens", str(len(given))), ("tokens", str(len(answer)))]
    if answer:
        mean = sum(step.entropy for step in answer) / len(answer)
        logprob = sum(step.chosen.logprob for step in answer)
        facts += [("mean entropy", f"{mean:.2f} bits"), ("log-probability", f"{logprob:.2f}"), ("ended by", completion.finish_reason)]
    defaults = SamplingParams()
    changed = [(name.replace("_", " "), str(value)) for name, value in asdict(params).items() if value != getattr(defaults, name)]
    seed = [] if params.temperature == 0 or params.seed is not None else [("seed", str(completion.seed))]
    write_file("--html", path, trace_page(model, given, steps, [*facts, *changed, *seed]))


def _record(model: str, given: list[tuple[int, str]], steps: list[TraceStep], completion: Completion) -> dict[str, Any]:
    """What --json prints."""
    answer = answer_record(replace(completion, logprobs=None))
    prompt = [{"token_id": token, "text": text} for token, text in given]
    return {"model": model, **answer, "seed": completion.seed, "prompt": prompt, "steps": [_step_record(step) for step in steps]}


def _step_record(step: TraceStep) -> dict[str, Any]:
    told = {name: getattr(step, name) for name in ("position", "in_prompt", "text", "entropy")}
    return {**told, "chosen": _candidate_record(step.chosen), "candidates": [_candidate_record(c) for c in step.candidates]}


def _candidate_record(candidate: Candidate) -> dict[str, Any]:
    told = {"token_id": candidate.token_id, "text": candidate.text, "logprob": finite(candidate.logprob)}
    return {**told, "probability": math.exp(candidate.logprob)}
