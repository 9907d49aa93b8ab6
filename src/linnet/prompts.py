"""From a prompt in any form that callers may use (text, token ids, messages) to token ids, by the model's tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from linnet.errors import InvalidRequestError, MissingDependencyError, ModelFileError, shortened

if TYPE_CHECKING:
    from linnet.load.checkpoint import Checkpoint
    from linnet.text.tokenizer import Tokenizer
    from linnet.text.tool_calls.tools import Tool, ToolChoice
    from linnet.text.tool_calls.use import ToolUse

logger = logging.getLogger("linnet.llm")

Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[int] | Sequence[Message]
"""A text, a list (tuple, array) of token ids, or a list of messages {"role": ..., "content": ...}."""

_KINDS = "a text, a list of token ids, or a list of messages {'role': ..., 'content': ...}"


class PromptReader:
    """Turns prompts into token ids.

    chat_template: a template's source or name, or several templates by name, in place of the model's own. tool_format: how the model
    writes tool calls, the name of one of `FORMATS`, or "auto". whole: whether the model is an encoder-decoder, whose encoder reads the
    whole text; a decoder continues the text instead."""

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer | None,
        chat_template: str | Mapping[str, str] | None,
        tool_format: str = "auto",
        whole: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.tool_format = tool_format
        self.whole = whole

    def read_all(self, prompts: Any, closed: bool = False) -> list[list[int]]:
        """Token ids of one prompt, or of each of a list of prompts. closed: the texts are complete, and will not be continued. Raises
        InvalidRequestError that names the wrong prompt."""
        prompts = _plain(prompts)
        if isinstance(prompts, str) or not isinstance(prompts, list):
            return [self.read(prompts, closed=closed)]
        if not prompts:
            raise InvalidRequestError("the list of prompts is empty; give at least one prompt")
        if _all_are(prompts, Integral) or _all_are(prompts, Mapping):
            return [self.read(prompts)]
        return [self.read(prompt, f"prompts[{i}]", closed) for i, prompt in enumerate(prompts)]

    def continues(self, prompt: Any, asked: bool | None = None) -> bool:
        """Whether an answer continues this prompt, rather than beginning a text of its own. asked: what the caller wants; None: yes, for a
        text that is not empty. With an encoder-decoder the answer is always a text of its own."""
        return (isinstance(prompt, str) and prompt != "" if asked is None else asked) and not self.whole

    def each_continues(self, prompts: Any) -> list[bool]:
        """`continues` for each of the prompts that `read_all` takes. (A single prompt of token ids or messages gives a value per item, all
        of them False.)"""
        prompts = _plain(prompts)
        return [self.continues(prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts)]

    def read(self, prompt: Any, where: str = "the prompt", closed: bool = False) -> list[int]:
        """Token ids of one prompt. A text gets the beginning token in front, if the model's texts have one; and if `closed`, the tokens
        that end them."""
        prompt = _plain(prompt)
        if isinstance(prompt, str):
            tokenizer = self.needed("a text")
            encode = tokenizer.encode_whole if self.whole else tokenizer.encode_closed if closed else tokenizer.encode
            return encode(prompt)
        if isinstance(prompt, list) and _all_are(prompt, Integral):
            return [int(token) for token in prompt]
        if isinstance(prompt, list) and _all_are(prompt, Mapping):
            return self.read_messages(prompt)
        raise InvalidRequestError(f"{where} is {shortened(prompt)}; it must be {_KINDS}")

    def read_messages(self, messages: Sequence[Message], tool_use: ToolUse | None = None) -> list[int]:
        """Token ids of a conversation, up to where the answer starts. Raises ChatTemplateError if there is no template, or it has no place
        for the tools, their calls or their results."""
        from linnet.text.tool_calls.history import with_calls_read

        tokenizer, tools = self.needed("messages"), None if tool_use is None else tool_use.tools
        return tokenizer.apply_chat_template(with_calls_read(messages), tools=tools, chat_template=self.chat_template)

    def read_with_tools(
        self, prompt: Any, tools: Sequence[Tool] | None, choice: ToolChoice, parallel: bool
    ) -> tuple[list[int], ToolUse | None]:
        """As `read` without tools, when any prompt will do; with tools as `read_chat`, when it must be messages."""
        if tools is None and choice in ("auto", "none"):
            return self.read(prompt), None
        return self.read_chat(prompt, tools, choice, parallel)

    def read_chat(
        self, messages: Any, tools: Sequence[Tool] | None, choice: ToolChoice, parallel: bool
    ) -> tuple[list[int], ToolUse | None]:
        """Token ids of a conversation, and its tools; None if there are none to be called."""
        if not tools and choice in ("auto", "none"):
            return self.read_messages(messages), None
        from linnet.text.tool_calls.use import read_tool_use

        if isinstance(messages, str) or not isinstance(messages, Sequence) or not _all_are(list(messages), Mapping):
            raise InvalidRequestError(f"tools go with messages, as a chat template tells of them, and the prompt is {shortened(messages)}")
        tool_use = read_tool_use(tools, choice, self.needed("tools"), self.chat_template, self.tool_format, parallel)
        ids = self.read_messages(messages, tool_use)
        if tool_use is not None and tool_use.opening:
            ids += self.needed("tools").encode(tool_use.opening, bos=False, special=True)
        return ids, tool_use

    def needed(self, what: str) -> Tokenizer:
        """The tokenizer. Raises InvalidRequestError, which says that `what` needs one, if the model has none."""
        if self.tokenizer is None:
            model = self.model.rpartition("/")[2]  # a client need not learn where the model lies
            raise InvalidRequestError(f"{model} has no tokenizer, which {what} needs; pass tokenizer=, or use token ids")
        return self.tokenizer


def read_tokenizer(checkpoint: Checkpoint, given: Tokenizer | str | Path | None = None) -> Tokenizer | None:
    """The tokenizer that was given (a Tokenizer or a path), else the model's own; None if the model has none."""
    from linnet.text.tokenizer import Tokenizer, tokenizer_file

    if given is not None:
        return given_tokenizer(given)
    if checkpoint.metadata is not None and str(checkpoint.metadata.get("tokenizer.ggml.model", "none")) not in ("none", "no_vocab"):
        return Tokenizer.from_gguf_metadata(checkpoint.metadata, str(checkpoint.path))
    if checkpoint.metadata is None and checkpoint.path is not None and tokenizer_file(checkpoint.path) is not None:
        return Tokenizer(checkpoint.path)
    if checkpoint.tokenizer is not None:
        return Tokenizer(checkpoint.tokenizer)
    if checkpoint.encoding is not None:
        try:
            return Tokenizer(checkpoint.encoding)
        except (ModelFileError, MissingDependencyError) as error:
            logger.warning("%s names no tokenizer, and the one that such models have is not here (%s)", checkpoint.name, error)
    logger.info("%s has no tokenizer: prompts are token ids, answers have no text", checkpoint.name)
    return None


