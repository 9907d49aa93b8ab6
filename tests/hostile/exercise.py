"""Everything that Linnet does with a model file, under watch: how it ended, how long it took, how far memory grew."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

from linnet import LLM, LinnetError, SamplingParams
from linnet.text.tokenizer import Tokenizer

TEXT = "hello wörld 12 <|user|> \x00 日本 🙂"


def use(path: str | Path) -> str:
    """Opens a model, runs it, encodes, decodes and chats. Gives "ok" or the LinnetError that refused it; lets others pass."""
    try:
        with LLM(path, threads=2, max_batch=2, kv_memory=2**23) as llm:
            top = min(llm.spec.vocab_size, 200)
            tokens = [0, top // 2, top - 1]
            llm.generate([tokens], SamplingParams(max_tokens=2, temperature=0.8, seed=1, logprobs=2))
            if llm.tokenizer is not None:
                use_tokenizer(llm.tokenizer)
    except LinnetError as error:
        return f"{type_name(error)}: {error}"
    return "ok"


def use_vocabulary(path: str | Path) -> str:
    """As `use`, for a tokenizer's file alone."""
    try:
        use_tokenizer(Tokenizer(Path(path)))
    except LinnetError as error:
        return f"{type_name(error)}: {error}"
    return "ok"


def use_tokenizer(tokenizer: Tokenizer) -> None:
    for special in (False, True):
        ids = tokenizer.encode(TEXT, special=special)
        tokenizer.decode(ids)
    tokenizer.decode(range(min(tokenizer.vocab_size, 300)), skip_special=False)
    if tokenizer.chat_templates:
        tokenizer.apply_chat_template([{"role": "user", "content": TEXT}])


def type_name(error: BaseException) -> str:
    return type(error).__name__


def watched(action: Any, *arguments: Any) -> dict[str, Any]:
    """What `action` gave, or its exception; seconds; and by how many bytes the resident set grew at its peak (Linux)."""
    gc.collect()
    before = reset_peak()
    started = time.perf_counter()
    try:
        outcome = str(action(*arguments))
    except BaseException as error:
        outcome = f"CRASH {type_name(error)}: {error}"[:2000]
    return {"outcome": outcome, "seconds": time.perf_counter() - started, "grown": max(0, peak() - before)}


def reset_peak() -> int:
    """Forgets the highest resident set so far; the present one, in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak()
    return peak()


def peak() -> int:
    """The highest resident set, in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
