"""How `backend="transformers"` takes requests, refuses them, fails and ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

import linnet
from linnet import (
    LLM,
    CancelledError,
    ClosedError,
    ContextLengthError,
    DeadlineError,
    InvalidRequestError,
    OutOfMemoryError,
    QueueFullError,
    SamplingParams,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
PROMPT = [9, 20, 31]


@pytest.fixture(scope="module")
def t5(folders):
    with LLM(folders("t5"), backend="transformers", max_batch=4) as llm:
        yield llm


@pytest.fixture(scope="module")
def gpt2(folders):
    with LLM(folders("gpt2"), backend="transformers", max_batch=4) as llm:
        yield llm


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"choose": np.argmax},
        {"regex": "a+"},
        {"json_object": True},
        {"json_schema": {"type": "object"}},
        {"choice": ["a", "b"]},
        {"grammar": 'start: "a"'},
        {"speculation": "lookup"},
        {"n": 5},
        {"num_beams": 5},
        {"prompt_logprobs": 1},
        {"max_tokens": 0},
        {"stop": "a", "num_beams": 2},
        {"logprobs": 1, "num_beams": 2},
        {"logits_processor": np.asarray, "num_beams": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_transformers_has_not_is_refused_by_name(t5, options):
    name = next(iter(options))
    with pytest.raises(InvalidRequestError, match="cannot be scored" if name in ("prompt_logprobs", "max_tokens") else f"^{name}"):
        t5.generate(PROMPT, SamplingParams(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"ops": "native"},
        {"weights": "q8_0"},
        {"threads": 2},
        {"kv_dtype": "f32"},
        {"kv_memory": 1},
        {"draft": "tiny"},
        {"low_memory": True},
        {"tp": 2},
        {"overflow": "slide"},
        {"prefill_chunk": 7},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_linnets_own_engine_are_refused_by_name(folders, options):
    with pytest.raises(InvalidRequestError, match=f"^{next(iter(options))} is for Linnet's own engine"):
        LLM(folders("t5"), backend="transformers", **options)


@pytest.mark.parametrize(
    "ask", [lambda m: m.spec, lambda m: m.engine, lambda m: m.session(), lambda m: m.embed("a"), lambda m: m.score("a")]
)
def test_what_only_linnets_own_engine_has_says_so(t5, ask):
    with pytest.raises(InvalidRequestError, match=r"only Linnet's own has this|cannot be scored"):
        ask(t5)


def test_a_decoder_is_scored_as_transformers_does(gpt2, folders):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folders("gpt2")).eval()
    with torch.no_grad():
        logits = theirs(torch.tensor([PROMPT])).logits[0]
    np.testing.assert_allclose(gpt2.logits(PROMPT), logits.numpy(), atol=1e-5)
    wanted = torch.log_softmax(logits.double(), -1)
    assert [entry.logprob for entry in gpt2.score(PROMPT)] == pytest.approx([float(wanted[i, PROMPT[i + 1]]) for i in range(2)], abs=1e-5)
    assert [step.chosen.token_id for step in gpt2.trace(PROMPT, params=GREEDY)] == gpt2.generate(PROMPT, GREEDY)[0].token_ids


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [
        ([], InvalidRequestError, "the prompt is empty"),
        ([5, 300], InvalidRequestError, "token id 300 in the prompt is outside the model's 300"),
        ([5] * 96, ContextLengthError, "96 tokens and max_tokens is 6, and the context holds 96"),
        ([{"role": "user", "content": "Hi"}], linnet.ChatTemplateError, "has no chat template"),
    ],
)
def test_bad_prompts_are_refused_before_any_work(gpt2, prompt, error, words):
    before = gpt2.counters().submitted
    with pytest.raises(error, match=words):
        gpt2.generate([prompt], GREEDY)
    assert gpt2.counters().submitted == before


def test_a_chat_goes_by_its_template(folders):
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with LLM(folders("gpt2"), backend="transformers", chat_template=template) as llm:
        answer = llm.chat([{"role": "user", "content": "a linnet"}], GREEDY)
        assert answer.prompt_token_ids == llm.tokenize("a linnet")
        assert "".join(chunk.text for chunk in llm.chat([{"role": "user", "content": "a linnet"}], GREEDY, stream=True)) == answer.text


def test_beams_that_a_call_ends_are_refused(folders):
    template = "{{ tools }}<tool_call>{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with LLM(folders("gpt2"), backend="transformers", chat_template=template) as llm:
        with pytest.raises(InvalidRequestError, match=r"^parallel_tool_calls=False does not go with num_beams"):
            llm.chat([{"role": "user", "content": "a"}], replace(GREEDY, num_beams=2), tools=[tool], parallel_tool_calls=False)
        assert llm.counters().submitted == 0


def test_callables_of_one_request_do_not_touch_another(gpt2):
    def forty_two(tokens, logits):
        assert tokens[: len(PROMPT)] == PROMPT
        logits = np.full_like(logits, -np.inf)
        logits[42] = 0.0
        return logits

    def broken(tokens, logits):
        raise KeyError("mine")

    plain = gpt2.generate(PROMPT, GREEDY)[0].token_ids
    handles = [
        gpt2.submit(PROMPT, SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True, logits_processor=given))
        for given in (forty_two, None, broken, lambda tokens, logits: logits[:3])
    ]
    assert handles[0].result()[0].token_ids == [42] * 6
    assert handles[1].result()[0].token_ids == plain
    with pytest.raises(KeyError, match="mine"):
        handles[2].result()
    with pytest.raises(InvalidRequestError, match=r"logits_processor gave shape \(3,\)"):
        handles[3].result()


class Held:
    """A logits_processor that waits in its first call until it is let go."""

    def __init__(self):
        self.inside, self.release = threading.Event(), threading.Event()

    def __call__(self, tokens, logits):
        self.inside.set()
        assert self.release.wait(60)
        return logits


@pytest.fixture
def busy(folders):
    """(llm, held): an LLM whose engine stands in a step until `held.release` is set."""
    held = Held()
    with LLM(folders("gpt2"), backend="transformers", max_batch=2, max_queue=1) as llm:
        first = llm.submit(PROMPT, SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logits_processor=held))
        assert held.inside.wait(60)
        try:
            yield llm, held, first
        finally:
            held.release.set()


def test_a_callable_that_leaves_the_program_fails_its_batch_and_not_the_engine(gpt2):
    def leave(tokens, logits):
        raise SystemExit

    with pytest.raises(linnet.LinnetError, match="interrupted by SystemExit"):
        gpt2.generate(PROMPT, SamplingParams(max_tokens=3, logits_processor=leave))
    assert len(gpt2.generate(PROMPT, GREEDY)[0].token_ids) == 6


def test_a_request_takes_as_many_rows_as_it_has_beams(folders):
    shapes = []
    with LLM(folders("gpt2"), backend="transformers", max_batch=4) as llm:
        llm._engine._model.model.register_forward_hook(lambda module, args, kwargs, out: shapes.append(len(out.logits)), with_kwargs=True)
        held = Held()
        first = llm.submit(PROMPT, SamplingParams(temperature=0.0, max_tokens=1, logits_processor=held))
        assert held.inside.wait(60)
        handles = [llm.submit(PROMPT, SamplingParams(temperature=0.0, max_tokens=3, num_beams=beams)) for beams in (2, 2, 2)]
        assert llm.counters().waiting == 6
        held.release.set()
        for handle in [first, *handles]:
            handle.result(60)
    assert max(shapes) == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_processor_that_leaves_no_token_fails_its_request_alone(gpt2, temperature, value):
    def spoil(tokens, logits):
        logits[:] = value if len(tokens) > len(PROMPT) else logits  # in place, as the caller may
        return logits

    held = Held()
    first = gpt2.submit(PROMPT, SamplingParams(temperature=0.0, max_tokens=1, logits_processor=held))
    assert held.inside.wait(60)
    spoiled = gpt2.submit(PROMPT, SamplingParams(temperature=temperature, max_tokens=6, n=2, logits_processor=spoil))
    sound = gpt2.submit(PROMPT, GREEDY)  # runs in the same batch
    held.release.set()
    with pytest.raises(InvalidRequestError, match=r"^logits_processor left no token to choose from"):
        spoiled.result(60)
    assert sound.result(60)[0].token_ids == gpt2.generate(PROMPT, GREEDY)[0].token_ids
    first.result(60)


def test_a_processor_is_not_asked_about_samples_that_have_ended(gpt2):
    """As with Linnet's own engine: one that follows a grammar has nothing to say after its end."""
    ends = set(range(0, gpt2._engine._model.vocab_size, 4))

    def until_an_end(tokens, logits):
        assert ends.isdisjoint(tokens[len(PROMPT) :])
        return logits

    params = SamplingParams(max_tokens=20, n=4, seed=3, stop_token_ids=sorted(ends), logits_processor=until_an_end)
    assert len({len(answer.token_ids) for answer in gpt2.generate(PROMPT, params)}) > 1


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {}, {"temperature": 0.0, "num_beams": 2}, {"num_beams": 2}], ids=str)
def test_weights_that_overflow_are_named(folders, options):
    with LLM(folders("gpt2"), backend="transformers", max_batch=4) as llm:
        with torch.no_grad():
            next(llm._engine._model.model.parameters()).fill_(torch.inf)
        with pytest.raises(linnet.LinnetError, match="weights hold infinities or NaN"):
            llm.generate(PROMPT, SamplingParams(max_tokens=3, **options))


