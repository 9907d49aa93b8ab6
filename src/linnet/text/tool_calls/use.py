"""`ToolUse`: the tools of one request, how the model is to use them, and how it writes that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linnet.errors import InvalidRequestError
from linnet.text.chat_template import choose
from linnet.text.tool_calls.forced import grammar_of_calls, opening_of
from linnet.text.tool_calls.formats import FORMATS, Format, format_of
from linnet.text.tool_calls.parser import ToolCallParser
from linnet.text.tool_calls.tools import Tool, ToolChoice, read_tool_choice, read_tools, strict_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from linnet.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ToolUse:
    """tools: as chat templates take them. grammar: of an answer that must be a call, or, with `after`, of what follows that token, which
    opens a call; None where neither is asked for. opening: what an answer that must be a call is begun with. shown: ids of the
    control tokens that calls are marked with. parallel: whether an answer may hold several calls; else the first ends it."""

    tools: list[dict[str, Any]]
    format: Format
    shown: frozenset[int]
    grammar: str | None = None
    opening: str = ""
    after: int | None = None
    parallel: bool = True

    @property
    def names(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.tools]

    def constraint(self, asked: tuple[str, Any] | None) -> tuple[str, Any] | None:
        """What constrains the answer. Raises InvalidRequestError where the request asked for something else: that is no call."""
        if asked is not None:
            raise InvalidRequestError(f"{asked[0]} constrains the answer, and a call of a tool would not follow it; leave one of them out")
        return None if self.grammar is None else ("tool_choice", self.grammar)

    def parser(self) -> ToolCallParser:
        """For one answer."""
        parser = ToolCallParser(self.format, self.names)
        parser.push(self.opening)
        return parser


def read_tool_use(
    given: Sequence[Tool] | None,
    choice: ToolChoice,
    tokenizer: Tokenizer,
    template: str | Mapping[str, str] | None,
    format: str = "auto",
    parallel: bool = True,
) -> ToolUse | None:
    """None where there are no tools, or none are to be called: the model is not told of them then.

    template: as in `Tokenizer.apply_chat_template`. format: the name of one of FORMATS, or "auto": the one of the template. Raises
    InvalidRequestError for tools and choices that are none, and where the template's format is not known.
    """
    tools = read_tools(given or ())
    read_choice = read_tool_choice(choice, [tool["function"]["name"] for tool in tools])
    if not tools or read_choice == "none":
        return None
    found = FORMATS.get(format)
    if found is None:
        source = choose(tokenizer.chat_templates, template, True, tokenizer.name)
        found = format_of(source, [format.opening for format in FORMATS.values() if tokenizer.token_to_id(format.opening) is not None])
    if found is None:
        raise InvalidRequestError(
            f"{tokenizer.name}: how this model writes tool calls is not known; where it writes them as one of {', '.join(FORMATS)} does, "
            "open it with tool_format="
        )
    if not isinstance(parallel, bool):
        raise InvalidRequestError(f"parallel_tool_calls is {parallel!r}; it must be True or False")
    forced = tools if read_choice == "required" else [tool for tool in tools if read_choice == f" {tool['function']['name']}"]
    ids = {tokenizer.token_to_id(marker) for marker in found.markers}
    shown = frozenset(id for id in ids if id is not None)
    if forced:
        return ToolUse(tools, found, shown, grammar_of_calls(found, forced), opening_of(found), parallel=parallel)
    strict = strict_names(given or ())
    if not strict:
        return ToolUse(tools, found, shown, parallel=parallel)
    after = tokenizer.token_to_id(found.opening)
    if after is None or found.bare:
        raise InvalidRequestError(
            f"tool {strict[0]}: strict needs a model whose calls begin with a token of their own, which this one's need not; "
            "leave strict out, or demand the call with tool_choice"
        )
    return ToolUse(tools, found, shown, grammar_of_calls(found, tools, strict), after=after, parallel=parallel)
