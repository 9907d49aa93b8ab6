"""Writes docs/cli.md from the program itself: `python docs/generate_cli.py`. tests/cli/test_cli_docs.py keeps it up to date."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import typer.main

from linnet.cli.main import app

PAGE = Path(__file__).with_name("cli.md")

_HEAD = """\
# The command line

<!-- Generated: change the program, then run `python docs/generate_cli.py`. -->
"""


def page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    parts = [_HEAD, *_section("linnet", "linnet [OPTIONS] COMMAND ...", root)]
    for name, command in root.commands.items():
        arguments = [_placeholder(p) for p in command.params if p.param_type_name == "argument"]
        parts += _section(f"linnet {name}", " ".join(["linnet", name, "[OPTIONS]", *arguments]), command)
    return "\n".join(parts)


def _section(title: str, usage: str, command: Any) -> list[str]:
    """Heading, usage, help, then a table for the arguments and for each panel of options."""
    tables: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False):  # another word for an option whose help names it
            continue
        if parameter.param_type_name == "argument":
            panel, name = "Argument", f"`{_placeholder(parameter)}`"
        else:
            panel = f"{parameter.rich_help_panel or ''} option".strip().capitalize()
            name = f"`{' '.join([', '.join(parameter.opts), *([] if parameter.is_flag else [parameter.metavar])])}`".replace("|", "\\|")
        tables.setdefault(panel, []).append(f"| {name} | {parameter.help} |")
    lines = [f"## {title}", f"    {usage}", "", inspect.cleandoc(command.help), ""]
    for panel, rows in tables.items():
        lines += [f"| {panel} | |", "|---|---|", *rows, ""]
    return lines


def _placeholder(argument: Any) -> str:
    name = str(argument.name).upper()
    name = str(argument.name).upper()
    return name if argument.required else f"[{name}]"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
