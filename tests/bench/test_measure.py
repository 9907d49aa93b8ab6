"""Cases through the engine, and the figures that are made of the times of their tokens. No test looks at how fast anything was."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from linnet import LLM, InvalidRequestError
from linnet.bench.cases import make_cases, opening_options
from linnet.bench.cost import model_cost
from linnet.bench.machine import Machine, measure, peak_memory, read_bandwidth, reset_peak_memory
from linnet.bench.measure import figures, run_cases, work
from linnet.bench.plan import prepare
from linnet.load.checkpoint import open_checkpoint

RECORD = {  # as the design page lists them, and more
    *("batch_size", "input_len", "output_len", "kv_cache_bytes", "prompt_tokens_per_s", "generated_tokens_per_s", "first_token_s"),
    *("inter_token_p50_s", "inter_token_p95_s", "peak_memory_bytes"),
    *("read_bandwidth_share", "prompt_multiply_adds_per_s", "arithmetic_share", "error"),
}


def test_figures_of_one_request():
    found = figures(np.array([[0.5, 0.6, 0.7, 0.9]]), input_len=10)
    assert found["prompt_tokens_per_s"] == pytest.approx(10 / 0.5)
    assert found["first_token_s"] == 0.5
    assert found["generated_tokens_per_s"] == pytest.approx(3 / 0.4)
    assert found["inter_token_p50_s"] == pytest.approx(0.1)
    assert found["inter_token_p95_s"] == pytest.approx(np.percentile([0.1, 0.1, 0.2], 95))


def test_generated_figures_are_of_the_steps_in_which_every_request_generates():
    """Prompts of three requests take a step of 1 s each, later steps 0.1 s: the first request is two tokens ahead, and ends so."""
    steps = [1, 2, 3, 3.1, 3.2, 3.3, 3.4, 3.5]
    came = np.array([steps[0:6], steps[1:7], steps[2:8]], float) + np.array([[0.0], [0.001], [0.002]])
    found = figures(came, input_len=100)
    assert found["prompt_tokens_per_s"] == pytest.approx(300 / 3.002)
    assert found["first_token_s"] == pytest.approx(2.001)
    assert found["generated_tokens_per_s"] == pytest.approx(3 * 3 / 0.3)  # steps 3.1 to 3.3
    assert found["inter_token_p95_s"] == pytest.approx(0.1)


def test_figures_where_no_step_has_every_request():
    came = np.array([[1, 2], [2, 3], [3, 3.5]], float)
    found = figures(came, input_len=1)
    assert found["generated_tokens_per_s"] == pytest.approx(1 / 0.5)
    assert found["inter_token_p50_s"] == pytest.approx(0.5)


def test_one_token_has_no_generated_figures():
    found = figures(np.array([[1.0], [2.0]]), input_len=4)
    assert found["prompt_tokens_per_s"] == 4
    assert [name for name, value in found.items() if value is None] == [
        "generated_tokens_per_s",
        "inter_token_p50_s",
        "inter_token_p95_s",
    ]


@pytest.fixture(scope="module")
def plan():
    plan = prepare("tiny", (3, 1), (40, 8), (1, 12), threads=1)
    with LLM.from_checkpoint(plan.checkpoint, **plan.options) as llm:
        yield llm, plan


def test_cases_run_in_the_order_given_and_come_as_they_are_done(plan):
    llm, plan = plan
    done = []
    results = run_cases(llm, plan.cases, repeat=2, cost=plan.cost, machine=Machine(1, "avx2", 1e10, 1e11, 1e10), advance=done.append)
    assert not done
    first = next(results)
    assert sum(done) == work(plan.cases[0], 2)
    every = [first, *results]
    assert [result.case for result in every] == plan.cases
    assert sum(done) == sum(work(case, 2) for case in plan.cases)
    assert llm.engine.pool.free_count == llm.engine.pool.count
    for result in every:
        assert result.error is None
        record = result.record()
        assert set(record) == RECORD
        assert json.loads(json.dumps(record)) == record
        generates = {"generated_tokens_per_s", "inter_token_p50_s", "inter_token_p95_s", "read_bandwidth_share"}
        absent = {name for name, value in record.items() if value is None} - {"error"}
        assert absent == (generates if result.case.output_len == 1 else set())
        assert all(record[name] > 0 for name in RECORD - absent - {"error"})
        if result.case.output_len > 1:
            assert result.inter_token_p50_s <= result.inter_token_p95_s


def test_every_request_gets_its_tokens_whatever_ends_the_models_answers(plan, monkeypatch):
    llm, plan = plan
    seen = []
    submit = llm.engine.submit
    monkeypatch.setattr(llm.engine, "submit", lambda request: (seen.append(request), submit(request)))
    case = next(case for case in plan.cases if case.batch_size == 3 and case.output_len == 12)
    list(run_cases(llm, [case], repeat=2))
    assert [len(sequence.tokens) for request in seen for sequence in request.sequences] == [case.input_len + 8] * 3 + [
        case.input_len + 12
    ] * 6
    assert len({tuple(request.prompt) for request in seen}) == 9  # none the same: a cache of prefixes would find nothing


def test_running_out_of_memory_costs_that_case_alone(plan, monkeypatch):
    llm, plan = plan
    submit = llm.engine.submit

    def fail_for_three(request):
        if len(request.prompt) == 40:
            raise MemoryError("no room")
        submit(request)

    monkeypatch.setattr(llm.engine, "submit", fail_for_three)
    for result in run_cases(llm, plan.cases, repeat=1):
        assert result.error == ("out of memory: no room" if result.case.input_len == 40 else None)


def test_a_smaller_llm_is_refused_before_anything_runs(plan):
    llm, plan = plan
    larger = make_cases(llm.spec, "f16", [4], [8], [8])
    with pytest.raises(InvalidRequestError, match=r"batch 4, input 8.*max_batch"):
        run_cases(llm, [*plan.cases, *larger])
    with pytest.raises(InvalidRequestError, match="repeat is 0"):
        run_cases(llm, plan.cases, repeat=0)


def test_opening_options_hold_every_case_and_no_more(plan):
    llm, plan = plan
    assert opening_options(llm.spec, "f16", plan.cases) == {
        "context": 52,
        "max_batch": 3,
        "kv_memory": plan.cases[-1].kv_cache_bytes,
        "prefix_cache": False,
    }
    assert (llm.engine.pool.count,) == plan.cases[-1].pages


def test_bytes_of_a_step_are_those_of_the_file():
    from safetensors.numpy import load_file

    checkpoint = open_checkpoint("tiny")
    cost = model_cost(checkpoint, "f16")
    matrices = [values for values in load_file(checkpoint.path / "model.safetensors").values() if values.ndim == 2]
    assert cost.weight_bytes == cost.step_bytes == sum(values.nbytes for values in matrices)  # tied: the embedding is read too
    assert cost.layer_multiply_adds + cost.output_multiply_adds == sum(values.size for values in matrices)
    (case,) = make_cases(checkpoint.spec, "f16", [2], [100], [20])
    assert cost.generated_step_bytes(case) == cost.step_bytes + 2 * 110 * 4 * 2 * 128 * 2
    (one,) = make_cases(checkpoint.spec, "f16", [1], [1], [1])
    attended = sum(2 * 8 * 32 for _ in checkpoint.spec.layers)
    assert cost.prompt_multiply_adds(one.input_len) == sum(values.size for values in matrices) + attended
    checkpoint.close()


def test_multiply_adds_of_tinyllama_are_those_of_the_design_page(tmp_path):
    """0.97 G a prompt token, 1.03 G a decoded one; and the parameters that its publishers count: 1,100,048,384."""
    config = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
    config |= {"num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    cost = prepare(tmp_path, [1], [8], [8], skip_load=True, weights="q4_0").cost
    assert round(cost.layer_multiply_adds / 1e9, 2) == 0.97
    assert round((cost.layer_multiply_adds + cost.output_multiply_adds) / 1e9, 2) == 1.03
    parameters = cost.weight_bytes * 32 // 18
    assert parameters + 45 * 2048 == 1_100_048_384  # 45 norms


def test_the_machine_is_measured():
    assert read_bandwidth(2, nbytes=2**22) > 0
    machine = measure(1)
    assert (machine.integer_peak > machine.float_peak > 1e8) or machine.isa == "scalar"
    reset_peak_memory()
    before = peak_memory()
    data = np.ones(2**23)
    assert peak_memory() >= before + data.nbytes // 2
    del data
    reset_peak_memory()
    assert peak_memory() < before + 2**25


def test_results_are_plain_data(plan):
    llm, plan = plan
    (result,) = run_cases(llm, plan.cases[:1], repeat=1)
    assert result.read_bandwidth_share is None
    assert result.prompt_multiply_adds_per_s is None
    assert {**asdict(result.case), **result.record()}["batch_size"] == 1
