"""`linnet run`: one prompt, one answer."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linnet.cli.opening import check, require_chat_template
from linnet.cli.options import model_group, sampling_group, shell_params, with_options
from linnet.cli.terminal import note, one_interrupt, write
from linnet.errors import InvalidRequestError

if TYPE_CHECKING:
    from linnet.llm import LLM
    from linnet.outputs import Chunk, Completion
    from linnet.prompts import Prompt


@with_options(sampling=sampling_group(), load=model_group())
def run(
    model: Annotated[
        str, typer.Argument(help="tiny (built in), a model folder, a .gguf file, or a hub id in the local cache", metavar="MODEL")
    ],
    prompt: Annotated[
        str | None, typer.Argument(help="what to say; left out or -: standard input, less its last line end", metavar="PROMPT")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="complete the prompt as it stands, without the chat template")] = False,
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

    The answer streams to standard output; a last line on standard error says how long it took. A model without a chat
    template completes the prompt as it stands.
    """
    if system is not None and raw:
        raise InvalidRequestError("--system is written by the chat template, which --raw leaves out; drop one of them")
    for name in ("logprobs", "prompt_logprobs"):
        if name in sampling and not as_json:
            raise InvalidRequestError(f"--{name.replace('_', '-')} is printed only with --json; add it")
    check(model, load, sampling)
    text = _read_prompt(prompt)
    from linnet.llm import LLM

    opened_at = time.perf_counter()
    with LLM(model, **load) as llm:
        load_s = time.perf_counter() - opened_at
        params = shell_params(sampling, llm.generation_config)
        with one_interrupt(), closing(llm.stream(_as_prompt(llm, model, text, system, raw, load), params)) as chunks:
            completions = _collect(chunks) if as_json else _show(chunks, params.n)
    if as_json:
        print(json.dumps(_record(model, completions, load_s)), flush=True)
    note(_figures(completions))


def _read_prompt(argument: str | None) -> str:
    """The prompt from the command line or standard input. Raises InvalidRequestError where it is empty or not UTF-8."""
    text = argument
    if argument is None or argument == "-":
        if sys.stdin.isatty():
            note("reading the prompt from standard input; Ctrl-D on a line of its own ends it")
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
            raise InvalidRequestError(f"standard input is not UTF-8 ({byte}); convert it first, with iconv for example") from None
        text = text.removesuffix("\n").removesuffix("\r")  # echo and editors end a line that was not meant as part of it
    if not text:
        raise InvalidRequestError("the prompt is empty; give one as an argument or on standard input")
    return text


def _as_prompt(llm: LLM, model: str, text: str, system: str | None, raw: bool, load: dict[str, Any]) -> Prompt:
    """The text itself, or the conversation that it starts."""
    templates = llm.tokenizer.chat_templates if llm.tokenizer is not None else {}
    if not raw and system is None and not templates and "chat_template" not in load:
        note(f"{model} has no chat template: completing the prompt as it stands (give one with --chat-template FILE)")
        raw = True
    if raw:
        return text
    require_chat_template(llm, model, load)
    user = {"role": "user", "content": text}
    return [user] if system is None else [{"role": "system", "content": system}, user]


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


def _heading(shown: int, samples: int) -> None:
    if samples > 1 and shown < samples:
        write(f"[{shown + 1}/{samples}]\n")


def _record(model: str, completions: list[Completion], load_s: float) -> dict[str, Any]:
    """What --json prints. Its fields are those of the first sample; with several, `choices` holds every one."""
    records = [_choice(completion) for completion in completions]
    record = {"model": model, **records[0], "seed": completions[0].seed}
    record["timings"] = {"load_s": load_s, **record["timings"]}
    if completions[0].prompt_logprobs is not None:
        record["prompt_token_ids"] = completions[0].prompt_token_ids
        record["prompt_logprobs"] = [entry and asdict(entry) for entry in completions[0].prompt_logprobs]
    if len(records) > 1:
        record["choices"] = [{"index": completion.index, **choice} for completion, choice in zip(completions, records, strict=True)]
    return record


def _choice(completion: Completion) -> dict[str, Any]:
    """One sample, as JSON."""
    record: dict[str, Any] = {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "usage": {**asdict(completion.usage), "total_tokens": completion.usage.total_tokens},
        "timings": asdict(completion.timings),
    }
    if completion.logprobs is not None:
        record["logprobs"] = [asdict(entry) for entry in completion.logprobs]
    return record


def _figures(completions: list[Completion]) -> str:
    """The last line: what went in, how long until the first token, how fast the rest came (all samples together)."""
    first, usage = completions[0], completions[0].usage
    parts = [_count(usage.prompt_tokens, "prompt token")]
    if first.prompt_logprobs is not None:
        logprobs = [entry.logprob for entry in first.prompt_logprobs if entry is not None]
        parts.append(f"log-probability {sum(logprobs):.3f}")
    starts = [c.timings.first_token_s for c in completions if c.timings.first_token_s is not None]
    if starts:
        count = sum(c.usage.completion_tokens for c in completions)
        parts.append(f"first token after {min(starts):.3f} s")
        seconds = max(c.timings.total_s for c in completions) - min(starts)
        later = count - len(completions)
        parts.append(_count(count, "token") + (f" at {later / seconds:.1f} tokens/s" if later and seconds > 0 else ""))
    return ", ".join(parts)


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
