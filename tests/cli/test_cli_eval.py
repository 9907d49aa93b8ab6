"""`linnet eval`: figures, files, resumption, and what is refused before the model is opened."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from linnet import SamplingParams
from linnet.eval import evaluate

SUMS = [{"prompt": f"What is {a} + {b}?", "reference": f"so {a} + {b} = {a + b}"} for a in range(20, 24) for b in (7, 15, 31)]
METRICS = """
def is_right(answer, reference):
    return answer.split()[-1] == reference.split()[-1]

def broken(answer, reference):
    1 / 0
"""


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    (tmp_path / "mine.py").write_text(METRICS)
    return path


def test_figures_are_the_librarys_and_files_hold_them(linnet, sums, tmp_path):
    flags = ["--metric", "bleu", "--metric", "mine.py:is_right", "--metric", "mine.py:broken", "--max-tokens", "40"]
    done = linnet("eval", "tiny", sums, *flags, "--output", "out.json", "--html", "out.html")
    assert done.returncode == 0
    found = evaluate("tiny", sums, metrics=["bleu"], params=SamplingParams(temperature=0.0, max_tokens=40), chat=True)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["metrics"] == {**found.metrics, "is_right": 1.0}
    assert record["failed"] == {"broken": "ZeroDivisionError: division by zero"}
    assert (record["model"], record["kind"], record["items"], record["ran"]) == ("tiny", "question", 12, 12)
    assert (record["settings"]["chat"], record["settings"]["max_tokens"]) == (True, 40)
    assert f"bleu             {found.metrics['bleu']:.6g}\n" in done.stdout
    assert "metric broken failed: ZeroDivisionError: division by zero\n" in done.stderr
    assert re.search(r"^12 of 12 items run in \d+\.\d s, \d+\.\d a second$", done.stderr, re.MULTILINE)
    head, *samples = map(json.loads, (tmp_path / record["samples"]).read_text().splitlines())
    assert head["count"] == 12
    assert [s["prediction"] for s in sorted(samples, key=lambda s: s["index"])] == [s["prediction"] for s in found.samples]


def test_no_figure_at_all_is_a_failure(linnet_here, sums, tmp_path: Path):
    (tmp_path / "mine.py").write_text("def broken(answer, reference):\n    return 1 / 0\n")
    done = linnet_here(
        "eval", "tiny", sums, "--metric", "mine.py:broken", "--limit", "2", "--max-tokens", "2", "--json", "--html", "out.html"
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["failed"] == {"broken": "ZeroDivisionError: division by zero"}
    assert done.stderr.splitlines()[-1].startswith("linnet: error: no metric gave a figure")
    assert "division by zero" in (tmp_path / "out.html").read_text()


def test_a_place_without_a_name_is_refused(linnet_here, sums):
    for place in ("", "/"):
        done = linnet_here("eval", "tiny", sums, "--output", place)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "cannot be written (Is a directory)" in done.stderr


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.images: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attributes)["src"] or "")
        self.open.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_report_shows_figures_plots_and_the_worst_rows(linnet_here, tmp_path):
    rows = [*SUMS[:3], {"prompt": "<script>alert(1)</script>", "reference": "no \u202e such", "id": "odd"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = linnet_here("eval", "tiny", "rows.json", "--raw", "--max-tokens", "8", "--html", "a.html", "--worst", "2", "--json")
    assert json.loads(done.stdout)["kind"] == "question"
    text = (tmp_path / "a.html").read_text()
    page = Page(text)
    assert "script" not in page.open
    assert "<script>alert(1)</script>" in page.texts
    assert {"rougeLsum", "bleu_signature", "max tokens"} <= set(page.texts)
    assert len(page.images) == 7  # exact match, BLEU, four of ROUGE, lengths
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in page.images)
    assert sum(t.startswith("row ") for t in page.texts) == 2
    assert "http" not in text.replace("http-equiv", "")


def test_other_kinds_of_data(linnet_here, tmp_path):
    (tmp_path / "c.csv").write_text('prompt,choices,answer\nThe capital of Italy is,"[""Rome"", ""Paris""]",Rome\n')
    done = linnet_here("eval", "tiny", "c.csv")
    assert done.stdout == "accuracy       1\naccuracy_norm  1\n"
    (tmp_path / "t.txt").write_text("The capital of Italy is Rome.\n" * 40)
    done = linnet_here("eval", "tiny", "t.txt", "--window", "32", "--stride", "16", "--json", "--html", "t.html", "--output", "t.json")
    record = json.loads(done.stdout)
    assert record["settings"]["window"] == 32
    assert record["metrics"]["perplexity"] > 1
    assert json.loads((tmp_path / "t.json").read_text()) == {**record, "samples": "t.samples.jsonl"}
    assert "The capital of Italy" in (tmp_path / "t.html").read_text()


def test_what_ctrl_c_stops_is_resumed(linnet_here, command, env, tmp_path):
    rows = [{"prompt": f"Once upon a time, {n}", "reference": "a"} for n in range(60)]
    (tmp_path / "many.json").write_text(json.dumps(rows))
    flags = ["eval", "tiny", "many.json", "--raw", "--output", "out.json", "--metric", "exact_match", "--max-tokens", "60", "--ignore-eos"]
    slow = ["--threads", "1", "--max-batch", "1"]  # which change nothing of what it gives
    running = subprocess.Popen([*command, *flags, *slow], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    samples = tmp_path / "out.samples.jsonl"
    while running.poll() is None and (not samples.exists() or samples.read_text().count("\n") < 3):
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate()
    assert running.returncode == 130
    assert errors == "stopped; what is done stands in out.samples.jsonl: go on with --resume\n"
    done = samples.read_text().count("\n") - 1
    assert 2 <= done < 60
    again = linnet_here(*flags)
    assert again.returncode == 2
    assert f"out.samples.jsonl holds {done} of 60 items of a run that stopped" in again.stderr
    other = linnet_here(*flags, "--resume", "--seed", "3")
    assert other.returncode == 2
    assert "out.samples.jsonl cannot be resumed: " in other.stderr
    resumed = linnet_here(*flags, "--resume", "--json")
    assert json.loads(resumed.stdout)["ran"] == 60 - done
    assert len({json.loads(line).get("index") for line in samples.read_text().splitlines()[1:]}) == 60


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["none.json"], "none.json: cannot be read (No such file or directory)"),
        (["eval_bundel"], "eval_bundel: there is no such file or folder"),
        (["sums.jsonl", "--metric", "leaves.py:f"], "leaves.py cannot be run (SystemExit: 3)"),
        (["sums.jsonl", "--columns", "prompt"], "--columns 'prompt' is not FIELD=COLUMN,..."),
        (["sums.jsonl", "--columns", "question=prompt"], "--columns names a field 'question'"),
        (["sums.jsonl", "--columns", "prompt=question"], "sums.jsonl: row 0 has no column 'question'; it has 'prompt, reference'"),
        (["sums.jsonl", "--metric", "meteor"], "there is no metric 'meteor'"),
        (["sums.jsonl", "--metric", "none.py:f"], "none.py cannot be run (FileNotFoundError"),
        (["sums.jsonl", "--metric", "mine.py:f"], "mine.py has no function 'f'"),
        (["sums.jsonl", "--output", "no/where.json"], "--output no/where.json: cannot be written (No such file or directory)"),
        (["sums.jsonl", "--output", "./sums.jsonl"], "--output sums.jsonl would overwrite the data; name another file"),
        (["sums.jsonl", "--html", "."], "--html .: cannot be written (Is a directory)"),
        (["sums.jsonl", "--output", "taken.json"], "--output taken.samples.jsonl: cannot be written (Is a directory)"),
        (["sums.jsonl", "--output", "a.json", "--html", "a.samples.jsonl"], "--html a.samples.jsonl would overwrite what --output writes"),
        (["sums.jsonl", "--worst", "3"], "--worst is of the report that --html names"),
        (["sums.jsonl", "--columns", "prompt=prompt,prompt=reference"], "--columns names the field 'prompt' twice"),
        (["sums.jsonl", "--resume"], "--resume goes on with the run that --output names"),
        (["sums.jsonl", "--stride", "4"], "stride says nothing about rows with a reference"),
        (["sums.jsonl", "--raw", "--system", "Be brief."], "--system is written by the chat template, which --raw leaves out"),
        (["t.txt", "--temperature", "0.5"], "--temperature is for rows with a reference, and t.txt has none"),
        (["t.txt", "--raw"], "--raw is for rows with a reference"),
        (["t.txt", "--chat-template", "chatml"], "--chat-template is for rows with a reference"),
        (["t.txt", "--draft", "tiny"], "--draft is for rows with a reference"),
        (["t.txt", "--limit", "0"], "Invalid value for '--limit'"),
    ],
)
def test_mistakes_are_named_before_the_model_is_read(linnet_here, sums, tmp_path, flags, message):
    (tmp_path / "taken.samples.jsonl").mkdir()
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    (tmp_path / "t.txt").write_text("a text")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")  # another error, if it were read
    done = linnet_here("eval", "model", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
