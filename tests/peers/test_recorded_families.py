"""Every architecture beside what llama.cpp answered, as record_families.py wrote it down: the same random models, written as GGUF
files on the spot, give the same logits and greedy tokens on every op set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comparison import TOKENS
from family_answers import FamilyAnswer, Fingerprint, check, fingerprint, prompt_tokens
from family_cases import CASES, COMPARED, NOT_IN_GGUF, NOT_IN_LLAMA_CPP, OTHERWISE_IN_LLAMA_CPP
from gguf_export import NotInGgufError
from harness import OP_SETS, difference, load, logits_of

from linnet.arch.registry import GGUF_FAMILIES
from models import oracle

RECORDED = json.loads(Path(__file__).with_name("recorded_families.json").read_text())["answers"]
# What llama.cpp was asked about it must be: a table that is wrong in both directions writes and reads without a trace.
AGAIN = "run record_families.py again"


def test_every_architecture_is_recorded() -> None:
    assert RECORDED.keys() == COMPARED.keys(), AGAIN
    assert {COMPARED[name].architecture for name in RECORDED} == set(GGUF_FAMILIES)


@pytest.mark.parametrize("name", RECORDED)
def test_logits_and_greedy_tokens(name: str, tmp_path: Path) -> None:
    case = COMPARED[name]
    path = case.write(tmp_path)
    recorded = Fingerprint(**RECORDED[name]["file"])
    assert recorded.fits(fingerprint(path)), f"not the file that llama.cpp was asked about: {AGAIN}"
    for op_set in OP_SETS:
        check(path, op_set, FamilyAnswer.from_json(RECORDED[name]), case.allowed)


def test_most_answers_are_certain_to_their_end() -> None:
    """All but those of models whose many layers amplify the rounding of llama.cpp's GELU."""
    assert sum(fields["certain"] == TOKENS for fields in RECORDED.values()) >= len(RECORDED) - 2


@pytest.mark.parametrize("name", NOT_IN_GGUF)
def test_what_gguf_cannot_say(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotInGgufError):
        CASES[name].write(tmp_path)


@pytest.mark.parametrize("name", [*NOT_IN_LLAMA_CPP, *OTHERWISE_IN_LLAMA_CPP])
def test_what_llama_cpp_is_no_judge_of(name: str, tmp_path: Path) -> None:
    """transformers is, of the files that llama.cpp does not load or computes otherwise."""
    path, tokens = CASES[name].write(tmp_path), prompt_tokens(0)
    theirs = oracle(CASES[name].draw.model(), tokens)
    for op_set in OP_SETS:
        assert difference(logits_of(load(path, OP_SETS[op_set](1)), tokens), theirs) < 1e-4
