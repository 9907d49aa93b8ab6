"""docs/evaluate.md and the README: their blocks on evaluation run, and the commands' flags are there."""

from __future__ import annotations

import re

import pytest
from code_blocks import DOCS, code_blocks


def test_the_block_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [block] = code_blocks("evaluate.md")
    exec(compile(block, "docs/evaluate.md", "exec"), {"__name__": "evaluate"})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Perplexity(perplexity=")
    assert printed[1] == "{'accuracy': 1.0, 'accuracy_norm': 1.0}"
    assert "'last_word': 1.0" in printed[2]
    assert printed[4].startswith("{'bleu': 37.99")


def test_the_readmes_block_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS.parent / "README.md").read_text("utf-8")
    [block] = re.findall(r"^```python\n(from linnet import LLM\nfrom linnet.eval.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert "'rouge1': " in capsys.readouterr().out
