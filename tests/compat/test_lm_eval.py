"""The lm-evaluation-harness through our class: the figures of its own `hf` class, on tasks that lie here."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from linnet import ChatTemplateError, InvalidRequestError, SamplingParams

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"

SHARED = {"dataset_path": "json", "test_split": "test"}
TASKS: dict[str, dict[str, Any]] = {
    "birds_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "birds_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "birds_generation": {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", ", so"], "max_gen_toks": 40},
        "metric_list": [{"metric": "exact_match"}],
    },
}
WORDS = "the capital of Italy is Rome and one bird sings 12 + 7 = 19 .".split()


def rows() -> dict[str, list[dict[str, Any]]]:
    draw = random.Random(1)
    cities = ["Rome", "Paris", "Berlin", "Madrid and more"]
    countries = enumerate(("Italy", "France", "Spain"))
    choice: list[dict[str, Any]] = [{"question": f"The capital of {name} is ", "choices": cities, "answer": i} for i, name in countries]
    choice.append({"question": "", "choices": ["One", "Two"], "answer": 0})
    rolling = [{"text": " ".join(draw.choices(WORDS, k=count))} for count in (1, 30, 700)]  # the last in several windows
    prompts = [f"<|user|>What is {a} + {b}?<|assistant|>" for a, b in ((12, 7), (3, 50), (41, 41))]
    generation = [{"prompt": prompt, "answer": "2 + 7 = 9, 1 + 0 = 1"} for prompt in [*prompts, "Once upon a time"]]
    generation.append({"prompt": " ".join(draw.choices(WORDS, k=600)), "answer": ""})  # loses its beginning
    return {"birds_choice": choice, "birds_rolling": rolling, "birds_generation": generation}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tasks")
    for name, lines in rows().items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines))
        task = {"task": name, **SHARED, "dataset_kwargs": {"data_files": {"test": str(data)}}, **TASKS[name]}
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


def run(model: Any, folder: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Figures by task, and what was answered."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0, log_samples=True)
    figures = {name: {key: value for key, value in found["results"][name].items() if isinstance(value, float)} for name in TASKS}
    return figures, {name: [sample["filtered_resps"] for sample in found["samples"][name]] for name in TASKS}


def test_all_kinds_of_tasks_are_as_through_hf(tasks: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    from linnet.compat.lm_eval import LinnetLM

    ours, our_answers = run(LinnetLM(str(TINY), batch_size=4, max_length=512, weights="f32", kv_dtype="f32", threads=1), tasks)
    theirs, their_answers = run(HFLM(pretrained=str(TINY), dtype="float32", device="cpu", batch_size=4, max_length=512), tasks)
    assert ours["birds_choice"] == theirs["birds_choice"]
    assert ours["birds_generation"] == theirs["birds_generation"]
    assert 0 < ours["birds_generation"]["exact_match,none"] < 1
    assert ours["birds_rolling"] == pytest.approx(theirs["birds_rolling"], rel=1e-4)
    assert our_answers["birds_generation"] == their_answers["birds_generation"]
    for found, expected in zip(our_answers["birds_choice"], their_answers["birds_choice"], strict=True):
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], rel=1e-4, abs=1e-5)


TEXTS = ["One bird", " sings", "<|system|>One", "<|user|>What is 1 + 2?<|assistant|>", "naïve 🐦", ""]
CHAT = [{"role": "user", "content": "What is 1 + 2?"}, {"role": "assistant", "content": "so 1 "}]
TRIMMING = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}|{% endfor %}"


@pytest.mark.parametrize(("begins", "template"), [(False, None), (True, TRIMMING), (True, NO_SYSTEM)])
def test_tokens_and_chats_are_those_of_hf(tmp_path: Path, begins: bool, template: str | None) -> None:
    """Texts begin with a token or not; templates keep white space, trim it, or refuse system messages."""
    from lm_eval.models.huggingface import HFLM

    from linnet.compat.lm_eval import LinnetLM

    folder = shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("*.py", "*.md", "*.txt", "__pycache__"))
    if begins:
        tokenizer, config = (json.loads((folder / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
        tokenizer["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<|system|>", "type_id": 0}})
        tokenizer["post_processor"]["special_tokens"] = {"<|system|>": {"id": "<|system|>", "ids": [3], "tokens": ["<|system|>"]}}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": "<|system|>"}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    ours, theirs = LinnetLM(str(folder), threads=1), HFLM(pretrained=str(folder), dtype="float32", device="cpu")
    assert ours.prefix_token_id == theirs.prefix_token_id
    assert ours.eot_token_id == theirs.eot_token_id
    for text in TEXTS:
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert ours.tok_encode(text, add_special_tokens=False) == theirs.tok_encode(text, add_special_tokens=False)
    assert ours._encode_pair("One bird ", "sings") == theirs._encode_pair("One bird ", "sings")
    for chat in (CHAT[:1], [{"role": "system", "content": "Be brief."}, *CHAT[:1]]):
        assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)
    assert ours.apply_chat_template(CHAT, False) == theirs.apply_chat_template(CHAT, False)
    assert ours.chat_template(True) == theirs.chat_template(True)


def sentencepiece_model(folder: Path) -> Path:
    """Random weights, and a tokenizer of words that bring the space before them, as Llama's."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *"▁abcdefgh", *(f"▁{letter}" for letter in "abcdefgh")]
    merges = [("▁", letter) for letter in "abcdefgh"]
    peer = Tokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True))
    peer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    peer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    peer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=peer, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(2)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(pieces)}
    model = LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=1, eos_token_id=2, initializer_range=0.5, max_position_embeddings=64))
    model.save_pretrained(folder)
    return folder


