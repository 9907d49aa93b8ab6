"""Every architecture that GGUF and llama.cpp know, beside llama.cpp itself: files written from random models give the same logits
and greedy tokens on every op set.

Run by `make test-peers`; needs llama-cpp-python.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from family_answers import CONTEXT, ask_family, check, our_answer
from family_cases import BLOCKS, CASES, COMPARED, LEFT_OUT, NOT_IN_LLAMA_CPP, OTHERWISE_IN_LLAMA_CPP, WITH_GELU
from harness import OP_SETS, Session, difference, load
from peer import LlamaCpp

from linnet.arch.registry import GGUF_FAMILIES

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install '.[peers]'")
pytestmark = pytest.mark.peers


def test_every_architecture_is_compared_and_what_is_left_out_exists() -> None:
    assert {case.architecture for case in COMPARED.values()} == set(GGUF_FAMILIES)
    assert LEFT_OUT.keys() <= CASES.keys()


@pytest.mark.parametrize("name", COMPARED)
def test_logits_and_greedy_tokens(name: str, tmp_path: Path) -> None:
    case = COMPARED[name]
    path = case.write(tmp_path)
    expected = ask_family(path, case.allowed)
    for op_set in OP_SETS:
        check(path, op_set, expected, case.allowed)


@pytest.mark.parametrize("name", NOT_IN_LLAMA_CPP)
def test_what_llama_cpp_does_not_load(name: str, tmp_path: Path) -> None:
    path = CASES[name].write(tmp_path)
    with pytest.raises(RuntimeError, match=r"llama\.cpp does not load"):
        LlamaCpp(path, threads=1, context=CONTEXT)


@pytest.mark.parametrize("name", OTHERWISE_IN_LLAMA_CPP)
def test_what_llama_cpp_computes_otherwise(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = case.write(tmp_path)
    expected = ask_family(path, case.allowed)
    _, logits = our_answer(path, "reference", expected)
    assert difference(logits, expected.logits) > 100 * case.allowed


@pytest.mark.parametrize("type_name", ["q8_0", "q4_0", "q4_k", "q6_k"])
@pytest.mark.parametrize("family", BLOCKS)
def test_quantized_matrices(family: str, type_name: str, tmp_path: Path) -> None:
    """Sequences of one token, for every token. Where no activation lies on the edge between two integers, which is nearly
    everywhere, both sides round alike, and agree to float32 rounding; but where llama.cpp's GELU is between."""
    path = BLOCKS[family].write(tmp_path, type_name)
    model = load(path, OP_SETS["native"](1))
    tokens = range(model.spec.vocab_size)
    ours = Session(model, [1] * len(tokens)).feed({token: [token] for token in tokens})
    peer = LlamaCpp(path, threads=1, context=CONTEXT, flash=False, exact=True)
    errors = np.array([difference(ours[token], peer.logits([token])) for token in tokens])
    peer.close()
    if BLOCKS[family].architecture not in WITH_GELU:
        assert (errors < 1e-5).mean() > 0.8
    assert np.median(errors) < 0.03
