"""Asks the real llama.cpp about a random model of every architecture and writes recorded_families.json, which CI compares with.

Run it where llama-cpp-python is installed, after any change of family_cases.py or of the draws of tests/agree/families:
    python tests/peers/record_families.py
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from comparison import TOKENS
from family_answers import ask_family, fingerprint
from family_cases import COMPARED, FamilyCase

RECORDED = Path(__file__).with_name("recorded_families.json")


def record(case: FamilyCase, folder: Path) -> dict[str, Any]:
    path = case.write(folder)
    answer = ask_family(path, case.allowed)
    print(case, "" if answer.certain == TOKENS else f"{answer.certain} certain tokens")
    return {"file": vars(fingerprint(path)), **answer.to_json()}


def main() -> None:
    answers = {}
    for name, case in COMPARED.items():
        with tempfile.TemporaryDirectory() as folder:
            answers[name] = record(case, Path(folder))
    recorded = {"llama_cpp_python": version("llama-cpp-python"), "transformers": version("transformers"), "answers": answers}
    RECORDED.write_text(json.dumps(recorded, separators=(",", ":")) + "\n")
    print(f"{RECORDED}: {RECORDED.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
