"""`linnet chat`: a conversation in the terminal."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from linnet.cli import terminal
from linnet.cli.conversation import Conversation
from linnet.cli.line_editor import turn_reader
from linnet.cli.opening import ModelArgument, check, require_chat_template
from linnet.cli.options import model_group, sampling_group, with_options
from linnet.engine.params import BEAMS
from linnet.errors import ContextLengthError, InvalidRequestError

if TYPE_CHECKING:
    from linnet.llm import LLM

# One answer a turn, as it comes, and nothing of it but its text is shown.
_SAMPLING = sampling_group(without=("n", "logprobs", "prompt_logprobs", *BEAMS))


@with_options(sampling=_SAMPLING, load=model_group())
def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="a system message to start with", metavar="TEXT")] = None,
    web: Annotated[bool, typer.Option("--web", help="talk in the browser: serves the page on this machine alone, and opens it")] = False,
    *,
    sampling: dict[str, Any],
    load: dict[str, Any],
) -> None:
    """Talk with a model.

    Enter sends, Alt-Enter starts a new line, Ctrl-C stops the answer or clears the line, Ctrl-D leaves; /help lists the
    commands. When standard input is not a terminal, every line of it is a turn or a command, and the first error ends the
    chat with exit code 2.
    """
    check(model, load, sampling)
    if web:
        _open_page(model, load, [*sampling, *(["system"] if system else [])])
        return
    from linnet.llm import LLM

    with LLM(model, **load) as llm:
        require_chat_template(llm, model, load)
        conversation = Conversation(_SAMPLING, sampling, llm.generation_config)
        conversation.set_system(system or "")
        session = _Session(llm, conversation)
        if session.interactive:
            terminal.note(f"{model}, context {llm.context} tokens; /help lists the commands, Ctrl-D leaves")
        session.run()


def _open_page(model: str, load: dict[str, Any], given: list[str]) -> None:
    if given:
        flag = given[0].replace("_", "-")
        raise InvalidRequestError(f"--{flag} is set on the page, under Settings; leave it out beside --web")
    if "trust_remote_code" in load:
        raise InvalidRequestError("--trust-remote-code is not for a server, which --web starts; leave one of them out")
    from linnet.server.settings import read_settings

    settings = read_settings([model], {"port": 0, **load})
    import webbrowser

    from linnet.server.listen import serve

    serve(settings, ready=lambda address: Thread(target=webbrowser.open, args=(address,), daemon=True).start())


class _Command(NamedTuple):
    usage: str
    help: str
    act: Callable[[str], None]


class _Session:
    """Reads turns and answers them until there are no more."""

    def __init__(self, llm: LLM, conversation: Conversation) -> None:
        self.llm = llm
        self.conversation = conversation
        self.interactive = sys.stdin.isatty()
        self.commands = {
            "/help": _Command("/help", "list the commands", self._help),
            "/system": _Command("/system [TEXT]", "set the system message, or remove it", conversation.set_system),
            "/reset": _Command("/reset", "forget the conversation, but for the system message", self._reset),
            "/save": _Command("/save FILE", "write the conversation and its parameters to a file, as JSON", self._save),
            "/load": _Command("/load FILE", "go on with a saved conversation", self._load),
            "/params": _Command("/params [NAME=VALUE ...]", "show or set parameters; NAME= goes back to the default", self._params),
            "/exit": _Command("/exit", "leave (so does Ctrl-D)", self._exit),
        }

    def run(self) -> None:
        read = turn_reader(list(self.commands))
        while True:
            try:
                self._turn(read())
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
            except OSError:  # the terminal is gone
                raise
            except Exception as failure:
                if not self.interactive:
                    raise
                terminal.report(failure)

    def _turn(self, text: str) -> None:
        if text.startswith("/"):
            self._command(*text.split(maxsplit=1))
        elif text.strip():
            self._answer(text)

    def _command(self, name: str, rest: str = "") -> None:
        if name not in self.commands:
            raise InvalidRequestError(f"there is no command {name}; /help lists them (a space before it makes it a message)")
        command = self.commands[name]
        if rest and command.usage == name:
            raise InvalidRequestError(f"{name} takes nothing after it")
        command.act(rest.strip())

    def _answer(self, text: str) -> None:
        """Streams an answer and keeps it, whole or as far as it came; where it fails, nothing is kept."""
        with terminal.one_interrupt():
            messages = [*self.conversation.messages, {"role": "user", "content": text}]
            said, remark = "", ""
            try:
                with closing(self.llm.chat(messages, self.conversation.params, stream=True)) as chunks:
                    for chunk in chunks:
                        said += chunk.text
                        terminal.write(chunk.text)
                        if chunk.finish_reason == "length":
                            remark = "the answer was cut off here: max_tokens or the context is used up"
            except ContextLengthError as error:
                raise ContextLengthError(f"{error}; /reset starts over") from None
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                remark = "stopped"
                if not said:
                    messages, remark = self.conversation.messages, "stopped before the first word: the question is forgotten"
            finally:
                if said and not said.endswith("\n"):
                    terminal.write("\n")
            if remark:
                terminal.note(remark)
            self.conversation.messages = [*messages, {"role": "assistant", "content": said}]

    def _help(self, rest: str) -> None:
        width = max(len(command.usage) for command in self.commands.values())
        lines = [f"{command.usage:{width}}  {command.help}" for command in self.commands.values()]
        keys = "Enter sends, Alt-Enter starts a new line, Ctrl-C stops the answer or clears the line"
        terminal.listing("\n".join([*lines, keys]))

    def _reset(self, rest: str) -> None:
        self.conversation.reset()
        terminal.note("the conversation starts over")

    def _save(self, rest: str) -> None:
        path = _path(rest, "/save")
        self.conversation.save(path)
        terminal.note(f"{len(self.conversation.messages)} messages saved in {path}")

    def _load(self, rest: str) -> None:
        path = _path(rest, "/load")
        self.conversation.load(path)
        terminal.note(f"{len(self.conversation.messages)} messages loaded from {path}")

    def _params(self, rest: str) -> None:
        try:
            assignments = shlex.split(rest)
        except ValueError as error:
            raise InvalidRequestError(f"/params {rest}: {error}") from None
        self.conversation.set_params(assignments)
        if not assignments:
            terminal.listing(self.conversation.describe_params())

    def _exit(self, rest: str) -> None:
        raise EOFError


def _path(text: str, command: str) -> Path:
    if not text:
        raise InvalidRequestError(f"{command} needs a file name: {command} FILE")
    return Path(os.path.expanduser(text))