def test_a_full_queue_says_so_and_cancelling_makes_room(busy):
    llm, held, first = busy
    second = llm.submit(PROMPT, GREEDY)
    third = llm.submit(PROMPT, GREEDY)
    with pytest.raises(QueueFullError, match="3 requests run or wait"):
        llm.submit(PROMPT, GREEDY)
    assert (llm.counters().running, llm.counters().waiting) == (1, 2)
    second.cancel()
    assert llm.counters().waiting == 1
    first.cancel()
    held.release.set()
    assert len(third.result()[0].token_ids) == 6
    with pytest.raises(CancelledError):
        first.result()
    assert llm.counters().outcomes["cancelled"] == 2


def test_a_request_whose_time_is_over_fails_alone(busy):
    llm, held, first = busy
    late = llm.submit(PROMPT, SamplingParams(temperature=0.0, max_tokens=6, timeout=0.0))
    held.release.set()
    with pytest.raises(DeadlineError):
        late.result()
    assert len(first.result()[0].token_ids) == 40


def test_coroutines_and_priorities(busy):
    llm, held, _ = busy
    order = []

    async def follow(name, priority):
        async for _ in llm.submit(
            PROMPT, SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True, priority=priority, logit_bias={name: 1.0})
        ):
            pass
        order.append(name)

    async def all_of_them():
        late, soon = asyncio.create_task(follow(1, 0)), asyncio.create_task(follow(2, -5))
        await asyncio.sleep(0)
        held.release.set()
        await asyncio.gather(late, soon)

    asyncio.run(all_of_them())
    assert order == [2, 1]
    assert llm.drain()
    with pytest.raises(ClosedError, match="being shut down"):
        llm.submit(PROMPT, GREEDY)


