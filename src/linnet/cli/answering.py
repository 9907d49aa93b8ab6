"""What the commands that answer one prompt share: they read the prompt, and report the answer."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from linnet.cli.opening import require_chat_template
from linnet.cli.terminal import note
from linnet.errors import InvalidRequestError

if TYPE_CHECKING:
    from linnet.engine.sampling import TokenLogprob
    from linnet.llm import LLM
    from linnet.outputs import Completion
    from linnet.prompts import Prompt

PROMPT_HELP = "what to say; left out or -: standard input, less its last line end"
RAW_HELP = "complete the prompt as it stands, without the chat template"


def check_raw(raw: bool, system: str | None, chat_template: str | None) -> None:
    """Raises InvalidRequestError for --raw beside a system message or a chat template, which it would leave out."""
    if raw and system is not None:
        raise InvalidRequestError("--system is written by the chat template, which --raw leaves out; drop one of them")
    if raw and chat_template is not None:
        raise InvalidRequestError("--chat-template writes conversations, and --raw asks for none; drop one of them")


def read_prompt(argument: str | None) -> str:
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


def as_prompt(llm: LLM, model: str, text: str, system: str | None, raw: bool, load: dict[str, Any]) -> Prompt:
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


def answer_record(completion: Completion) -> dict[str, Any]:
    """One sample, as JSON."""
    record: dict[str, Any] = {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "usage": {**asdict(completion.usage), "total_tokens": completion.usage.total_tokens},
        "timings": asdict(completion.timings),
    }
    if completion.beam_score is not None:
        record["beam_score"] = completion.beam_score
    if completion.logprobs is not None:
        record["logprobs"] = [logprob_record(entry) for entry in completion.logprobs]
    return record


def logprob_record(entry: TokenLogprob) -> dict[str, Any]:
    """The log-probabilities of one place, as JSON."""
    top = tuple((token, finite(logprob)) for token, logprob in entry.top)
    return {**asdict(entry), "logprob": finite(entry.logprob), "top": top}


def finite(logprob: float) -> float | None:
    """JSON has no infinity: the log-probability of a token that is impossible is null."""
    return logprob if math.isfinite(logprob) else None


def figures(completions: list[Completion]) -> str:
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
