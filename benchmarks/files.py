"""The model files that rows need, made where they are not there yet, each by the script that one would call by hand."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from rows import CTRANSLATE2, LINNET, LLAMA_CPP, Row, model_path

HERE = Path(__file__).parent
PACKAGES = {LLAMA_CPP: "llama_cpp", CTRANSLATE2: "ctranslate2"}


def missing_packages(engines: set[str]) -> list[str]:
    """Names of what engines import and is not installed."""
    wanted = {PACKAGES.get(engine, "transformers") for engine in engines - {LINNET}}
    return sorted(package for package in wanted if find_spec(package) is None)


def make_files(row: Row, folder: Path) -> None:
    """In processes of their own, which give their memory back."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / row.file).exists():
        if row.shape == "tiny":
            sys.path.append(str(HERE.parent / "tests" / "peers"))
            from tiny_gguf import write_tiny

            write_tiny(folder / row.file, row.type)
        else:
            _run("make_model.py", folder / row.file, "--shape", row.shape, "--type", row.type)
    converted = {model_path(engine, row, folder) for engine in row.engines}
    hugging_face, ctranslate2 = folder / f"{row.shape}.hf", folder / f"{row.shape}.ct2"
    if converted & {str(hugging_face), str(ctranslate2)} and not hugging_face.exists():
        source = folder / f"{row.shape}-q4_0.gguf"  # one conversion for all rows of a shape
        if not source.exists():
            _run("make_model.py", source, "--shape", row.shape, "--type", "q4_0")
        _run("convert_model.py", source, hugging_face, "--shape", row.shape)
    if str(ctranslate2) in converted and not ctranslate2.exists():
        _run("convert_model.py", hugging_face, ctranslate2, "--shape", row.shape)


def warm(path: Path) -> None:
    """Reads a file, so that it lies in the page cache."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def _run(script: str, *arguments: str | Path) -> None:
    print(f"{script} {' '.join(map(str, arguments))}", flush=True)
    subprocess.run([sys.executable, str(HERE / script), *map(str, arguments)], check=True)
