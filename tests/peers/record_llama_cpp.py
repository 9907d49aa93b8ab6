"""Asks the real llama.cpp about the built-in model in every GGUF type and writes recorded.json, which CI compares with.

Run it where llama-cpp-python is installed, after any change of models/tiny or tiny_gguf.py:
    python tests/peers/record_llama_cpp.py
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from comparison import PROMPTS, ask
from peer import LlamaCpp
from tiny_gguf import KINDS, tensor_digest, write_tiny

RECORDED = Path(__file__).with_name("recorded.json")


def record(folder: Path) -> dict[str, Any]:
    """The figures of every type, by type, with the digest of the file that they belong to."""
    files: dict[str, Any] = {}
    system_info = ""
    for kind in KINDS:
        path = folder / f"{kind}.gguf"
        write_tiny(path, kind)
        peer = LlamaCpp(path, threads=1)
        system_info = peer.system_info
        files[kind] = {"digest": tensor_digest(path), "cases": [ask(peer, prompt).to_json() for prompt in PROMPTS]}
        peer.close()
        print(kind, [case["certain"] for case in files[kind]["cases"]])
    return {"llama_cpp_python": version("llama-cpp-python"), "system_info": system_info, "files": files}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        RECORDED.write_text(json.dumps(record(Path(folder)), separators=(",", ":")) + "\n")
    print(f"{RECORDED}: {RECORDED.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