def test_answers_whose_first_token_brings_a_space_are_those_of_hf(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from linnet.compat.lm_eval import LinnetLM

    folder = str(sentencepiece_model(tmp_path))
    ours = LinnetLM(folder, weights="f32", kv_dtype="f32", threads=1)
    theirs = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=1)
    asked = [(f"{a} b {b}", {"until": ["ab"], "max_gen_toks": 6}) for a in "abcd" for b in "efgh"]
    instances = [Instance("generate_until", {}, arguments, index) for index, arguments in enumerate(asked)]
    said = ours.generate_until(instances, disable_tqdm=True)
    assert said == theirs.generate_until(instances, disable_tqdm=True)
    words = ours.llm.generate([text for text, _ in asked], SamplingParams(temperature=0.0, max_tokens=6))
    assert sum(ours.tokenizer.token_bytes(completion.token_ids[0]).startswith(b" ") for completion in words) > 4
    pairs = [Instance("loglikelihood", {}, pair, 0) for pair in (("a b", " c d"), ("", "a"), ("a ", "b"))]
    found, expected = ours.loglikelihood(pairs, disable_tqdm=True), theirs.loglikelihood(pairs, disable_tqdm=True)
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in expected], rel=1e-4)


def test_a_template_that_is_given_is_used() -> None:
    from linnet.compat.lm_eval import LinnetLM

    model = LinnetLM("tiny", chat_template=TRIMMING, threads=1)
    assert model.apply_chat_template(CHAT[:1]) == "[user] What is 1 + 2?\n[assistant]"
    assert model.chat_template(True) == TRIMMING
    with pytest.raises(ChatTemplateError, match="does not write the last message"):
        LinnetLM("tiny", chat_template="{{ messages[0].content }}", threads=1).apply_chat_template(CHAT, False)


@pytest.mark.slow
def test_the_command_line(tasks: Path, tmp_path: Path) -> None:
    flags = ["--model", "linnet", "--model_args", "path=tiny,context=512", "--tasks", "birds_choice", "--include_path", str(tasks)]
    command = [sys.executable, "-m", "linnet.compat.lm_eval", *flags, "--batch_size", "8", "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "birds_choice" in done.stdout
    [results] = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["birds_choice"]["acc,none"] >= 0.5


def test_the_entry_point_names_the_class() -> None:
    from linnet.compat.lm_eval import LinnetLM

    tomllib = pytest.importorskip("tomllib")
    [(name, value)] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"].items()
    assert name == "linnet"
    assert EntryPoint(name, value, "lm_eval.models").load() is LinnetLM


@pytest.mark.parametrize(
    ("given", "params"),
    [
        ({}, SamplingParams(temperature=0.0, max_tokens=99)),
        ({"until": "\n\n", "max_new_tokens": 5}, SamplingParams(temperature=0.0, max_tokens=5, stop=["\n\n"])),
        ({"until": ["a", ""], "do_sample": False, "temperature": 0.7}, SamplingParams(temperature=0.0, max_tokens=99, stop=["a"])),
        ({"do_sample": True, "top_p": 0.9}, SamplingParams(temperature=1.0, max_tokens=99, top_p=0.9)),
        ({"temperature": 0.7, "max_gen_toks": 3, "max_tokens": 8}, SamplingParams(temperature=0.7, max_tokens=3)),
    ],
)
def test_generation_options(given: dict[str, Any], params: SamplingParams) -> None:
    from linnet.compat.lm_eval import sampling_params

    assert sampling_params(given, 99) == params


def test_what_cannot_be_honoured_is_refused() -> None:
    from linnet.compat.lm_eval import LinnetLM, sampling_params

    with pytest.raises(InvalidRequestError, match="there is no option 'penalty_alpha'"):
        sampling_params({"penalty_alpha": 0.6}, 99)
    with pytest.raises(InvalidRequestError, match="there is no option 'pretrained'"):
        LinnetLM("tiny", pretrained="gpt2")
    model = LinnetLM("tiny", max_length=16)
    with pytest.raises(InvalidRequestError, match="item 0: a continuation has 17 tokens; it must have 1 to 16, the context"):
        model._loglikelihood_tokens([(("", ""), [5], [6] * 17)], disable_tqdm=True)
