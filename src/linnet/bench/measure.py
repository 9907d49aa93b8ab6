"""Runs cases through the engine as real requests, and makes figures of the times at which their tokens came."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from operator import gt
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linnet.bench.cases import Case
from linnet.bench.cost import Cost
from linnet.bench.device import peak_memory, reset_peak_memory
from linnet.bench.machine import Machine
from linnet.engine.params import SamplingParams
from linnet.engine.request import Request
from linnet.errors import InvalidRequestError
from linnet.llm import LLM

WARM_UP_TOKENS = 8
"""Most tokens that the unmeasured first run of a case generates."""
MAX_REPEAT = 1000

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Result:
    """A case and its figures, each the median of the repeats; or why it did not run, and figures that are None.

    prompt_tokens_per_s: all prompts, over the time until the last of them has its first token. first_token_s: from
    submission to a request's first token, the median request. The others are of the steps after that, while every request
    generates (where short answers leave no such step: while any does; None for answers of one token):
    generated_tokens_per_s of all requests together, inter_token_p50_s and inter_token_p95_s of every request's tokens.
    peak_memory_bytes: resident memory, mapped weights included; of a device, what its tensors took. read_bandwidth_share: bytes read in
    generating, of what memory gave when it was probed. prompt_multiply_adds_per_s: done for the prompts. arithmetic_share: the least time
    that these can take, at the peaks that were probed, of the time they took.
    """

    case: Case
    prompt_tokens_per_s: float | None = None
    generated_tokens_per_s: float | None = None
    first_token_s: float | None = None
    inter_token_p50_s: float | None = None
    inter_token_p95_s: float | None = None
    peak_memory_bytes: int | None = None
    read_bandwidth_share: float | None = None
    prompt_multiply_adds_per_s: float | None = None
    arithmetic_share: float | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """The result as a flat object of JSON."""
        figures = asdict(self)
        case = figures.pop("case")
        case.pop("pages")
        return {**case, **figures}


def refuse(cases: Sequence[Case], available: int) -> list[Result]:
    """Results of the cases whose KV cache takes more than `available` bytes."""
    return [
        Result(case, error=f"its KV cache takes {case.kv_cache_bytes} bytes and {available} are available for it")
        for case in cases
        if case.kv_cache_bytes > available
    ]


def work(case: Case, repeat: int) -> int:
    """How many tokens `run_cases` will report of a case: prompts and answers of every run."""
    return case.batch_size * (repeat * (case.input_len + case.output_len) + case.input_len + min(case.output_len, WARM_UP_TOKENS))


def run_cases(
    llm: LLM,
    cases: Sequence[Case],
    *,
    repeat: int = 3,
    cost: Cost | None = None,
    machine: Machine | None = None,
    advance: Advance = lambda tokens: None,
) -> Generator[Result, None, None]:
    """Runs each case once unmeasured and `repeat` times measured, in the order given; a result as soon as there is one.

    Prompts are random token ids, new ones for every run; answers are greedy and go past end tokens. `opening_options` are
    what to open `llm` with. cost, machine: what shares are taken of; without them these are None. advance:
    called with the number of tokens done. A case that runs out of memory has that as its `error`, and the next one runs. Raises
    InvalidRequestError, before any runs, where `llm` was opened for smaller batches.
    """
    if not 1 <= repeat <= MAX_REPEAT:
        raise InvalidRequestError(f"repeat is {repeat}; it must be between 1 and {MAX_REPEAT}")
    most, pages = llm.engine.max_batch, [group.count for group in llm.engine.pool.groups]
    for case in cases:
        if case.batch_size > most or any(map(gt, case.pages, pages)):
            raise InvalidRequestError(
                f"{case}: needs room for {case.batch_size} requests and {sum(case.pages)} KV pages at once, and the LLM was opened with "
                f"{most} and {sum(pages)}; open it with a larger max_batch or kv_memory"
            )
    return (_run_case(llm, case, repeat, cost, machine, advance) for case in cases)


def _run_case(llm: LLM, case: Case, repeat: int, cost: Cost | None, machine: Machine | None, advance: Advance) -> Result:
    random = np.random.default_rng((case.batch_size, case.input_len, case.output_len))
    device = None if machine is None else machine.device
    reset_peak_memory(device)
    try:
        _run(llm, case, random, min(case.output_len, WARM_UP_TOKENS), advance)
        runs = [_run(llm, case, random, case.output_len, advance) for _ in range(repeat)]
    except MemoryError as error:
        return Result(case, error=f"out of memory: {error}")
    medians = {name: _median([run[name] for run in runs]) for name in runs[0]}
    prompt_rate, rate = medians["prompt_tokens_per_s"], medians["generated_tokens_per_s"]
    read = done = busy = None
    if cost is not None and machine is not None and rate is not None:
        read = cost.generated_step_bytes(case) * rate / case.batch_size / machine.read_bandwidth
    if cost is not None and prompt_rate is not None:
        done = cost.prompt_multiply_adds(case.input_len) * prompt_rate
        least = None if machine is None else cost.prompt_seconds(case.input_len, machine)
        busy = None if least is None else least * prompt_rate
    return Result(
        case,
        prompt_tokens_per_s=prompt_rate,
        generated_tokens_per_s=rate,
        first_token_s=medians["first_token_s"],
        inter_token_p50_s=medians["inter_token_p50_s"],
        inter_token_p95_s=medians["inter_token_p95_s"],
        peak_memory_bytes=peak_memory(device),
        read_bandwidth_share=read,
        prompt_multiply_adds_per_s=done,
        arithmetic_share=busy,
    )


def _run(llm: LLM, case: Case, random: np.random.Generator, output_len: int, advance: Advance) -> dict[str, float | None]:
    """The figures of one run."""
    params = SamplingParams(max_tokens=output_len, temperature=0.0, ignore_eos=True, speculation="off")
    prompts = random.integers(0, llm.spec.vocab_size, (case.batch_size, case.input_len)).tolist()
    requests = [Request(prompt, params, seed=0) for prompt in prompts]
    came: list[list[float]] = [[] for _ in requests]
    try:
        for request in requests:
            llm.engine.submit(request)
        for index in reversed(range(len(requests))):  # the last of them runs to the end of all, so its tokens tell how far they are
            for output in llm.engine.outputs(requests[index]):
                came[index].append(output.at)
                if index == len(requests) - 1:
                    advance(case.batch_size * (1 if len(came[index]) > 1 else case.input_len + 1))
    finally:
        for request in requests:
            llm.engine.cancel(request)
    return figures(np.array(came) - requests[0].submitted_at, case.input_len)


def figures(came: NDArray[np.float64], input_len: int) -> dict[str, float | None]:
    """Figures from times: float64 [requests, tokens], the seconds after submission at which the tokens of each request came."""
    prompts_s = came[:, 0].max()
    last = came[came[:, 0].argmax()]
    later = came > prompts_s  # of the request that started last: all but its first token
    steps = int(later.sum(axis=1).min()) or len(last) - 1
    ended_s = last[steps] if steps else prompts_s
    counted = later & (came <= ended_s)
    gaps = np.diff(came, axis=1)[counted[:, 1:]]
    return {
        "prompt_tokens_per_s": _rate(len(came) * input_len, prompts_s),
        "generated_tokens_per_s": _rate(int(counted.sum()), ended_s - prompts_s),
        "first_token_s": float(np.median(came[:, 0])),
        "inter_token_p50_s": float(np.percentile(gaps, 50)) if gaps.size else None,
        "inter_token_p95_s": float(np.percentile(gaps, 95)) if gaps.size else None,
    }


def _rate(count: int, seconds: float) -> float | None:
    return float(count / seconds) if count and seconds > 0 else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
