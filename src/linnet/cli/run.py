"""`linnet run`: one prompt, one answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet.cli.answering import PROMPT_HELP, RAW_HELP, answer_record, as_prompt, check_raw, figures, logprob_record, read_prompt
from linnet.cli.opening import ModelArgument, check
from linnet.cli.options import model_group, sampling_group, shell_params, with_options
from linnet.cli.terminal import note, one_interrupt, write
from linnet.errors import InvalidRequestError
from linnet.model_options import PROCESSOR_BATCH

if TYPE_CHECKING:
    from linnet.outputs import Chunk, Completion


@with_options(sampling=sampling_group(), load=model_group())
def run(
    model: ModelArgument,
    prompt: Annotated[str | None, typer.Argument(help=PROMPT_HELP, metavar="PROMPT")] = None,
    raw: Annotated[bool, typer.Option("--raw", help=RAW_HELP)] = False,
    system: Annotated[str | None, typer.Option(help="a system message before the prompt", metavar="TEXT")] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="print one JSON object: model, text, token_ids, finish_reason, usage, timings, seed; with --logprobs or "
            "--prompt-logprobs those too; with --n a list of all samples, choices",
        ),
    ] = False,
    *,
    sampling: dict[str, Any],
    load: dict[str, Any],
) -> None:
    """Answer one prompt.

    The answer streams to standard output, or with --num-beams comes at the end; a last line on standard error says how
    long it took. A model without a chat template completes the prompt as it stands.
    """
    check_raw(raw, system, load.get("chat_template"))
    for name in ("logprobs", "prompt_logprobs"):
        if name in sampling and not as_json:
            raise InvalidRequestError(f"--{name.replace('_', '-')} is printed only with --json; add it")
    check(model, load, sampling)
    text = read_prompt(prompt)
    from linnet.llm import LLM

    opened_at = time.perf_counter()
    beams = sampling.get("num_beams", 1)
    with LLM(model, **load, max_batch=beams if beams > PROCESSOR_BATCH else None) as llm:
        load_s = time.perf_counter() - opened_at
        params = shell_params(sampling, llm.generation_config)
        asked = as_prompt(llm, model, text, system, raw, load)
        with one_interrupt():
            if params.num_beams > 1:
                completions = llm.generate([asked], params)
                if not as_json:
                    _print(completions)
            else:
                with closing(llm.stream(asked, params)) as chunks:
                    completions = _collect(chunks) if as_json else _show(chunks, params.n)
    if as_json:
        print(json.dumps(_record(model, completions, load_s)), flush=True)
    note(figures(completions))


def _collect(chunks: Iterable[Chunk]) -> list[Completion]:
    completions = [chunk.completion for chunk in chunks if chunk.completion is not None]
    return sorted(completions, key=lambda completion: completion.index)


def _show(chunks: Iterable[Chunk], samples: int) -> list[Completion]:
    """Streams one sample after another: what later ones say meanwhile is held until it is their turn."""
    held = [""] * samples
    completions: dict[int, Completion] = {}
    shown = 0
    _heading(shown, samples)
    try:
        for chunk in chunks:
            held[chunk.index] += chunk.text
            if chunk.completion is not None:
                completions[chunk.index] = chunk.completion
            while shown < samples and (held[shown] or shown in completions):
                write(held[shown])
                held[shown] = ""
                if shown not in completions:
                    break
                if completions[shown].text and not completions[shown].text.endswith("\n"):
                    write("\n")
                shown += 1
                _heading(shown, samples)
    except KeyboardInterrupt:
        write("\n")
        raise
    return [completions[index] for index in range(samples)]


def _print(completions: list[Completion]) -> None:
    for index, completion in enumerate(completions):
        _heading(index, len(completions))
        write(completion.text if completion.text.endswith("\n") else completion.text + "\n")


def _heading(shown: int, samples: int) -> None:
    if samples > 1 and shown < samples:
        write(f"[{shown + 1}/{samples}]\n")


def _record(model: str, completions: list[Completion], load_s: float) -> dict[str, Any]:
    """What --json prints. Its fields are those of the first sample; with several, `choices` holds every one."""
    records = [answer_record(completion) for completion in completions]
    record = {"model": model, **records[0], "seed": completions[0].seed}
    record["timings"] = {"load_s": load_s, **record["timings"]}
    if completions[0].prompt_logprobs is not None:
        record["prompt_token_ids"] = completions[0].prompt_token_ids
        record["prompt_logprobs"] = [entry and logprob_record(entry) for entry in completions[0].prompt_logprobs]
    if len(records) > 1:
        record["choices"] = [{"index": completion.index, **choice} for completion, choice in zip(completions, records, strict=True)]
    return record
