"""CORE: what a straightforward implementation on transformers' logits gives, example by example; and bundles that are wrong."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from core_bundles import write_bundle
from transformers import AutoModelForCausalLM, AutoTokenizer

from linnet import LLM, InvalidRequestError
from linnet.eval import compute_core, evaluate

TINY = Path(__file__).parents[2] / "models" / "tiny"


class Oracle:
    """One example after the other, one prompt after the other, nothing shared."""

    def __init__(self) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(TINY)
        self.context = 0

    def losses(self, tokens: list[int], start: int) -> tuple[float, bool]:
        """Mean loss of tokens[start:], and whether each is the likeliest."""
        cut = max(0, len(tokens) - self.context)
        tokens, start = tokens[cut:], start - cut
        with torch.no_grad():
            logits = self.model(torch.tensor([tokens])).logits[0, start - 1 : -1]
        target = torch.tensor(tokens[start:])
        return torch.nn.functional.cross_entropy(logits, target).item(), bool((logits.argmax(-1) == target).all())

    def ids(self, text: str) -> list[int]:
        return [self.tokenizer.bos_token_id or self.tokenizer.eos_token_id, *self.tokenizer.encode(text)]

    def is_right(self, task: dict[str, Any], data: list[dict[str, Any]], index: int) -> bool:
        item, between, kind = data[index], task.get("continuation_delimiter", " "), task["icl_task_type"]
        others = [other for place, other in enumerate(data) if place != index]
        shots = random.Random(1234 + index).sample(others, task["num_fewshot"][0])
        if kind == "multiple_choice":
            before = "".join(s["query"] + between + s["choices"][s["gold"]] + "\n\n" for s in shots) + item["query"] + between
            prompts = [self.ids(before + choice) for choice in item["choices"]]
            same = 0
            while len({tuple(prompt[: same + 1]) for prompt in prompts}) == 1:
                same += 1
            losses = [self.losses(prompt, same)[0] for prompt in prompts]
        elif kind == "schema":
            before = "".join(s["context_options"][s["gold"]] + between + s["continuation"] + "\n\n" for s in shots)
            prompts = [self.ids(before + option + between + item["continuation"]) for option in item["context_options"]]
            same = 0
            while len({tuple(prompt[len(prompt) - same - 1 :]) for prompt in prompts}) == 1:
                same += 1
            losses = [self.losses(prompt, len(prompt) - same)[0] for prompt in prompts]
        else:
            before = "".join(s["context"].strip() + between + s["continuation"] + "\n\n" for s in shots) + item["context"].strip() + between
            without, whole = self.ids(before.strip()), self.ids(before + item["continuation"])
            assert whole[: len(without)] == without
            return self.losses(whole, len(without))[1]
        return losses.index(min(losses)) == item["gold"]

    def core(self, bundle: Path, limit: int | None) -> dict[str, float]:
        with (bundle / "eval_meta_data.csv").open() as file:
            chances = {row["Eval Task"]: row["Random baseline"] for row in csv.DictReader(file)}
        figures = {}
        for task in yaml.safe_load((bundle / "core.yaml").read_text())["icl_tasks"]:
            data = [json.loads(line) for line in (bundle / "eval_data" / task["dataset_uri"]).read_text().splitlines()]
            random.Random(1337).shuffle(data)
            data = data[:limit]
            accuracy = sum(self.is_right(task, data, index) for index in range(len(data))) / len(data)
            chance = 0.01 * float(chances[task["label"]])
            figures |= {task["label"]: accuracy, task["label"] + "_centered": (accuracy - chance) / (1.0 - chance)}
        centered = [value for name, value in figures.items() if name.endswith("_centered")]
        return {"core": sum(centered) / len(centered), **figures}


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(("limit", "context"), [(None, 1024), (7, 40)])
def test_core_is_that_of_a_straightforward_implementation(oracle: Oracle, bundle: Path, limit: int | None, context: int) -> None:
    with LLM("tiny", weights="f32", kv_dtype="f32", context=context, threads=1) as llm:
        found = compute_core(llm, bundle, limit=limit)
    oracle.context = context
    expected = oracle.core(bundle, limit)
    assert found.pop("cropped") == (0 if context == 1024 else pytest.approx(40, abs=30))
    assert found == expected
    assert any(0 < expected[name] < 1 for name in ("capitals", "capitals_zeroshot", "pronouns", "sums"))


def test_a_bundle_is_data_like_any_other(bundle: Path) -> None:
    found = evaluate("tiny", bundle, limit=4)
    assert found.task.kind == "core"
    assert len(found.samples) == 16
    assert found.metrics["capitals"] == sum(sample["correct"] for sample in found.samples[:4]) / 4
    assert found.task.shown(0, found.samples)["task"] == "capitals"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("core.yaml", "icl_tasks:", "tasks:", "core.yaml has no list icl_tasks"),
        ("core.yaml", "icl_tasks:", "icl_tasks: [}", "core.yaml is no YAML"),
        ("core.yaml", "schema", "essay", "icl_task_type of pronouns is 'essay'; it must be one of multiple_choice, schema"),
        ("core.yaml", "[1]", "[-1]", "num_fewshot of pronouns is -1"),
        ("core.yaml", "[1]", "[10]", "has 10 examples, and pronouns shows 10 others"),
        ("core.yaml", "label: pronouns", "label: capitals", "two tasks have the label 'capitals'"),
        ("core.yaml", "pronouns.jsonl", "../../secret.jsonl", "lies outside the bundle"),
        ("core.yaml", "pronouns.jsonl", "nouns.jsonl", r"nouns.jsonl: cannot be read \(No such file"),
        ("eval_meta_data.csv", "pronouns,language,50", "pronouns,language,fifty", "'Random baseline' of pronouns is 'fifty'"),
        ("eval_meta_data.csv", "pronouns,language,50", "pronouns,language,100", "'Random baseline' of pronouns is '100'"),
        ("eval_meta_data.csv", "pronouns,", "nouns,", "has no row with pronouns under 'Eval Task'"),
        ("eval_data/sums.jsonl", '"continuation"', '"answer"', "row 0: continuation is None; it must be a str"),
        ("eval_data/pronouns.jsonl", '"gold": 1', '"gold": 2', "row 1: gold is 2; it must be the number of one of the 2 options"),
        ("eval_data/sums.jsonl", "}", "", "sums.jsonl: line 1 is no JSON"),
    ],
)
def test_what_is_wrong_with_a_bundle_is_said(bundle: Path, file: str, old: str, new: str, message: str) -> None:
    replace(bundle / file, old, new)
    with pytest.raises(InvalidRequestError, match=message):
        evaluate("no model is opened", bundle)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"core.yaml: cannot be read .*; a bundle has core.yaml, eval_meta"):
        evaluate("tiny", tmp_path)
