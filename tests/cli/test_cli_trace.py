"""`linnet trace`: what is printed and written, that it is what the library says, and what is refused before any work."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from linnet import LLM, SamplingParams

QUESTION = "What is 17 + 25?"


@pytest.fixture(scope="module")
def llm():
    with LLM("tiny") as llm:
        yield llm


def test_steps_with_bars_on_stdout_and_figures_on_stderr(linnet, llm):
    done = linnet("trace", "tiny", QUESTION, "--top", "3", "--max-tokens", "4")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("12 prompt tokens: '<|user|>What is 17 + 25?<|assistant|>'\n")
    heads = re.findall(r"^position (\d+), (\d+\.\d\d) bits, after (.*)$", done.stdout, re.MULTILINE)
    steps = llm.trace([{"role": "user", "content": QUESTION}], 3, SamplingParams(temperature=0.0, max_tokens=4))
    before = ["", "7", "7 +", "7 + "]
    assert heads == [(str(s.position), f"{s.entropy:.2f}", repr(text)) for s, text in zip(steps, before, strict=True)]
    rows = re.findall(r"^([▸ ]) ('.*') +(\d+\.\d\d)%(?: ([█-▏]*))? *$", done.stdout, re.MULTILINE)
    expected = [(c == s.chosen, repr(c.text), f"{100 * math.exp(c.logprob):.2f}") for s in steps for c in s.candidates]
    assert [(mark == "▸", word, share) for mark, word, share, _ in rows] == expected
    assert all((len(bar) > 30) == (float(share) > 99) for _, _, share, bar in rows)
    assert re.fullmatch(r"12 prompt tokens, first token after \d+\.\d+ s, 4 tokens at \d+\.\d tokens/s\n", done.stderr)


def test_json_is_one_object_that_agrees_with_the_library(linnet, llm):
    flags = ("--temperature", "1.3", "--seed", "3", "--max-tokens", "12", "--top", "4", "--top-k", "50")
    record = json.loads(linnet("trace", "tiny", "The capital of", "--raw", "--json", *flags).stdout)
    params = SamplingParams(temperature=1.3, seed=3, max_tokens=12, top_k=50)
    steps = llm.trace("The capital of", 4, params)
    completion = llm.generate("The capital of", params)[0]
    assert set(record) == {"model", "text", "token_ids", "finish_reason", "usage", "timings", "seed", "prompt", "steps"}
    assert (record["text"], record["token_ids"], record["seed"]) == (completion.text, completion.token_ids, 3)
    assert [token["token_id"] for token in record["prompt"]] == completion.prompt_token_ids
    assert "".join(token["text"] for token in record["prompt"]) == "The capital of"
    for told, step in zip(record["steps"], steps, strict=True):
        assert (told["position"], told["entropy"], told["text"], told["in_prompt"]) == (step.position, step.entropy, step.text, False)
        assert told["chosen"]["token_id"] == step.chosen.token_id
        assert told["chosen"]["probability"] == pytest.approx(math.exp(step.chosen.logprob))
        assert [(c["token_id"], c["logprob"]) for c in told["candidates"]] == [(c.token_id, c.logprob) for c in step.candidates]


def test_prompt_tokens_are_traced_where_asked_for(linnet, llm):
    flags = ("--raw", "--max-tokens", "0", "--prompt-logprobs", "2")
    record = json.loads(linnet("trace", "tiny", "The capital of", "--json", *flags).stdout)
    assert [step["position"] for step in record["steps"]] == list(range(1, len(record["prompt"])))
    assert all(step["in_prompt"] and len(step["candidates"]) == 2 for step in record["steps"])
    scores = llm.score("The capital of")
    assert [step["chosen"]["logprob"] for step in record["steps"]] == [entry.logprob for entry in scores]


class Tokens(HTMLParser):
    """The texts of a page's tokens."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        if dict(attrs).get("class", "").startswith("token") and "title" in dict(attrs):
            self.inside = True
            self.found.append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("a", "span")

    def handle_data(self, data):
        if self.inside:
            self.found[-1] += data


def test_html_is_a_page_of_the_same_trace(linnet, tmp_path):
    flags = ("--system", 'Be <b>brief</b> & "kind" 😀</script>', "--html", "page.html", "--json", "--temperature", "1", "--seed", "5")
    record = json.loads(linnet("trace", "tiny", QUESTION, *flags).stdout)
    source = (tmp_path / "page.html").read_text("utf-8")
    texts = [token["text"] for token in record["prompt"]] + [step["chosen"]["text"] for step in record["steps"]]
    shown = Tokens(source).found
    assert len(shown) == len(texts)
    assert [text for text in shown if "\ufffd" not in text] == [text for text in texts if "\ufffd" not in text]
    assert "<b>" not in source
    assert source.count("</script>") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("missing", "x"), "no such file or folder"),
        (("tiny", "x", "--top", "-1"), "Invalid value for '--top'"),
        (("tiny", "x", "--top", "1025"), "Invalid value for '--top'"),
        (("tiny", "x", "--n", "2"), "No such option"),
        (("tiny", "x", "--html", "."), "--html .: cannot be written (Is a directory)"),
        (("tiny", "x", "--html", "no/such/folder.html"), "cannot be written (No such file or directory)"),
        (("tiny", "x", "--html", "a" * 300), "cannot be written (File name too long)"),
        (("tiny", "x", "--max-tokens", "0"), "--max-tokens 0 generates nothing to trace; add --prompt-logprobs N"),
        (("tiny", "a", "--raw", "--max-tokens", "0", "--prompt-logprobs", "1"), "a single token, which nothing predicts"),
        (("tiny", "x", "--system", "y", "--raw"), "--system is written by the chat template"),
        (("tiny", "x", "--temperature", "-1"), "temperature is -1.0"),
        (("tiny", ""), "the prompt is empty"),
    ],
)
def test_refusals_are_one_line(linnet_here, arguments, named):
    done = linnet_here("trace", *arguments)
    assert (done.returncode, [line for line in done.stdout.splitlines() if "prompt tokens" not in line]) == (2, [])
    assert done.stderr.count("\n") == 1
    assert named in done.stderr


def test_a_page_that_cannot_be_written_is_refused_before_the_model_is_opened(linnet, tiny_copy):
    (tiny_copy / "model.safetensors").write_bytes(b"")
    assert "--html .:" in linnet("trace", tiny_copy, "x", "--html", ".").stderr
