"""docs/families.md says what the registry and the families' docstrings say."""

from __future__ import annotations

import runpy

from code_blocks import DOCS

from linnet.arch.registry import GGUF_FAMILIES, HF_FAMILIES


def test_the_page_is_what_the_registry_generates() -> None:
    generated = runpy.run_path(str(DOCS / "generate_families.py"))["page"]()
    assert (DOCS / "families.md").read_text("utf-8") == generated, "run: python docs/generate_families.py"


def test_every_name_is_on_it() -> None:
    page = (DOCS / "families.md").read_text("utf-8")
    for name in (*HF_FAMILIES, *GGUF_FAMILIES):
        assert f"`{name}`" in page
