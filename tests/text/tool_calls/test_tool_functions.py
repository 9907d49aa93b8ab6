"""Python functions as tools: what transformers makes of them, and errors for what has no schema."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Literal, Optional, Union

import pytest

from linnet import InvalidRequestError
from linnet.text.tool_calls.functions import tool_of
from linnet.text.tool_calls.tools import read_tool_choice, read_tools


class Unit(enum.Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


def get_weather(city: str, unit: Unit = Unit.CELSIUS, days: int | None = None) -> dict[str, float]:
    """Tells the weather.

    Takes it from a station.

    Args:
        city: Where,
            on a map.
        unit: Of temperatures.
        days: How many.

    Returns:
        Temperatures by hour.
    """
    return {}


def drink(kind: str, hot: bool, sizes: list[int], pair: tuple[int, str], extra: dict[str, list[float]], anything: Any):
    """Makes a drink
    Args:
        kind: Of drink (choices: ["tea", "coffee "])
        hot: Whether hot: or cold
        sizes: In ml
        pair: Two things

        extra: More
        anything: At all
    Raises:
        ValueError: never
    """


def unions(
    a: Union[int, str],  # noqa: UP007
    b: Optional[list[str]],  # noqa: UP045
    c: int | list[int] | None,
    d: Literal["x", 2, None],
    e: list,
    f: bool | bool,
) -> str:
    """Unions.

    Args:
        a: one
        b: two
        c: three
        d: four
        e: five
        f: six
    """
    return ""


def no_arguments() -> None:
    """Does it."""


class Holder:
    def method(self, x: int = 3) -> object:
        """Counts.

        Args:
            x: how far
        """
        return x


@pytest.mark.parametrize("function", [get_weather, drink, unions, no_arguments, Holder().method, Holder.method])
def test_schemas_are_those_of_transformers(function: Callable[..., Any]) -> None:
    utils = pytest.importorskip("transformers.utils")
    assert tool_of(function) == utils.get_json_schema(function)


def test_types_in_the_docstring_are_no_part_of_the_name() -> None:
    def f(x: int) -> None:
        """F.

        Args:
            x (int): one
        """

    assert tool_of(f)["function"]["parameters"]["properties"] == {"x": {"type": "integer", "description": "one"}}


def documented(args: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__doc__ = f"F.\n\nArgs:\n{args}"
        return function

    return decorate


def bad_tools() -> list[tuple[Any, str]]:
    def undocumented(x: int) -> None: ...

    @documented("    x: one")
    def unhinted(x):  # type: ignore[no-untyped-def]
        ...

    @documented("    y: one")
    def undescribed(x: int) -> None: ...

    @documented("    x: one")
    def custom(x: Holder) -> None: ...

    @documented("    x: one")
    def pair(x: tuple[int]) -> None: ...

    @documented("    x: one (choices: [a])")
    def chosen(x: str) -> None: ...

    @documented("    x: one")
    def several(*x: int) -> None: ...

    @documented("    x: one")
    def forward(x: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    return [
        (undocumented, "undocumented: it has no docstring"),
        (unhinted, "parameter 'x' has no type hint"),
        (undescribed, "parameter 'x' is not described under Args:"),
        (custom, "parameter 'x' is a Holder, which has no JSON schema"),
        (pair, "which has no JSON schema"),
        (chosen, "the choices of 'x' are no JSON list"),
        (several, "parameter 'x' has no name that a call could give"),
        (forward, "type hints cannot be read"),
        (lambda x: x, "needs a name of letters"),
        (Holder, "it is no function but a type"),
        (getattr, "its parameters cannot be read"),
    ]


@pytest.mark.parametrize(("tool", "says"), bad_tools())
def test_what_has_no_schema_is_refused(tool: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        read_tools([tool])


FUNCTION = {"name": "f", "description": "F.", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ({"type": "function", "function": FUNCTION}, "must be a list"),
        ("f", "must be a list"),
        ([FUNCTION], r"tools\[0\] must be a function, or"),
        ([5], r"tools\[0\] must be a function, or"),
        ([{"type": "web_search", "function": FUNCTION}], "only type 'function'"),
        ([{"type": "function", "function": FUNCTION, "more": 1}], "only type 'function'"),
        ([{"type": "function", "function": {**FUNCTION, "cache": 1}}], "a function has no 'cache'"),
        ([{"type": "function", "function": {**FUNCTION, "name": "a b"}}], "the name must be 1 to 128 letters"),
        ([{"type": "function", "function": {"description": "x"}}], "the name must be"),
        ([{"type": "function", "function": {**FUNCTION, "description": 5}}], "the description must be a text"),
        ([{"type": "function", "function": {**FUNCTION, "parameters": []}}] * 2, "two tools called 'f'"),
        ([{"type": "function", "function": {**FUNCTION, "parameters": [1]}}], "parameters must be a JSON schema of type 'object'"),
        ([{"type": "function", "function": {**FUNCTION, "parameters": {"type": "string"}}}], "of type 'object'"),
        ([{"type": "function", "function": {**FUNCTION, "parameters": {"properties": []}}}], "properties of its parameters"),
        ([{"type": "function", "function": FUNCTION}] * 129, "there are 129 tools; the most is 128"),
    ],
)
def test_tools_that_are_none_are_refused(tools: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        read_tools(tools)


def test_what_a_tool_leaves_out_is_filled_in() -> None:
    before = {"type": "function", "function": {"name": "f", "strict": True}}
    [tool] = read_tools([before])
    assert tool["function"] == {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}
    assert before == {"type": "function", "function": {"name": "f", "strict": True}}, "the caller's own is not changed"


def test_tool_choice() -> None:
    named = {"type": "function", "function": {"name": "f"}}
    found = [read_tool_choice(choice, ["f"]) for choice in ("auto", "none", "required", "f", named)]
    assert found == ["auto", "none", "required", " f", " f"]
    for choice in ("g", {"type": "function"}, {"type": "function", "function": {"name": "g"}}, 5, None, {"type": "custom", "name": "f"}):
        with pytest.raises(InvalidRequestError, match=r"must be 'auto', 'none', 'required', or name one of f"):
            read_tool_choice(choice, ["f"])  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="there are no tools"):
        read_tool_choice("required", [])
