"""Grammars over vocabularies of every kind: what their tokens spell, by the tokenizer's own decoder, is what the grammar allows."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_every_kind import QWEN, tiktoken_pair
from test_tokenizer_json import llama_style
from text_inputs import save_folder, sentencepiece_metadata, train_sentencepiece
from vocabularies import bert_metadata, unigram, word_level, word_piece

from linnet.errors import InvalidRequestError, LinnetError
from linnet.text.grammar import Grammar, GrammarCompiler
from linnet.text.tokenizer import Tokenizer

pytest.importorskip("llguidance", reason="pip install '.[constraints]'")


def sentencepiece_file(folder: Path, **options: Any) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(**options).serialized_model_proto())
    return Tokenizer(folder / "tokenizer.model")


WORDS = r"(lazy|dog|fox| |isn't|the ){1,6}"
TEXT = r" ?[a-z]{2,9}( [a-z]{1,5}){1,3}, 日?é? \{\"[a-z]{1,5}\": [0-9]{1,3}\}"
KINDS: dict[str, tuple[Callable[[Path, Any], Tokenizer], str]] = {
    "json byte-level": (lambda folder, byte_level: Tokenizer(save_folder(folder, byte_level)), TEXT),
    "json llama": (lambda folder, _: Tokenizer(save_folder(folder, llama_style(), bos_token="<s>", unk_token="<unk>")), TEXT),
    "json unigram": (lambda folder, _: Tokenizer(save_folder(folder, unigram(), eos_token="</s>", unk_token="<unk>")), WORDS),
    "json word pieces": (lambda folder, _: Tokenizer(save_folder(folder, word_piece(), unk_token="[UNK]")), r"(lazy|dog|fox| |the){1,6}"),
    "json words": (lambda folder, _: Tokenizer(save_folder(folder, word_level(), unk_token="[UNK]")), r"(lazy|dog|fox| |the){1,6}"),
    "model bpe": (lambda folder, _: sentencepiece_file(folder), TEXT),
    "model unigram with bytes": (lambda folder, _: sentencepiece_file(folder, model_type="unigram", vocab_size=360), TEXT),
    "gguf sentencepiece": (lambda _, __: Tokenizer.from_gguf_metadata(sentencepiece_metadata(train_sentencepiece()), "x.gguf"), TEXT),
    "gguf word pieces": (lambda _, __: Tokenizer.from_gguf_metadata(bert_metadata(), "x.gguf"), r"(lazy|dog|fox| |the){1,6}"),
    "tiktoken": (lambda folder, _: tiktoken_pair(folder, "qwen2", 151643, QWEN, composed=True).ours, TEXT),
}


def spelled(grammar: Grammar, rows: int, seed: int, most: int = 200) -> tuple[list[int], Grammar]:
    """Tokens at random, of those that are allowed, to an end that is; and where that leaves the grammar."""
    draw, state, tokens = random.Random(seed), grammar.fork(), list[int]()
    while not state.finished and len(tokens) < most:
        allowed = np.flatnonzero(np.unpackbits(state.allowed().view(np.uint8), bitorder="little")).tolist()
        assert not allowed or max(allowed) < rows
        if state.satisfied and (not allowed or draw.random() < 0.3):
            break
        tokens.append(draw.choice(allowed))
        state.advance(tokens[-1])
    return tokens, state


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_vocabulary_spells_what_is_allowed(kind: str, tmp_path: Path, byte_level: Any) -> None:
    make, pattern = KINDS[kind]
    tokenizer = make(tmp_path, byte_level)
    rows = tokenizer.vocab_size + 37
    grammar = GrammarCompiler(tokenizer, rows).compile("regex", pattern)
    texts = set()
    for seed in range(40):
        try:
            tokens, state = spelled(grammar, rows, seed)
        except LinnetError as error:  # half a word that no piece of the vocabulary ends
            assert pattern != TEXT, error  # noqa: PT017
            continue
        assert state.satisfied
        assert tokenizer.control_ids.isdisjoint(tokens)
        texts.add(tokenizer.decode(tokens))
        assert re.fullmatch(pattern, tokenizer.decode(tokens)), (tokens, tokenizer.decode(tokens))
    assert len(texts) > 10


@pytest.mark.parametrize("kind", [kind for kind, (_, pattern) in KINDS.items() if pattern == TEXT])
def test_the_first_space_of_a_text_is_where_the_decoder_has_it(kind: str, tmp_path: Path, byte_level: Any) -> None:
    tokenizer = KINDS[kind][0](tmp_path, byte_level)
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    firsts = set()
    for pattern in ("[a-z]{2}", " [a-z]{2}", "  [a-z]{2}"):
        grammar = compiler.compile("regex", pattern)
        for seed in range(60):
            tokens, state = spelled(grammar, tokenizer.vocab_size, seed)
            assert state.finished
            assert re.fullmatch(pattern, tokenizer.decode(tokens)), tokens
            firsts.add(tokenizer.token_bytes(tokens[0], first=True) == b"")
    silent = {tokenizer.token_bytes(id, first=True) == b"" != tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)}
    assert firsts == silent, "a token that is a space alone, which is not shown at the start, may come there too"


def test_each_answer_has_its_own_state(tmp_path: Path, byte_level: Any) -> None:
    tokenizer = Tokenizer(save_folder(tmp_path, byte_level))
    grammar = GrammarCompiler(tokenizer, tokenizer.vocab_size).compile("regex", "(ab){3}|b{4}")
    a, b = (tokenizer.encode(text)[0] for text in "ab")
    first, second = grammar.fork(), grammar.fork()
    first.advance(a)
    second.advance(b)
    third = second.fork()
    third.advance(b)
    states = (grammar, first, second, third)
    allowed = [{id for id in (a, b) if state.allowed()[id // 32] >> np.uint32(id % 32) & 1} for state in states]
    assert allowed == [{a, b}, {b}, {b}, {b}]
    assert not any(state.satisfied or state.finished for state in states)
    for _ in range(2):
        third.advance(b)
    assert (third.satisfied, third.finished, third.allowed().any()) == (True, True, False)


def test_what_is_not_allowed_cannot_be_taken(tmp_path: Path, byte_level: Any) -> None:
    tokenizer = Tokenizer(save_folder(tmp_path, byte_level))
    state = GrammarCompiler(tokenizer, tokenizer.vocab_size).compile("regex", "a+").fork()
    with pytest.raises(LinnetError, match="regex could not be followed further"):
        state.advance(tokenizer.encode("b")[0])
    for _ in range(2):
        with pytest.raises(LinnetError, match="regex could not be followed further"):
            state.allowed()


def test_a_vocabulary_that_cannot_spell_it_is_said_at_once(tmp_path: Path) -> None:
    tokenizer = Tokenizer(save_folder(tmp_path, word_level(), unk_token="[UNK]"))
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    for pattern in ("日本", "[^\\x00-\\U0010FFFF]"):
        with pytest.raises(InvalidRequestError, match="no text of this model's vocabulary can satisfy it"):
            compiler.compile("regex", pattern)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("start: <|end|>", "names the token <|end|>"),
        ("start: <[5]>", "names the token <[5]>"),
        ("start: <[*]>", "names the token <[*]>"),
        ('start: "a" /b"/ <[^5]> // "', "names the token <[^5]>"),
        ('start: A\nA: "<[5]>" # <\n  | /</ "x" // <[5]>', None),
        ("start: a\na[stop=/x/]: /y/", "attribute stop"),
        ("start: a\na[max_tokens=3]: /y/", "attribute max_tokens"),
        ("start: a\na[temperature=0.5]: /y/", "attribute temperature"),
        ('start: "stop=" NAME\nNAME: %regex {"substring_words": "max_tokens = 3"}', None),
        ('start: %json {"enum": ["<[5]>"]}', None),
        ('start: %json {"not": {}}', "Unimplemented keys"),
        ("a: /b/", "no start rule"),
        ("start: b", 'unknown name: "b"'),
        ('start: "b', "1(10): lexer error"),
        ("start: @other", "unknown grammar @other"),
        ("", "no start rule"),
        ("\x00", "1(1)"),
    ],
)
def test_lark_grammars_that_are_refused(grammar: str, message: str | None, tmp_path: Path, byte_level: Any) -> None:
    tokenizer = Tokenizer(save_folder(tmp_path, byte_level))
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    if message is None:
        compiler.compile("grammar", grammar)
        return
    with pytest.raises(InvalidRequestError, match=re.escape(message)) as caught:
        compiler.compile("grammar", grammar)
    assert len(str(caught.value)) < 600


def test_control_tokens_are_out_of_reach_of_what_gets_past_the_check(tmp_path: Path, byte_level: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("linnet.text.grammar_source._TOKEN", re.compile("(?!)"))
    tokenizer = Tokenizer(save_folder(tmp_path, byte_level))
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    [end] = tokenizer.eos_ids or {tokenizer.token_to_id("<|end|>")}
    grammar = compiler.compile("grammar", "start: <[*]> <[*]>")
    allowed = np.flatnonzero(np.unpackbits(grammar.allowed().view(np.uint8), bitorder="little"))
    assert tokenizer.control_ids.isdisjoint(allowed.tolist())
    with pytest.raises(InvalidRequestError, match="no text of this model's vocabulary"):
        compiler.compile("grammar", f"start: <[{end}]>")


def test_without_llguidance_the_error_is_the_command_that_installs_it() -> None:
    program = (
        "import sys\n"
        "sys.modules['llguidance'] = None\n"
        "from linnet import LLM, MissingDependencyError, SamplingParams\n"
        "with LLM('tiny') as llm:\n"
        "    try:\n"
        "        llm.generate('x', SamplingParams(regex='a'))\n"
        "    except MissingDependencyError as error:\n"
        "        print(error)\n"
        "    print(len(llm.generate('x', SamplingParams(max_tokens=3, ignore_eos=True))[0].token_ids))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "regex needs llguidance: pip install 'linnet[constraints]'\n3\n", done.stderr
