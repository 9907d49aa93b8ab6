"""Asks the real llama.cpp about the built-in model in every GGUF type and writes recorded.json, which CI compares with; and
without_kernels.gguf, whose types only llama.cpp makes.

Run it where llama-cpp-python is installed, after any change of models/tiny or tiny_gguf.py:
    python tests/peers/record_llama_cpp.py
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from comparison import PROMPTS, WITHOUT_KERNELS_FILE, ask
from llama_quantize import WITHOUT_KERNELS, equal_importance, quantize
from peer import LlamaCpp, quiet_llama_cpp
from tiny_gguf import KINDS, tensor_digest, write_tiny

RECORDED = Path(__file__).with_name("recorded.json")


def record(folder: Path) -> dict[str, Any]:
    """The figures of every type, by type, with the digest of the file that they belong to."""
    paths = {kind: folder / f"{kind}.gguf" for kind in KINDS}
    for kind, path in paths.items():
        write_tiny(path, kind)
    file_type = quiet_llama_cpp().LLAMA_FTYPE_MOSTLY_IQ2_S  # decides what the table of types leaves open: the embedding
    quantize(paths["f16"], WITHOUT_KERNELS_FILE, file_type, WITHOUT_KERNELS, equal_importance(paths["f16"]))
    files: dict[str, Any] = {}
    system_info = ""
    for kind, path in {**paths, WITHOUT_KERNELS_FILE.stem: WITHOUT_KERNELS_FILE}.items():
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
