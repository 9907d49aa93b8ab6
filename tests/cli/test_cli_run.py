"""`linnet run` on the built-in model: what is printed, where, and that it is what the library answers."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from linnet import LLM, SamplingParams
from linnet.cli.run import _record
from linnet.engine.sampling import TokenLogprob

QUESTION = "What is 17 + 25?"
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def llm():
    with LLM("tiny") as llm:
        yield llm


def test_answers_on_stdout_and_reports_on_stderr(linnet):
    done = linnet("run", "tiny", QUESTION)
    assert done.returncode == 0
    assert done.stdout.endswith("17 + 25 = 42\n")
    assert re.fullmatch(r"12 prompt tokens, first token after \d+\.\d+ s, 34 tokens at \d+\.\d tokens/s\n", done.stderr)
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("dash", [(), ("-",)])
def test_prompt_from_standard_input_less_one_line_end(linnet, llm, dash):
    for text, meant in ((QUESTION + "\n", QUESTION), (QUESTION + "\r\n", QUESTION), (QUESTION + "\n\n", QUESTION + "\n")):
        expected = llm.chat([{"role": "user", "content": meant}], GREEDY)
        record = json.loads(linnet("run", "tiny", *dash, "--json", stdin=text).stdout)
        assert record["token_ids"] == expected.token_ids
        assert record["usage"]["prompt_tokens"] == expected.usage.prompt_tokens


def test_json_is_one_object_that_agrees_with_the_library(linnet, llm):
    done = linnet("run", "tiny", QUESTION, "--json", "--temperature", "0.8", "--seed", "7", "--logprobs", "2")
    record = json.loads(done.stdout)
    messages = [{"role": "user", "content": QUESTION}]
    expected = llm.chat(messages, SamplingParams(temperature=0.8, seed=7, logprobs=2))
    assert set(record) == {"model", "text", "token_ids", "finish_reason", "usage", "timings", "seed", "logprobs"}
    assert record["model"] == "tiny"
    assert (record["text"], record["token_ids"], record["finish_reason"]) == (expected.text, expected.token_ids, "stop")
    guessed = record["usage"].pop("accepted_tokens"), record["usage"].pop("drafted_tokens")  # these depend on the times of steps
    assert 0 <= guessed[0] <= guessed[1]
    assert record["usage"] == {
        "prompt_tokens": 12,
        "completion_tokens": len(expected.token_ids),
        "total_tokens": 12 + len(expected.token_ids),
        "cached_tokens": 0,
    }
    assert set(record["timings"]) == {"load_s", "first_token_s", "total_s", "tokens_per_s"}
    assert 0 < record["timings"]["first_token_s"] <= record["timings"]["total_s"]
    assert record["seed"] == 7
    assert [entry["logprob"] for entry in record["logprobs"]] == [entry.logprob for entry in expected.logprobs]


def test_json_reports_a_seed_that_reproduces_the_answer(linnet):
    first = json.loads(linnet("run", "tiny", "hello", "--json", "--temperature", "2").stdout)
    again = json.loads(linnet("run", "tiny", "hello", "--json", "--temperature", "2", "--seed", str(first["seed"])).stdout)
    assert again["token_ids"] == first["token_ids"]


def test_several_samples(linnet, llm):
    params = SamplingParams(temperature=1.5, seed=3, n=3, max_tokens=20)
    expected = [c.text for c in llm.generate([[{"role": "user", "content": "hello"}]], params)]
    assert len(set(expected)) == 3
    flags = ("--n", "3", "--temperature", "1.5", "--seed", "3", "--max-tokens", "20")
    shown = linnet("run", "tiny", "hello", *flags).stdout
    assert shown == "".join(f"[{i}/3]\n{text}\n" for i, text in enumerate(expected, 1))
    record = json.loads(linnet("run", "tiny", "hello", "--json", *flags).stdout)
    assert [choice["text"] for choice in record["choices"]] == expected
    assert [choice["index"] for choice in record["choices"]] == [0, 1, 2]
    assert record["text"] == expected[0]


def test_flags_reach_the_sampler(linnet, llm):
    """One case for each kind of flag: texts, ids, biases, switches; each changes the answer as it does in the library."""
    plain = llm.chat([{"role": "user", "content": QUESTION}], GREEDY)
    first = plain.token_ids[0]
    cases = [
        (("--stop", "12", "--stop", "= 4"), {"stop": ["12", "= 4"]}),
        (("--stop-token-ids", str(plain.token_ids[5])), {"stop_token_ids": [plain.token_ids[5]]}),
        (("--logit-bias", f"{first}=-100", "--logit-bias", "42=1.5"), {"logit_bias": {first: -100.0, 42: 1.5}}),
        (("--ignore-eos", "--max-tokens", "60"), {"ignore_eos": True, "max_tokens": 60}),
        (("--repetition-penalty", "3"), {"repetition_penalty": 3.0}),
    ]
    for flags, options in cases:
        expected = llm.chat([{"role": "user", "content": QUESTION}], SamplingParams(temperature=0.0, **options))
        assert expected.token_ids != plain.token_ids
        assert json.loads(linnet("run", "tiny", QUESTION, "--json", *flags).stdout)["token_ids"] == expected.token_ids


def test_model_flags_reach_the_model(linnet):
    flags = ("--ops", "reference", "--weights", "q8_0", "--kv-dtype", "f32", "--context", "50")
    done = linnet("--log-level", "debug", "run", "tiny", QUESTION, *flags)
    assert done.stdout.endswith("17 + 25 = 42\n")
    assert "(f32), " in done.stderr
    assert "; context 50" in done.stderr
    assert "reference ops" in done.stderr


def test_raw_and_system(linnet, llm):
    raw = json.loads(linnet("run", "tiny", "Once upon", "--raw", "--json", "--max-tokens", "12").stdout)
    assert raw["token_ids"] == llm.generate("Once upon", SamplingParams(temperature=0.0, max_tokens=12))[0].token_ids
    system = json.loads(linnet("run", "tiny", QUESTION, "--system", "Be brief.", "--json").stdout)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    assert system["token_ids"] == llm.chat(messages, GREEDY).token_ids


def test_no_tokens_scores_the_prompt(linnet, llm):
    total = sum(entry.logprob for entry in llm.score("Once upon a time"))
    done = linnet("run", "tiny", "Once upon a time", "--raw", "--max-tokens", "0")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"log-probability {total:.3f}" in done.stderr
    record = json.loads(linnet("run", "tiny", "Once upon a time", "--raw", "--max-tokens", "0", "--json").stdout)
    assert sum(entry["logprob"] for entry in record["prompt_logprobs"] if entry) == pytest.approx(total, abs=1e-9)


def test_without_a_chat_template_it_completes_and_says_so(linnet, llm, tiny_copy: Path):
    (tiny_copy / "chat_template.jinja").rename(tiny_copy.parent / "template.jinja")
    done = linnet("run", tiny_copy, "Once upon", "--max-tokens", "12")
    assert done.stdout == llm.generate("Once upon", SamplingParams(temperature=0.0, max_tokens=12))[0].text + "\n"
    assert "has no chat template" in done.stderr.splitlines()[0]
    assert "--chat-template FILE" in done.stderr.splitlines()[0]
    given = linnet("run", tiny_copy, QUESTION, "--chat-template", "template.jinja")
    assert given.stdout.endswith("17 + 25 = 42\n")
    refused = linnet("run", tiny_copy, QUESTION, "--system", "Be brief.")
    assert refused.returncode == 2
    assert "--chat-template FILE" in refused.stderr


def test_what_the_model_advises_is_followed_unless_overruled(linnet, llm, tiny_copy: Path):
    advice = {"do_sample": True, "temperature": 1.7, "top_k": 40, "eos_token_id": 4}
    (tiny_copy / "generation_config.json").write_text(json.dumps(advice))
    messages = [{"role": "user", "content": "hello"}]
    followed = json.loads(linnet("run", tiny_copy, "hello", "--json", "--seed", "5").stdout)
    assert followed["token_ids"] == llm.chat(messages, SamplingParams(temperature=1.7, top_k=40, seed=5)).token_ids
    overruled = json.loads(linnet("run", tiny_copy, "hello", "--json", "--temperature", "0").stdout)
    assert overruled["token_ids"] == llm.chat(messages, GREEDY).token_ids


def test_streams_and_ctrl_c_ends_the_answer(command, env, llm):
    """The first text comes while the answer is being made, and what came before Ctrl-C stays."""
    whole = llm.chat([{"role": "user", "content": "hello"}], SamplingParams(temperature=0.0, ignore_eos=True)).text
    arguments = [*command, "run", "tiny", "hello", "--ignore-eos"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        begun = os.read(process.stdout.fileno(), 65536)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    shown = (begun + rest).decode()
    assert process.returncode == 130
    assert 0 < len(shown.rstrip("\n")) < len(whole) / 2
    assert whole.startswith(shown.rstrip("\n"))
    assert b"Traceback" not in errors


def test_a_reader_that_goes_away_ends_it_quietly(command, env):
    arguments = [*command, "run", "tiny", "hello", "--ignore-eos"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        os.read(process.stdout.fileno(), 4)
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (1, b"")


def test_beams_come_at_the_end_best_first(linnet, llm):
    expected = llm.generate([[{"role": "user", "content": QUESTION}]], SamplingParams(temperature=0.0, num_beams=3, n=2))
    record = json.loads(linnet("run", "tiny", QUESTION, "--num-beams", "3", "--n", "2", "--early-stopping", "false", "--json").stdout)
    assert [choice["token_ids"] for choice in record["choices"]] == [answer.token_ids for answer in expected]
    assert record["beam_score"] == expected[0].beam_score
    shown = linnet("run", "tiny", QUESTION, "--num-beams", "3", "--n", "2").stdout
    assert shown == f"[1/2]\n{expected[0].text}\n[2/2]\n{expected[1].text}\n"
    more = linnet("run", "tiny", QUESTION, "--num-beams", "20", "--max-tokens", "2")  # than a batch has unless told
    assert (more.returncode, more.stdout) == (0, "7 +\n")
    refused = linnet("run", "tiny", QUESTION, "--num-beams", "3", "--early-stopping", "soon")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "early_stopping is 'soon'; it must be one of False, True, never" in refused.stderr


def test_layers_off_the_device(linnet):
    done = linnet("run", "tiny", QUESTION, "--ops", "torch", "--offload", "2")
    assert done.stdout.endswith("17 + 25 = 42\n")
    for flags, message in (
        (("--ops", "torch", "--offload", "9"), "offload is 9, and the model has 4 layers"),
        (("--compile",), "compile is"),
    ):
        refused = linnet("run", "tiny", QUESTION, *flags)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_the_log_probability_of_an_impossible_token_is_null_in_json(llm):
    impossible = TokenLogprob(5, -math.inf, 0.5, ((7, -0.25), (5, -math.inf)))
    [completion] = llm.generate("hi", SamplingParams(temperature=0.0, max_tokens=1))
    record = _record("m", [replace(completion, logprobs=[impossible], prompt_logprobs=[None, impossible])], 0.0)
    entry = {"token_id": 5, "logprob": None, "entropy": 0.5, "top": ((7, -0.25), (5, None))}
    assert record["logprobs"] == [entry]
    assert record["prompt_logprobs"] == [None, entry]
