"""The page of a trace, parsed: it says what the steps say, needs nothing from outside, and no text of a model becomes markup."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest

from linnet.look.trace_page import LEVELS, entropy_scale, trace_page
from linnet.outputs import Candidate, TraceStep

HOSTILE = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onclick='alert(1)",
    "</style></section></div></body>",
    "<!-- -->",
    "]]>&lt;&amp;&#60;",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "😀👩\u200d🚀",
    "e\u0301",
    "سلام",
]
VOID = {"meta"}
KNOWN = set(
    "html head meta title style body header h1 dl div dt dd main h2 h3 span a section bdi table caption tr th td svg rect i".split()
)
KNOWN |= {"aside", "p", "kbd", "script"}
ATTRIBUTES = set("lang charset http-equiv content name class id href title dir aria-labelledby aria-label aria-hidden role scope".split())
ATTRIBUTES |= {"width", "height", "rx"}


class Page(HTMLParser):
    """The elements of a page, checked for balance; texts by the innermost class, or tag where there is none."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.seen: list[tuple[str, dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in KNOWN, tag
        assert {name for name, _ in attrs} <= ATTRIBUTES
        if tag in VOID:
            self.seen.append((tag, dict(attrs), ""))
            return
        self.open.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "rect":
            return
        opened, attributes = self.open.pop()
        assert opened == tag
        text = self.texts.pop()
        self.seen.append((tag, attributes, text))
        if self.texts and tag not in ("section", "script", "style"):
            self.texts[-1] += text

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "rect"
        self.seen.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data

    def all(self, tag: str, named: str | None = None) -> list[tuple[dict[str, str | None], str]]:
        return [(a, text) for seen, a, text in self.seen if seen == tag and (named is None or named in (a.get("class") or "").split())]


def step(position: int, texts: list[str], chosen: int = 0, entropy: float = 1.0, **more: object) -> TraceStep:
    """Candidates of halving probabilities, of which number `chosen` came."""
    candidates = [Candidate(100 + i, text, math.log(0.5 ** (i + 1))) for i, text in enumerate(texts)]
    return TraceStep(position, candidates[chosen], candidates, entropy, texts[chosen], **more)  # type: ignore[arg-type]


def test_every_step_has_its_token_and_its_card() -> None:
    steps = [step(2, ["Once", "The"], entropy=0.0), step(3, [" upon", " a", " I"], chosen=2, entropy=2.4)]
    page = Page(trace_page("tiny", [(1, "<s>"), (7, "Hi")], steps, [("seed", "7")]))
    assert [(a["id"], a["href"], text) for a, text in page.all("a")] == [("t2", "#t2", "Once"), ("t3", "#t3", " I")]
    assert [a["class"] for a, _ in page.all("a")] == ["token h0", f"token h{round(2.4 / 3 * LEVELS)}"]
    assert [text for a, text in page.all("span", "token") if "title" in a] == ["<s>", "Hi"]
    assert [text for _, text in page.all("div", "answer")] == ["Once I"]
    rows = [" ".join(text.split()) for _, text in page.all("tr")]
    assert rows == [
        "Once chosen 50.0%", "The 25.0%", "all others 25.0%",
        "␣upon 50.0%", "␣a 25.0%", "␣I chosen 12.5%", "all others 12.5%",
    ]  # fmt: skip
    assert [a["width"] for a, _ in page.all("rect")] == ["50.00%", "25.00%", "25.00%", "50.00%", "25.00%", "12.50%", "12.50%"]
    assert "seed7" in page.all("header")[0][1].replace("\n", "")


def test_a_chosen_token_that_is_no_candidate_has_a_row_of_its_own() -> None:
    rare = TraceStep(1, Candidate(9, "rare", math.log(0.01)), [Candidate(1, "usual", math.log(0.9))], 0.5, "rare")
    page = Page(trace_page("tiny", [(0, "x")], [rare], []))
    assert [" ".join(text.split()) for _, text in page.all("tr")] == ["usual 90.0%", "rare chosen 1.00%", "all others 9.00%"]
    never = TraceStep(1, Candidate(9, "never", -math.inf), [], 0.0, "never")
    assert [" ".join(text.split()) for _, text in Page(trace_page("m", [], [never], [])).all("tr")] == ["never chosen 0.00%"]


def test_prompt_tokens_that_were_asked_about_have_cards() -> None:
    given = step(1, ["b", "c"], in_prompt=True)
    page = Page(trace_page("tiny", [(0, "a"), (100, "b")], [given, step(2, ["d"])], []))
    assert [text for _, text in page.all("div", "prompt")] == ["ab"]
    assert [text for _, text in page.all("div", "answer")] == ["d"]
    assert "given" in page.all("tr")[0][1]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text: str) -> None:
    plain = Page(trace_page("m", [(1, "p")], [step(1, ["x", "y"], chosen=1)], [("fact", "f")]))
    page = Page(trace_page(text, [(1, text)], [step(1, [text, text], chosen=1)], [(text, text)]))
    assert [tag for tag, _, _ in page.seen if tag != "i"] == [tag for tag, _, _ in plain.seen if tag != "i"]
    assert [found for _, found in page.all("a")] == [text]
    assert [found for _, found in page.all("h1")] == [text]
    assert page.all("title")[0][1] == f"A trace of {text}"
    assert page.all("script") == plain.all("script")
    assert [a["href"] for a, _ in page.all("a")] == ["#t1"]


def test_what_cannot_be_seen_is_shown_by_signs() -> None:
    page = Page(trace_page("m", [], [step(0, ["a\n\tb\x00\x1b[31m\x7f\x85\u202e\u2028", "\n "])], []))
    assert page.all("a")[0][1] == "a↵\n⇥b␀␛[31m␡U+0085U+202EU+2028"
    assert page.all("bdi")[0][1].startswith("a↵⇥b␀")
    assert page.all("bdi")[2][1] == "↵␣"
    source = trace_page("m", [], [step(0, [chr(code) for code in range(256)])], [])
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", source)


def test_a_character_in_pieces_is_whole_with_its_last_token() -> None:
    first = TraceStep(1, Candidate(1, "\ufffd", -0.1), [], 0.1, "")
    last = TraceStep(2, Candidate(2, "\ufffd\ufffd", -0.1), [], 0.1, "😀")
    page = Page(trace_page("m", [(5, "")], [first, last], []))
    assert [text for _, text in page.all("a")] == ["\ufffd", "😀"]
    assert page.all("span", "token")[0][1] == "[5]"


def test_the_page_is_self_contained_and_lets_nothing_else_run() -> None:
    source = trace_page("m", [(1, "p")], [step(1, ["x", "y"])], [])
    page = Page(source)
    policy = next(a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    digests = ["sha256-" + base64.b64encode(hashlib.sha256(page.all(tag)[0][1].encode()).digest()).decode() for tag in ("style", "script")]
    assert policy == f"default-src 'none'; style-src '{digests[0]}'; script-src '{digests[1]}'"
    assert "prefers-color-scheme: dark" in page.all("style")[0][1]
    assert not re.search(r"https?:|@import|url\(|src=|innerHTML|eval", source)


def test_the_deepest_shade_is_the_next_whole_bit() -> None:
    assert [entropy_scale(found) for found in ([], [0.0], [0.3], [1.0], [1.01, 0.2], [8.2])] == [1, 1, 1, 1, 2, 9]
