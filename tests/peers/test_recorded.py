"""Linnet beside what llama.cpp answered, as record_llama_cpp.py wrote it down: the same files, tokens and logits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comparison import LARGEST_DIVERGENCE, TOKENS, WITHOUT_KERNELS_FILE, Case, divergence
from tiny_gguf import KINDS, tensor_digest, write_tiny

from linnet import LLM, SamplingParams
from linnet.tensors import TYPES

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded.json").read_text())["files"]
CASES = {kind: [Case.from_json(fields) for fields in recorded["cases"]] for kind, recorded in RECORDED.items()}


@pytest.fixture(scope="module", params=[*KINDS, WITHOUT_KERNELS_FILE.stem])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if kind not in KINDS:
        return WITHOUT_KERNELS_FILE
    path = tmp_path_factory.mktemp("gguf") / f"{kind}.gguf"
    write_tiny(path, kind)
    return path


@pytest.fixture(scope="module")
def llm(file: Path) -> Iterator[LLM]:
    with LLM(str(file), ops="native") as llm:
        yield llm


def test_every_type_with_kernels_is_here() -> None:
    assert set(KINDS) == set(TYPES)


def test_file_is_the_recorded_one(kind: str, file: Path) -> None:
    assert tensor_digest(file) == RECORDED[kind]["digest"], "run record_llama_cpp.py again: the model or its conversion has changed"


def test_prompts_tokenize_alike(kind: str, llm: LLM) -> None:
    assert llm.tokenizer is not None
    for case in CASES[kind]:
        assert llm.tokenizer.encode(case.prompt, special=True) == case.token_ids


def test_greedy_tokens(kind: str, llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    for case in CASES[kind]:
        (answer,) = llm.generate([case.token_ids], params)
        assert list(answer.token_ids)[: case.certain] == case.greedy[: case.certain], case.prompt


def test_some_answers_are_certain_to_their_end(kind: str) -> None:
    assert [case.certain for case in CASES[kind]].count(TOKENS) >= 2


def test_logits(kind: str, llm: LLM) -> None:
    for case in CASES[kind]:
        actual = llm.logits(case.token_ids + case.greedy)[case.positions]
        assert divergence(case.logits, actual) < LARGEST_DIVERGENCE, case.prompt
