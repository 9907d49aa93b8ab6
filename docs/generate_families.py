"""Writes docs/families.md from the registry: `python docs/generate_families.py`. tests/docs/test_families_page.py keeps it up to date."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from importlib import import_module
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path

from linnet.arch.registry import GGUF_FAMILIES, HF_FAMILIES, TORCH_FAMILIES

PAGE = Path(__file__).with_name("families.md")

_HEAD = """\
# Families

<!-- Generated: change the docstrings of src/linnet/arch, then run `python docs/generate_families.py`. -->

What runs, by the names that config.json (`model_type`) and GGUF (`general.architecture`) have for it. Another name is refused, and so is
any setting that a family does not know. How one is added: [add-a-family.md](add-a-family.md); a model of your own:
[own-model.md](own-model.md).

| family | config.json | GGUF | what is special |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    modules = sorted({*HF_FAMILIES.values(), *GGUF_FAMILIES.values(), *TORCH_FAMILIES.values()})
    rows = [row for row in map(_row, modules) if row]
    return _HEAD + "\n".join(sorted(rows, key=str.casefold)) + "\n"


def _row(module: str) -> str:
    """A family's row, from its module's docstring: "Name (source): what is special."; nothing where there is none yet."""
    if find_spec(f"linnet.arch.{module}") is None:
        return ""
    text = cleandoc(import_module(f"linnet.arch.{module}").__doc__ or "")
    text = escape(" ".join(line for line in text.splitlines() if line and not line.startswith("Source:")), quote=False)
    name, _, special = re.sub(r"(: |\. (?=[A-Z])|\.$)", "\n", text, count=1).partition("\n")
    config = _names(HF_FAMILIES, module) or ("plain PyTorch" if module in TORCH_FAMILIES.values() else "")
    row = f"| [{name}](../src/linnet/arch/{module}.py) | {config} | {_names(GGUF_FAMILIES, module)} | {special} |"
    return row if text else ""


def _names(families: Mapping[str, str], module: str) -> str:
    return ", ".join(f"`{name}`" for name, of in families.items() if of == module)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
