"""Schemas and grammars made to hurt: refused or failed by an error of ours, soon, while another stream goes on as if alone."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from linnet import LLM, InvalidRequestError, LinnetError, SamplingParams

pytest.importorskip("llguidance", reason="pip install '.[constraints]'")


def chain(length: int) -> dict[str, Any]:
    """A reference to a reference to a ..."""
    names = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**names, f"a{length}": {"type": "null"}}}


def nested(depth: int, key: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {key: [schema, {"type": "null"}]} if key == "anyOf" else {"type": "array", key: schema}
    return schema


def product(count: int) -> dict[str, Any]:
    either = [{"anyOf": [{"type": "object", "properties": {f"p{i}": {"const": j}}} for j in range(3)]} for i in range(count)]
    return {"allOf": either}


def patterns(count: int) -> dict[str, Any]:
    """Their intersection takes time that doubles with each."""
    return {"allOf": [{"type": "string", "pattern": f".*{chr(97 + i)}.{{{3 + i}}}"} for i in range(count)]}


def doubling(name: str, count: int) -> str:
    rules = "\n".join(f"{name}{i}: {name}{i + 1} {name}{i + 1} {name}{i + 1} {name}{i + 1}" for i in range(count))
    return f'start: {name}0\n{rules}\n{name}{count}: "x"'


REFUSED: dict[str, dict[str, Any]] = {
    "a chain of 20,000 references": {"json_schema": chain(20_000)},
    "a schema that is itself": {"json_schema": {"$ref": "#"}},
    "two that are each other": {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}},
    "a schema within itself": {"json_schema": {"allOf": [{"$ref": "#"}, {"type": "object"}]}},
    "deep arrays": {"json_schema": nested(400, "items")},
    "deep alternatives": {"json_schema": nested(300, "anyOf")},
    "a product of alternatives": {"json_schema": product(30)},
    "patterns that intersect": {"json_schema": patterns(20)},
    "ten thousand properties": {"json_schema": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(10_000)}}},
    "numbers that make the compiler panic": {"json_schema": {"const": -(2**63)}},
    "a long multiple": {"json_schema": {"type": "integer", "multipleOf": 999_999_937}},
    "impossible bounds": {"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}},
    "an impossible property": {"json_schema": {"type": "object", "properties": {"a": False}, "required": ["a"]}},
    "a property that cannot be": {"json_schema": {"type": "object", "required": ["a"], "additionalProperties": False}},
    "a file": {"json_schema": {"$ref": "file:///etc/passwd"}},
    "an address": {"json_schema": {"$ref": "http://127.0.0.1:1/schema.json"}},
    "no way to begin": {"regex": "[^\\s\\S]"},
    "a pattern of brackets": {"regex": "(" * 50_000 + "a" + ")" * 50_000},
    "an open bracket": {"regex": "("},
    "rules of brackets": {"grammar": "start: " + "(" * 100_000 + '"a"' + ")" * 100_000},
    "a rule that is itself": {"grammar": "start: start"},
    "terminals that double": {"grammar": doubling("A", 40)},
    "fifty thousand rules": {
        "grammar": "start: " + " | ".join(f'"{i}" x{i}' for i in range(20_000)) + "\n" + "\n".join(f'x{i}: "y"' for i in range(20_000))
    },
    "negations": {"grammar": "start: A\nA: ~(/.*a.{20}/) & ~(/.*b.{20}/) & /.*c.{30}/ & ~(/.*d.{17}/)"},
    "text of one letter": {"grammar": "start: %regex " + json.dumps({"substring_chars": "ab" * 200_000})},
}
BORNE: dict[str, dict[str, Any]] = {
    "a chain of 300 references": {"json_schema": chain(300)},
    "long texts": {"json_schema": {"type": "string", "minLength": 10**6, "maxLength": 10**9}},
    "long lists": {"json_schema": {"type": "array", "items": {"type": "integer"}, "minItems": 10**6, "maxItems": 10**9}},
    "an object that never ends": {"json_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}},
    "repeats of repeats": {"regex": "(((a{1,1000}){1,1000}){1,1000}){1,1000}"},
    "a huge repeat": {"regex": "a{1000000000}"},
    "states that double": {"regex": "(a|b)*a(a|b){2000}"},
    "counts within counts": {"regex": "(.{0,500}a.{0,500}){0,50}"},
    "rules that double": {"grammar": doubling("a", 40)},
    "an ambiguous rule": {"grammar": 'start: s\ns: s s s s s s | "a" | '},
    "ambiguous repeats": {"grammar": 'start: a*\na: b*\nb: c*\nc: "x"*'},
    "alternatives of one letter": {"grammar": 'start: s\ns: a b | b a | s s | "a" |\na: s b | b s | "a" |\nb: s a | a a s | "a" |'},
    "terminals within counts": {"grammar": "start: A0\n" + "\n".join(f'A{i}: (A{i + 1} | "b"){{1,100}}' for i in range(10)) + '\nA10: "x"'},
}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def neighbour(llm: LLM) -> list[int]:
    """The tokens of another request, alone."""
    return llm.generate("Once upon a time", NEIGHBOUR)[0].token_ids


NEIGHBOUR = SamplingParams(seed=3, max_tokens=24, ignore_eos=True)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once(llm: LLM, neighbour: list[int], name: str) -> None:
    stream = llm.stream("Once upon a time", NEIGHBOUR)
    tokens = [token for _ in range(4) for token in next(stream).token_ids]
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidRequestError) as caught:
        llm.submit("Hello", SamplingParams(max_tokens=20, **REFUSED[name]))
    assert next(iter(REFUSED[name])) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "0x" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 100 * 1024, "KiB: what it takes is taken from another process"
    assert tokens + [token for chunk in stream for token in chunk.token_ids] == neighbour


@pytest.mark.parametrize("name", BORNE)
def test_borne_or_failed_alone(llm: LLM, neighbour: list[int], name: str) -> None:
    stream = llm.stream("Once upon a time", NEIGHBOUR)
    tokens = next(stream).token_ids
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handle = llm.submit("Hello", SamplingParams(max_tokens=200, seed=1, **BORNE[name]))
    try:
        [completion] = handle.result()
        assert completion.finish_reason in ("stop", "length")
    except LinnetError as error:
        assert "could not be followed further" in str(error)  # noqa: PT017
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 200 * 1024, "KiB"
    assert tokens + [token for chunk in stream for token in chunk.token_ids] == neighbour
    assert llm.generate("Hello", SamplingParams(choice=["yes", "no"], temperature=0.0))[0].text in ("yes", "no")
