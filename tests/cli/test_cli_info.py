"""`linnet info`: what is printed, and what is refused."""

from __future__ import annotations

import json
import re

from linnet import LLM


def test_a_page_and_the_same_as_json(linnet):
    done = linnet("info")
    assert (done.returncode, done.stderr) == (0, "")
    for line in (r"processor +\S.*", r"instructions +.*scalar; \w+ runs", r"cores +.*Linnet uses \d+ unless told", r"memory +.*B a second"):
        assert re.search(rf"^{line}$", done.stdout, re.MULTILINE), line
    record = json.loads(linnet("info", "--json").stdout)
    assert record["processor"]["name"] in done.stdout
    assert record["read_bandwidth"] > 1e8


def test_a_recommendation_that_opens_as_printed(linnet):
    done = linnet("info", "--recommend", "tiny")
    assert (done.returncode, done.stderr) == (0, "")
    call = re.search(r"^in Python +(LLM\('tiny', .*\))$", done.stdout, re.MULTILINE)
    assert call is not None
    with eval(call[1], {"LLM": LLM}) as llm:
        assert f"context    {llm.context}\n" in done.stdout
    record = json.loads(linnet("info", "--recommend", "tiny", "--json").stdout)
    assert record["total_bytes"] == record["weight_bytes"] + record["kv_cache_bytes"]
    assert record["reasons"]


def test_what_is_not_there_is_one_line_and_code_2(linnet):
    for model in ("nowhere", "llm:seven"):
        done = linnet("info", "--recommend", model)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("linnet: error: ")
        assert done.stderr.count("\n") == 1
        assert model in done.stderr
