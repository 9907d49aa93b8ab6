"""The process that hostile files are opened in: one JSON line in for each, {"action", "path"}, one out (see `exercise.watched`)."""

from __future__ import annotations

import json
import resource
import sys

from exercise import type_name, use, use_vocabulary, watched

from linnet import LinnetError
from linnet.load.checkpoint import open_checkpoint

ADDRESS_SPACE = 16 * 2**30


def opened(path: str) -> str:
    try:
        open_checkpoint(path).close()
    except LinnetError as error:
        return f"{type_name(error)}: {error}"
    return "ok"


ACTIONS = {"open": opened, "tokenize": use_vocabulary, "use": use}

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(watched(ACTIONS[order["action"]], order["path"])), flush=True)
