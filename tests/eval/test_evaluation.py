"""Whole evaluations: figures, runs that stop and go on, metrics that fail, and data that is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from linnet import LLM, InvalidRequestError, LinnetError, MissingDependencyError, SamplingParams, Tokenizer
from linnet.eval import compute_metrics, compute_multiple_choice, compute_perplexity, evaluate
from linnet.eval.batch import Generate, Item, Score, run
from linnet.eval.sample_log import SampleLog

TINY = Path(__file__).parents[2] / "models" / "tiny"
SUMS = [{"prompt": f"What is {a} + {b}?", "reference": f"so {a} + {b} = {a + b}"} for a in range(20, 30) for b in (7, 15, 31, 44)]
CHOICES = [
    {"prompt": f"The capital of {country} is", "choices": ["Rome", "Paris", "Berlin", "New York"], "answer": answer}
    for country, answer in (("Italy", "Rome"), ("France", 1), ("Germany", 2), ("Norway", 3))
]
SHORT = SamplingParams(temperature=0.0, max_tokens=40)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", weights="f32", kv_dtype="f32", max_batch=4, threads=1) as model:
        yield model


def is_right(answer: str, reference: str) -> bool:
    return answer.split()[-1:] == reference.split()[-1:]


def named(name: str) -> Any:
    def metric(answer: str, reference: str) -> float:
        return 1.0

    metric.__name__ = name
    return metric


def test_figures_are_those_of_the_answers(llm: LLM) -> None:
    metrics = ["exact_match", "bleu", "rouge", "perplexity", is_right]
    found = evaluate(llm, SUMS, metrics=metrics, params=SHORT, chat=True)
    messages = [[{"role": "user", "content": row["prompt"]}] for row in SUMS]
    answers = [completion.text for completion in llm.generate(messages, SHORT)]
    references = [row["reference"] for row in SUMS]
    assert [sample["prediction"] for sample in found.samples] == answers
    assert found.metrics["bleu"] == BLEU().corpus_score(answers, [references]).score
    scorer = RougeScorer(["rougeL"])
    each = [scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in zip(answers, references, strict=True)]
    assert found.measured.each["rougeL"] == each
    assert found.metrics["is_right"] == sum(map(is_right, answers, references)) / len(SUMS) > 0.9
    prompts = [llm.tokenize(prompt) for prompt in messages]
    assert llm.tokenizer is not None
    scored = [llm.score([*ids, *llm.tokenizer.encode(text)])[len(ids) - 1 :] for ids, text in zip(prompts, references, strict=True)]
    mean = sum(entry.logprob for entries in scored for entry in entries) / sum(map(len, scored))
    assert found.metrics["perplexity"] == pytest.approx(2.718281828459045**-mean)
    assert found.worst(3) == sorted(range(len(SUMS)), key=lambda row: [values[row] for values in found.measured.each.values()])[:3]


def test_compute_metrics_by_path_and_with_a_tokenizer_of_ones_own(llm: LLM) -> None:
    rows = [{"prompt": row["prompt"], "reference": [row["reference"], "7"], "id": n} for n, row in enumerate(SUMS[:3])]
    found = compute_metrics("tiny", Tokenizer(TINY), rows, params=SHORT, chat=True)
    assert found == compute_metrics("tiny", None, rows, params=SHORT, chat=True)
    assert set(found) >= {"exact_match", "bleu", "bleu_1", "bleu_4", "brevity_penalty", "bleu_signature", "rouge1", "rougeLsum"}
    samples = evaluate(llm, rows, params=SHORT).samples
    assert [sample["id"] for sample in samples] == [0, 1, 2]


def test_choices_are_the_likeliest_continuations(llm: LLM) -> None:
    found = evaluate(llm, CHOICES)
    assert llm.tokenizer is not None
    for row, sample in zip(CHOICES, found.samples, strict=True):
        before = len(llm.tokenizer.encode(row["prompt"]))
        expected = [sum(e.logprob for e in llm.score(f"{row['prompt']} {text}")[before - 1 :]) for text in row["choices"]]
        assert sample["logprobs"] == pytest.approx(expected, abs=1e-4)
        assert sample["chosen"] == expected.index(max(expected))
        normalised = [logprob / len(text) for logprob, text in zip(expected, row["choices"], strict=True)]
        assert sample["chosen_norm"] == normalised.index(max(normalised))
    assert compute_multiple_choice(llm, CHOICES) == found.metrics
    assert found.metrics["accuracy"] >= 0.5
    assert found.task.shown(0, found.samples)["right"] == "Rome"


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("data", [SUMS[:12], CHOICES, [{"text": "The capital of Italy is Rome. " * 20}]])
def test_a_run_that_stops_goes_on_to_the_same_figures(llm: LLM, data: list[dict[str, Any]], tmp_path: Path) -> None:
    options: dict[str, Any] = {"window": 20, "stride": 10} if "text" in data[0] else {}
    samples = tmp_path / "samples.jsonl"

    def stop(done: int, count: int) -> None:
        if done == 3:
            raise StoppedError

    with pytest.raises(StoppedError):
        evaluate(llm, data, samples=samples, progress=stop, **options)
    with samples.open("a") as file:
        file.write('{"index": 0, "cut o')  # as it was written when the power failed
    with pytest.raises(InvalidRequestError, match=r"samples.jsonl holds 3 of \d+ items of a run that stopped; resume it, or delete"):
        evaluate(llm, data, samples=samples, **options)
    whole = evaluate(llm, data, **options)
    resumed = evaluate(llm, data, samples=samples, resume=True, **options)
    assert resumed.ran == len(whole.samples) - 3
    assert resumed.metrics == whole.metrics
    assert resumed.samples == whole.samples
    again = evaluate(llm, data, samples=samples, resume=True, **options)
    assert (again.ran, again.metrics) == (0, whole.metrics)
    assert evaluate(llm, data, samples=samples, **options).ran == len(whole.samples)  # one that is done is replaced


def test_only_the_same_run_is_resumed(llm: LLM, tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    rows = SUMS[:3]
    evaluate(llm, rows, params=SHORT, samples=samples)
    written = samples.read_text()

    def refused(message: str, model: LLM = llm, data: Any = rows, **options: Any) -> None:
        with pytest.raises(InvalidRequestError, match=message):
            evaluate(model, data, **{"params": SHORT, "samples": samples, "resume": True, **options})
        assert samples.read_text() == written

    refused("cannot be resumed: the data has changed since", data=SUMS[1:4])
    refused("cannot be resumed: the data has changed since", data=SUMS[:4])
    refused("cannot be resumed: the data is of another kind", data=CHOICES, params=None)
    refused("cannot be resumed: max_tokens was 40 and is 41", params=SamplingParams(temperature=0.0, max_tokens=41))
    refused("cannot be resumed: chat was False and is True", chat=True)
    with LLM("tiny", weights="q4_0", threads=1) as other:
        refused("cannot be resumed: the model has changed since", model=other)
    refused("name it", samples=None)
    lines = written.splitlines(keepends=True)
    written = lines[0] + lines[1][:20] + "\n" + lines[2]
    samples.write_text(written)
    refused("line 2 is damaged; delete the line")
    written = "something else\n"
    samples.write_text(written)
    refused("line 1 is damaged")
    with pytest.raises(InvalidRequestError, match="line 1 is damaged"):
        evaluate(llm, rows, params=SHORT, samples=samples)
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        evaluate(llm, rows, params=SHORT, samples=tmp_path / "nowhere" / "samples.jsonl")


def test_a_metric_that_raises_fails_by_name_and_the_rest_stand(llm: LLM) -> None:
    def broken(answer: str, reference: str) -> float:
        raise KeyError(reference)

    def endless(answer: str, reference: str) -> float:
        return float("nan")

    def leaving(answer: str, reference: str) -> float:
        raise SystemExit(3)

    found = evaluate(llm, SUMS[:2], metrics=["exact_match", broken, endless, leaving], params=SHORT)
    assert set(found.metrics) == {"exact_match"}
    assert found.failed["leaving"] == "SystemExit: 3"
    assert found.failed["broken"] == f"KeyError: {SUMS[0]['reference']!r}"
    assert found.failed["endless"] == "InvalidRequestError: gave nan for row 0; it must give a finite number"
    assert compute_metrics(llm, None, SUMS[:2], [is_right, broken], params=SHORT)["failed"] == {"broken": found.failed["broken"]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "data has no rows"),
        ([3], "row 0 is 3; it must be an object"),
        ([{}], "row 0 has no fields"),
        ([{"promt": "a", "refernce": "b"}], r"row 0 has an unknown field 'promt' \(did you mean 'prompt'\?\)"),
        ([{"prompt": "a"}], "row 0 has a prompt and neither a 'reference' nor 'choices'"),
        ([{"reference": "a"}], "row 0 has no 'prompt'"),
        ([SUMS[0], {"prompt": "a"}], "row 1 has no 'reference'; like row 0, it needs prompt and reference"),
        ([SUMS[0], CHOICES[0]], "row 1 has an unknown field 'choices'"),
        ([SUMS[0], {**SUMS[0], "category": "sums"}], "row 1 has an unknown field 'category'; rows of this kind have prompt, reference"),
        ([{"prompt": "a", "reference": 5}], "row 0: reference is 5; it must be a text"),
        ([{"prompt": "a", "reference": []}], "row 0: reference is an empty list"),
        ([{"prompt": "", "reference": "b"}], "row 0: prompt is empty"),
        ([{"prompt": "\ud800", "reference": "b"}], r"row 0: prompt has a lone surrogate \(U\+D800\)"),
        ([{"text": ""}], "row 0: text is empty"),
        ([{**CHOICES[0], "choices": ["Rome"]}], "row 0: choices is .*; it must be a list of at least two texts"),
        ([{**CHOICES[0], "choices": "Rome"}], "row 0: choices is 'Rome'; in CSV it must be a JSON list"),
        ([{**CHOICES[0], "answer": 4}], "row 0: answer is 4; it must be one of the choices, or its number from 0 to 3"),
        ([{**CHOICES[0], "answer": "Oslo"}], "row 0: answer is 'Oslo'"),
        ([{**CHOICES[0], "answer": True}], "row 0: answer is True"),
        ([{**CHOICES[0], "answer": "1" * 5000}], "row 0: answer is '1111"),
    ],
)
def test_rows_that_are_wrong_are_refused_before_a_model_is_opened(rows: list[Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        evaluate("no model is opened", rows)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{}", "it must be a list of objects"),
        ("a.json", b"[", "is no JSON"),
        ("a.json", b"[" * 100_000, "is no JSON"),
        ("a.json", b"[]", "has no rows"),
        ("a.jsonl", b'{"text": "a b"}\n\n{"text": ', "line 3 is no JSON"),
        ("a.jsonl", b"", "has no rows"),
        ("a.csv", b"prompt,reference\na,b\nc\n", "line 3 has 1 cells and the header 2"),
        ("a.csv", b"prompt,reference\na,b,c\n", "line 2 has 3 cells and the header 2"),
        ("a.csv", b'prompt,reference\n"a,b\n', "line 2 is no CSV"),
        ("a.csv", b"prompt,prompt\na,b\n", "names the column 'prompt' twice"),
        ("a.csv", b"prompt,reference\n", "has no rows"),
        ("a.csv", b"prompt, reference\na,b\n", r"add them; ' reference' is unknown \(did you mean 'reference'\?\)"),
        ("a.csv", b"question;answer\na;b\n", "row 0 has an unknown field 'question;answer'"),
        ("a.csv", b"prompt,reference\n\xff,b\n", "is not UTF-8 .byte 0xff at offset 17"),
        ("a.txt", b"", "has no rows"),
        ("a.parquet", b"PAR1", "data is read from .json, .jsonl"),
    ],
)
def test_files_that_are_wrong_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequestError, match=message):
        evaluate("no model is opened", tmp_path / name)


def test_every_kind_of_file_says_the_same(llm: LLM, tmp_path: Path) -> None:
    first = {"prompt": 'say, "hi"\nthere', "choices": ["a b", "c, d"], "answer": 1}
    rows = [first, {"prompt": "naïve?", "choices": ["1", "0"], "answer": "0"}]
    rows.append({"prompt": "a line\u2028and\x0cmore", "choices": ["x", "y"], "answer": 1})
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    cells = ['"say, ""hi""\nthere","[""a b"", ""c, d""]",1', 'naïve?,"[""1"", ""0""]",0', 'a line\u2028and\x0cmore,"[""x"", ""y""]",1']
    (tmp_path / "a.csv").write_text("prompt,choices,answer\n" + "\n".join(cells) + "\n")
    renamed = [{"q": row["prompt"], "options": row["choices"], "gold": row["answer"], "more": 1} for row in rows]
    (tmp_path / "b.json").write_text(json.dumps(renamed))
    columns = {"prompt": "q", "choices": "options", "answer": "gold"}
    found = [evaluate(llm, tmp_path / f"a.{kind}") for kind in ("json", "jsonl", "csv")]
    found.append(evaluate(llm, tmp_path / "b.json", columns=columns))
    assert all(one.samples == found[0].samples and one.task.digest == found[0].task.digest for one in found)
    assert [sample["answer"] for sample in found[0].samples] == [1, 1, 1]
    (tmp_path / "t.txt").write_text("The capital of Italy is Rome.\n")
    assert evaluate(llm, tmp_path / "t.txt").metrics == compute_perplexity(llm, "The capital of Italy is Rome.\n").figures()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (SUMS, {"stride": 5}, "stride says nothing about rows with a reference"),
        (CHOICES, {"metrics": ["bleu"]}, "metrics says nothing about rows with choices"),
        ([{"text": "a b"}], {"params": SHORT}, "params says nothing about texts"),
        (SUMS, {"metrics": ["blue"]}, "there is no metric 'blue'; there are exact_match, bleu, rouge, perplexity"),
        (SUMS, {"metrics": [5]}, "5 is no metric"),
        (SUMS, {"metrics": ["bleu", "bleu"]}, "two metrics of the name 'bleu'"),
        (SUMS, {"metrics": []}, "there are no metrics"),
        (SUMS, {"metrics": ["rouge", named("rougeL")]}, "two metrics of the name 'rougeL'"),
        (SUMS, {"limit": 0}, "limit is 0"),
        (SUMS, {"system": "Be brief."}, "a system message is for chat prompts"),
        (SUMS, {"params": SamplingParams(n=2)}, "n is 2, and one answer"),
    ],
)
def test_options_that_do_not_go_with_the_data(llm: LLM, data: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        evaluate(llm, data, **options)


@pytest.mark.parametrize(
    ("package", "metric", "message"),
    [("sacrebleu", "bleu", "BLEU needs sacrebleu: pip install"), ("rouge_score", "rouge", "ROUGE needs rouge-score: pip install")],
)
def test_a_missing_package_is_named_first(monkeypatch: pytest.MonkeyPatch, package: str, metric: str, message: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=message):
        evaluate("no model is opened", SUMS, metrics=[metric])


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([SUMS[0], {"prompt": "a", "reference": ""}], {"metrics": ["perplexity"]}, "row 1: the reference is empty, and has no perplexity"),
        (
            [SUMS[0], {"prompt": "a", "reference": "word " * 2000}],
            {"metrics": ["perplexity"]},
            "row 1, the prompt and its reference: ",
        ),
        ([SUMS[0], {"prompt": [5, 10**6], "reference": "a"}], {}, "row 1: token id 1000000 in the prompt is outside the model's"),
        ([SUMS[0], {"prompt": [5, "a"], "reference": "a"}], {}, "row 1: the prompt is .5, 'a'.; it must be a text, a list of token ids"),
        ([SUMS[0], {"prompt": [5, {}], "reference": "a"}], {"tokenizer": Tokenizer(TINY)}, "row 1: the prompt is .5, {}.; it must be"),
        (
            [SUMS[0], {"prompt": [5], "reference": "a"}],
            {"chat": True, "system": "Be brief."},
            "row 1: a system message goes before",
        ),
        ([CHOICES[0], {**CHOICES[1], "choices": ["a", "word " * 2000]}], {}, r"row 1: the prompt has \d+ tokens and max_tokens is 0"),
    ],
)
def test_what_the_model_cannot_take_is_named_before_any_item_runs(llm: LLM, rows: list[Any], options: dict[str, Any], message: str) -> None:
    calls: list[int] = []
    with pytest.raises(InvalidRequestError, match=message):
        evaluate(llm, rows, progress=lambda done, count: calls.append(done), **options)
    assert not calls


def test_a_full_disk_is_named(llm: LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    samples = tmp_path / "samples.jsonl"
    with SampleLog(samples, {"count": 2}, resume=False) as log:
        log._file.close()
        log._file = full.open("wb", buffering=0)
        with pytest.raises(InvalidRequestError, match=r"samples.jsonl: cannot be written \(No space left on device\)"):
            log.add(0, {"prediction": "a"})


def test_a_prompt_past_the_context_is_named(llm: LLM) -> None:
    rows = [*SUMS[:2], {"prompt": "word " * 2000, "reference": "a"}]
    with pytest.raises(InvalidRequestError, match=r"row 2: the prompt has \d+ tokens and max_tokens is 40"):
        evaluate(llm, rows, params=SHORT)
    assert llm.engine.pool.free_count == llm.engine.pool.count  # the others were given up


def test_items_are_taken_as_there_is_room_and_share_their_context() -> None:
    taken = 0
    with LLM("tiny", max_batch=2, max_queue=1, threads=1) as llm:
        context = llm.tokenize("one two three four five six seven eight nine ten " * 10)

        def items() -> Iterator[Item[list[int]]]:
            nonlocal taken
            for number in range(30):
                taken += 1
                scores = [Score([*context, number + 5, choice], len(context)) for choice in (6, 7, 8)]
                yield Item(scores, lambda scores=scores: [score._request.cached_tokens for score in scores])  # type: ignore[misc]

        found = dict(run(llm, items()))
        assert sorted(found) == list(range(30))
        shared = len(context) // 32 * 32
        assert all(min(cached[1:]) >= shared - 32 for cached in found.values())
        stopped = run(llm, (Item([Generate("a b", SamplingParams(max_tokens=50, ignore_eos=True))], lambda: 0) for _ in range(10)))
        with pytest.raises(LinnetError, match="item 0: "):
            next(run(llm, [Item([Score([1] * 5000, 1)], lambda: 0)]))
        stopped.close()
        assert llm.engine.pool.free_count == llm.engine.pool.count
    assert taken == 30
