"""The process that hostile files are opened in: one JSON line in for each, {"action", "path"}, one out (see `exercise.watched`)."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from exercise import type_name, use, watched

from linnet import LinnetError
from linnet.load.checkpoint import open_checkpoint
from linnet.text.tokenizer import Tokenizer

ADDRESS_SPACE = 16 * 2**30


def opened(path: str) -> str:
    try:
        open_checkpoint(path).close()
    except LinnetError as error:
        return f"{type_name(error)}: {error}"
    return "ok"


def tokenized(path: str) -> str:
    """Opened as a tokenizer and used."""
    try:
        tokenizer = Tokenizer(Path(path))
        tokenizer.decode(tokenizer.encode("hello <|end|> 12 wörld"))
    except LinnetError as error:
        return f"{type_name(error)}: {error}"
    return "ok"


ACTIONS = {"open": opened, "tokenize": tokenized, "use": use}

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(watched(ACTIONS[order["action"]], order["path"])), flush=True)