def test_closing_fails_what_runs_and_lets_the_model_go(folders):
    held = Held()
    llm = LLM(folders("gpt2"), backend="transformers")
    model = weakref.ref(llm._engine._model.model)
    running = llm.submit(PROMPT, SamplingParams(max_tokens=40, ignore_eos=True, logits_processor=held))
    assert held.inside.wait(60)
    threading.Timer(0.05, held.release.set).start()
    llm.close()
    llm.close()
    with pytest.raises(ClosedError):
        running.result()
    with pytest.raises(ClosedError):
        llm.generate(PROMPT, GREEDY)
    gc.collect()
    assert model() is None


def test_memory_that_runs_out_in_a_step_fails_its_request_and_no_other(gpt2, monkeypatch):
    model = gpt2._engine._model.model
    forward = model.transformer.forward
    for error in (MemoryError("Unable to allocate 9 GiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")):

        def failing(*args, error=error, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(model.transformer, "forward", failing)
            with pytest.raises(OutOfMemoryError, match=r"memory ran out in a step \(.*allocate.*\), with \d+ bytes .* lower max_tokens"):
                gpt2.generate(PROMPT, GREEDY)
        assert model.transformer.forward == forward
        assert len(gpt2.generate(PROMPT, GREEDY)[0].token_ids) == 6