def given_tokenizer(given: Any) -> Tokenizer:
    """The option `tokenizer=`, a Tokenizer or a path to one, as a Tokenizer."""
    from linnet.text.tokenizer import Tokenizer

    if isinstance(given, Tokenizer):
        return given
    if isinstance(given, (str, Path)):
        return Tokenizer(given)
    raise InvalidRequestError(f"tokenizer is {given!r}; it must be a Tokenizer or a path to one")


def read_chat_template(given: str | None, tokenizer: Tokenizer | None) -> str | Mapping[str, str] | None:
    """The chat_template option: a template's source, the name of one of the model's, or a file.

    A file holds one template, or (tokenizer_config.json and its like) one or several under "chat_template". Raises
    InvalidRequestError where it is none of these, HostileTemplateError where one does not compile.
    """
    names = sorted(tokenizer.chat_templates) if tokenizer is not None else []
    if given is None or given in names:
        return given
    from linnet.text.template_renderer import check
    from linnet.text.tokenizer.config import read_templates

    if "{" in given:
        check(given, "the chat template that was given")
        return given
    try:
        templates = read_templates(Path(given))
    except ModelFileError as error:
        theirs = f"the model's own are called {', '.join(names)}" if names else "the model has none of its own"
        raise InvalidRequestError(f"chat_template {shortened(given)} is neither a template nor a file of one ({error}); {theirs}") from None
    for name, template in templates.items():
        check(template, f"the chat template {name!r} of {given}")
    return templates


def _plain(value: Any) -> Any:
    """Arrays, tensors, tuples and ranges as plain lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, (tuple, range)) else value


def _all_are(items: list[Any], kind: type) -> bool:
    return all(isinstance(item, kind) and not isinstance(item, bool) for item in items)
