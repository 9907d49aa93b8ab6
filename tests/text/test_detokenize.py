"""The stream-and-stop machine: any way of feeding it gives one answer, and that answer is the decoded one up to the stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_inputs import CORPUS, sentencepiece_metadata, train_sentencepiece

from linnet.text.detokenize import StreamDecoder
from linnet.text.tokenizer import Tokenizer


class Pieces:
    """A tokenizer whose ids index given bytes, to cut texts at will."""

    def __init__(self, pieces: Sequence[bytes], special: frozenset[int] = frozenset(), strip_first_space: bool = False) -> None:
        self.pieces = pieces
        self.special_ids = special
        self.strip_first_space = strip_first_space

    def token_bytes(self, id: int, first: bool) -> bytes:
        return self.pieces[id].removeprefix(b" ") if first and self.strip_first_space else self.pieces[id]


@st.composite
def cut_bytes(draw: st.DrawFn) -> tuple[list[bytes], list[list[int]]]:
    """A text (valid UTF-8 or not), cut into tokens at any byte, the tokens cut into pushes."""
    text = draw(
        st.one_of(st.text(alphabet="abé🦙 \n", max_size=30).map(str.encode), st.binary(max_size=30), st.text(max_size=20).map(str.encode))
    )
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    pushes: list[list[int]] = [[]]
    for id in range(len(pieces)):
        if draw(st.booleans()):
            pushes.append([])
        pushes[-1].append(id)
    return pieces, pushes


def stream(decoder: StreamDecoder, pushes: Sequence[Sequence[int]]) -> str:
    return "".join([decoder.push(ids) for ids in pushes]) + decoder.finish()


def first_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The rule by definition: the stop that is complete first, the longest of those; the text before it."""
    found = [(start + len(stop), -len(stop), stop) for stop in stops if (start := text.find(stop)) >= 0]
    if not found:
        return text, None
    end, _, stop = min(found)
    return text[: end - len(stop)], stop


@settings(max_examples=1000, deadline=None)
@given(cut=cut_bytes(), strip=st.booleans())
def test_any_chunking_concatenates_to_the_whole(cut: tuple[list[bytes], list[list[int]]], strip: bool) -> None:
    pieces, pushes = cut
    whole = b"".join(pieces)
    expected = (whole.removeprefix(b" ") if strip else whole).decode("utf-8", "replace")
    assert stream(StreamDecoder(Pieces(pieces, strip_first_space=strip)), pushes) == expected


@settings(max_examples=2000, deadline=None)
@given(cut=cut_bytes(), stops=st.lists(st.text(alphabet="abé🦙 \n\ufffd", min_size=1, max_size=5), min_size=1, max_size=4))
def test_stops_never_leak_and_end_alike_however_the_text_comes(cut: tuple[list[bytes], list[list[int]]], stops: list[str]) -> None:
    pieces, pushes = cut
    expected, stop = first_stop(b"".join(pieces).decode("utf-8", "replace"), stops)
    decoder = StreamDecoder(Pieces(pieces), stops)
    assert stream(decoder, pushes) == expected
    assert decoder.stopped == stop
    assert decoder.finish() == ""
    assert stop is None or decoder.push(range(len(pieces))) == "", "nothing comes after a stop"


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="ab", max_size=60), stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=12), min_size=1, max_size=5))
def test_what_is_held_back_is_the_least(text: str, stops: list[str]) -> None:
    """After every character, given out plus the longest start of a stop is all there is."""
    decoder = StreamDecoder(Pieces([c.encode() for c in text]), stops)
    given_out = ""
    for i in range(len(text)):
        given_out += decoder.push([i])
        if decoder.stopped is not None:
            break
        seen = text[: i + 1]
        held = max(n for stop in stops for n in range(len(stop)) if seen.endswith(stop[:n]))
        assert given_out == seen[: len(seen) - held]


def test_an_emoji_comes_whole_and_at_once() -> None:
    pieces = [bytes([byte]) for byte in "🦙é".encode()]
    decoder = StreamDecoder(Pieces(pieces))
    assert [decoder.push([i]) for i in range(6)] == ["", "", "", "🦙", "", "é"]


def test_a_character_that_never_ends_is_shown_at_the_end() -> None:
    decoder = StreamDecoder(Pieces(["🦙".encode()[:3]]))
    assert (decoder.push([0]), decoder.finish(), decoder.finish()) == ("", "\ufffd", "")


def test_a_replacement_character_at_the_end_can_complete_a_stop() -> None:
    decoder = StreamDecoder(Pieces([b"ab", "é".encode()[:1]]), ["b\ufffd"])
    assert (decoder.push([0, 1]), decoder.finish(), decoder.stopped) == ("a", "", "b\ufffd")


def test_a_stop_over_many_tokens_is_held_back_and_given_out_when_it_comes_to_nothing() -> None:
    pieces = [b"x", b"</", b"to", b"ol>", b"y"]
    decoder = StreamDecoder(Pieces(pieces), ["</tool>"])
    assert [decoder.push([i]) for i in (0, 1, 2, 4)] == ["x", "", "", "</toy"]
    assert [decoder.push([i]) for i in (1, 2, 3, 4)] == ["", "", "", ""]
    assert decoder.stopped == "</tool>"


def test_a_stop_does_not_count_within_the_least_number_of_tokens() -> None:
    pieces = [b"a.", b"b.", b"c", b".d"]
    decoder = StreamDecoder(Pieces(pieces), ["."], min_tokens=2)
    assert [decoder.push([i]) for i in range(4)] == ["a.", "b.", "c", ""]
    assert decoder.stopped == "."


def test_a_stop_that_begins_within_the_least_number_of_tokens_and_ends_after_it_counts() -> None:
    pieces = [b"ab ", b"a", b"b ", b"c"]
    decoder = StreamDecoder(Pieces(pieces), ["ab"], min_tokens=2)
    assert [decoder.push([i]) for i in range(4)] == ["ab ", "", "", ""]
    assert decoder.stopped == "ab"
    decoder = StreamDecoder(Pieces(pieces), ["ab", "aba"], min_tokens=3)
    assert ["".join(decoder.push([i]) for i in (1, 2, 3)), decoder.finish()] == ["ab c", ""]
    decoder = StreamDecoder(Pieces([b"a"]), ["aaa"], min_tokens=3)  # of stops that overlap, each is looked for
    assert [decoder.push([0]) for _ in range(4)] == ["", "", "a", ""]
    assert decoder.stopped == "aaa"


def test_special_tokens_are_shown_only_when_asked() -> None:
    tokenizer = Pieces([b"<s>", b" hi", b"</s>"], frozenset({0, 2}), strip_first_space=True)
    assert stream(StreamDecoder(tokenizer), [[0], [1], [2]]) == "hi"
    assert stream(StreamDecoder(tokenizer, skip_special=False), [[0], [1], [2]]) == "<s> hi</s>"


@pytest.fixture(scope="module")
def sentencepiece() -> Tokenizer:
    return Tokenizer.from_gguf_metadata(sentencepiece_metadata(train_sentencepiece()), "test")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_ids_stream_to_what_decode_gives(tiny_folder: Path, sentencepiece: Tokenizer, data: st.DataObject) -> None:
    tokenizer = data.draw(st.sampled_from([Tokenizer(tiny_folder), sentencepiece]))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=20))
    for skip in (True, False):
        decoder = StreamDecoder(tokenizer, skip_special=skip)
        assert stream(decoder, [[id] for id in ids]) == tokenizer.decode(ids, skip_special=skip)


def test_an_answer_streams_as_transformers_decodes_it(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    peer: Any = AutoTokenizer.from_pretrained(tiny_folder)
    ids = peer.encode(CORPUS[:600] + "🦙🏽 naïve 你好")
    assert stream(StreamDecoder(Tokenizer(tiny_folder)), [[id] for id in ids]) == peer.decode(ids)


def test_the_work_is_linear_and_does_not_grow_with_what_stops_hold() -> None:
    """Characters looked at, counted, not timed: the hardest stops there are, 64 of 1,024 characters, over 20,000 tokens."""
    stops = ["a" * 1000 + "b" * i + "c" for i in range(1, 24)] + [f"{i:02}" + "a" * 1022 for i in range(41)]
    pieces = [b"a"]
    decoder = StreamDecoder(Pieces(pieces), stops)
    text = "".join(decoder.push([0]) for _ in range(20_000))
    assert len(text) == 19_000, "at most the longest start of a stop is held back"
    assert text + decoder.finish() == "a" * 20_000
    assert decoder.stopped is None
