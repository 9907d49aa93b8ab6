"""Answers that follow a schema, a pattern, choices or a grammar, from a model of random weights: whatever it ends by itself holds."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from json_schemas import UNSUPPORTED, WRITTEN, random_schema, validate
from llm_cases import TINY, pool_is_whole

from linnet import LLM, Completion, InvalidRequestError, LinnetError, SamplingParams, Tokenizer

pytest.importorskip("llguidance", reason="pip install '.[constraints]'")

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 1400,  # the tokenizer has 1,328: the rest is padding
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 4,
    "tie_word_embeddings": False,
}


def random_model(tokenizer: Any = TINY, **options: Any) -> LLM:
    random = np.random.default_rng(0)
    shapes = {"embed_tokens": (1400, 32), "norm": (32,)}
    layer = {"input_layernorm": (32,), "post_attention_layernorm": (32,)}
    layer |= {f"self_attn.{name}_proj": (32, 32) for name in "qkvo"} | {f"mlp.{name}_proj": (32, 32) for name in ("gate", "up", "down")}
    shapes |= {f"layers.0.{name}": shape for name, shape in layer.items()}
    weights = {f"model.{name}.weight": random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    weights["lm_head.weight"] = random.normal(0, 0.3, (1400, 32)).astype(np.float32)
    return LLM.from_state_dict(CONFIG, weights, tokenizer=tokenizer, threads=1, kv_dtype="f32", **options)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with random_model(max_batch=64) as model:
        yield model


@pytest.fixture(scope="module")
def closing(llm: LLM) -> dict[int, float]:
    """A logit_bias towards what ends texts and lists: a random model would otherwise seldom come to an end."""
    assert isinstance(llm.tokenizer, Tokenizer)
    tokens = {token: llm.tokenizer.token_bytes(token) for token in range(llm.tokenizer.vocab_size)}
    return {token: 4.0 if data in (b'"', b"}", b"]") else -4.0 for token, data in tokens.items() if data and data[0] in b'"}]\n \\.[{'}


def ended(llm: LLM, params: list[SamplingParams]) -> list[Completion]:
    """The completions of a random prompt each; most of them must have ended by themselves, or the test would prove nothing."""
    prompts = [Random(index).sample(range(10, 1300), 3) for index in range(len(params))]
    completions = llm.generate(prompts, params)
    assert sum(completion.finish_reason == "stop" for completion in completions) > 0.9 * len(completions)
    assert pool_is_whole(llm)
    return completions


def test_what_ends_satisfies_its_schema(llm: LLM, closing: dict[int, float]) -> None:
    schemas = list(WRITTEN.values())
    params = []
    for seed in range(1000):
        schema = schemas[len(params)] if len(params) < len(schemas) else random_schema(Random(seed))
        try:
            given = SamplingParams(json_schema=schema, max_tokens=300, seed=seed, logit_bias=closing)
            llm._model.grammars.compile(*given.constraint)  # type: ignore[misc]
        except InvalidRequestError as error:  # some random ones contradict themselves
            if len(params) < len(schemas) or not re.search("nsatisfiable|greater than|not kept|only supported when", str(error)):
                raise
            continue
        schemas += [schema] if len(params) == len(schemas) else []
        params.append(given)
        if len(params) == 300:
            break
    for schema, completion in zip(schemas, ended(llm, params), strict=True):
        if completion.finish_reason == "stop":
            validate(schema, completion.text)


@pytest.mark.slow
def test_what_ends_satisfies_many_more_schemas(llm: LLM, closing: dict[int, float]) -> None:
    for seed in range(10_000, 13_000):
        schema = random_schema(Random(seed))
        try:
            completions = llm.generate([[5]], SamplingParams(json_schema=schema, max_tokens=300, seed=seed, logit_bias=closing, n=4))
        except InvalidRequestError:
            continue
        for completion in completions:
            if completion.finish_reason == "stop":
                validate(schema, completion.text)


@pytest.mark.parametrize("keyword", UNSUPPORTED)
def test_a_keyword_that_is_not_kept_is_refused_by_name(llm: LLM, keyword: str) -> None:
    for schema in (UNSUPPORTED[keyword], {"type": "object", "properties": {"a": {"anyOf": [UNSUPPORTED[keyword]]}}}):
        with pytest.raises(InvalidRequestError, match=re.escape(keyword)):
            llm.generate("x", SamplingParams(json_schema=schema))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "format": "credit-card"}, "credit-card"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "integer", "x-guidance": {"lenient": True}}, "x-guidance"),
        ({"type": "integer", "minimun": 3}, "'minimun', which is not supported; did you mean minimum"),
        ({"const": 2**53 + 1}, "9007199254740993, which is not kept exactly"),
        ({"const": 3.83e25}, "3.83e\\+25, which is not kept exactly"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "exclusiveMinimum 0 within 1"),
        ({"type": "number", "minimum": -5.5, "exclusiveMaximum": -5}, "exclusiveMaximum -5 within 1"),
        ({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"maximum": 0.5}]}, "exclusiveMinimum 0 within 1"),
        ({"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 2}, "minProperties 2"),
        ({"type": "array", "items": {"type": "object", "patternProperties": {"^a": {}}, "minProperties": 3}}, "minProperties 3"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"$ref": "https://example.com/schema.json"}, "retriev"),
    ],
)
def test_a_schema_that_would_not_be_kept_is_refused_by_name(llm: LLM, schema: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        llm.generate("x", SamplingParams(json_schema=schema))


PATTERNS = [
    r"[0-9]{3}-[0-9]{4}",
    r"(yes|no)( indeed)?",
    r"[a-z]{1,9}@[a-z]{1,9}\.(com|org)",
    r"(?i)hello,? world!{0,9}",
    r"a{0,5}b|c{1,9}",
    r"[^A-Z0-9]{2,6}",
    r"^\s{0,9}x\s?$",
    r"(/[a-z]{1,9}){1,3}\?q=\"[^\"]{0,9}\"",
    r"[à-ÿ]{1,3} ?[一-龥]{2}",
    r"-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
    r"(?s:.){5}",
    r"\n\t\\",
    r"",
]


def test_what_ends_matches_its_pattern_as_a_whole(llm: LLM) -> None:
    params = [SamplingParams(regex=pattern, max_tokens=200, seed=seed) for pattern in PATTERNS for seed in range(8)]
    for given, completion in zip(params, ended(llm, params), strict=True):
        if completion.finish_reason == "stop":
            assert re.fullmatch(str(given.regex), completion.text), (given.regex, completion.text)


def test_a_choice_is_one_of_its_texts_and_each_can_come(llm: LLM) -> None:
    texts = [
        "a",
        "ab",
        "abc",
        'say "hi"',
        "two\nlines",
        "\\d+",
        "ключ",
        "日本",
        "</s>",
        "<|im_end|>",
        "a|b",
        "tab\there",
        "\x01\x7f",
        "x" * 300,
    ]
    params = [SamplingParams(choice=texts, max_tokens=900, seed=seed) for seed in range(300)]
    completions = ended(llm, params)
    assert {completion.text for completion in completions} == set(texts)
    assert not {token for c in completions for token in c.token_ids[:-1]} & llm.tokenizer.control_ids  # type: ignore[union-attr]


LARK = {
    "sums": 'start: expr\nexpr: NUMBER | expr "+" expr | "(" expr ")"\nNUMBER: /[0-9]{1,3}/',
    "settings": 'start: (line "\\n")+\nline: NAME " = " (NUMBER | STRING)\nNAME: /[a-z]{1,8}/\nNUMBER: /[0-9]{1,9}/'
    '\nSTRING: /"[^"\\n]{0,10}"/',
    "letters": 'start: "a" start "b" |\n',
    "spaces": 'start: A B? A*\nA: "x"i\nB: "y".."z"\n%ignore /[ ]{1,2}/',
}


@pytest.mark.parametrize("name", LARK)
def test_what_ends_is_parsed_by_its_grammar(llm: LLM, name: str) -> None:
    lark = pytest.importorskip("lark")
    parser = lark.Lark(LARK[name], parser="earley")
    assert isinstance(llm.tokenizer, Tokenizer)
    shorter = dict.fromkeys([*llm.tokenizer.encode("("), *llm.tokenizer.encode("+"), *llm.tokenizer.encode("a")], -1.0)
    params = [SamplingParams(grammar=LARK[name], max_tokens=300, seed=seed, logit_bias={**shorter, 4: 6.0}) for seed in range(16)]
    for completion in ended(llm, params):
        if completion.finish_reason == "stop":
            parser.parse(completion.text)


def test_an_object_is_an_object(llm: LLM, closing: dict[int, float]) -> None:
    for completion in ended(llm, [SamplingParams(json_object=True, max_tokens=400, seed=seed, logit_bias=closing) for seed in range(16)]):
        if completion.finish_reason == "stop":
            validate({"type": "object"}, completion.text)


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}


def mixed() -> list[SamplingParams]:
    """Constrained in every way and not at all, with every option that changes what is drawn."""
    return [
        SamplingParams(json_schema=PERSON, max_tokens=120, seed=1, temperature=0.0),
        SamplingParams(json_schema=PERSON, max_tokens=120, seed=2, top_k=40, top_p=0.9, min_p=0.01),
        SamplingParams(json_schema=PERSON, max_tokens=120, seed=3, repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=0.2),
        SamplingParams(max_tokens=60, seed=4),
        SamplingParams(regex=r"(\d{1,4}, )*\d\.", max_tokens=60, seed=5, logprobs=3),
        SamplingParams(choice=["left", "right", "straight on"], seed=6, logit_bias={20: 3.0}),
        SamplingParams(grammar=LARK["sums"], max_tokens=50, seed=7, min_tokens=5),
        SamplingParams(json_object=True, max_tokens=50, seed=8, stop=["}"]),
        SamplingParams(regex="[a-z ]{30,}", max_tokens=40, seed=9, logits_processor=lambda tokens, logits: -logits),
        SamplingParams(json_schema=PERSON, max_tokens=30, seed=10, choose=lambda logits: int(np.argmax(logits))),
        SamplingParams(json_schema=PERSON, max_tokens=90, seed=11, n=4),
    ]


def test_constrained_answers_are_the_same_alone_and_together(llm: LLM) -> None:
    prompts = [[5 + i, 6, 7] for i in range(len(mixed()))]
    alone = [c for prompt, params in zip(prompts, mixed(), strict=True) for c in llm.generate([prompt], params)]
    assert [c.text for c in llm.generate(prompts, mixed())] == [c.text for c in alone]
    with random_model(max_batch=4, prefill_chunk=2, kv_memory=5 * 32 * 256, prefix_cache=False) as small:  # five pages: they run out
        together = small.generate(prompts, mixed())
        assert small.engine.scheduler.preemptions > 0
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert [c.finish_reason for c in together] == [c.finish_reason for c in alone]
    samples = [c.text for c in alone[-4:]]
    assert len(set(samples)) == 4, "each sample has a state of its own"
    for speculation in ("off", "lookup"):
        guessed = [replace(params, speculation=speculation) for params in mixed()]
        assert [c.token_ids for c in llm.generate(prompts, guessed)] == [c.token_ids for c in alone]
    handles = [llm.submit(prompt, params) for prompt, params in zip(prompts, mixed(), strict=True)]
    assert [c.token_ids for handle in handles for c in handle.result()] == [c.token_ids for c in alone]
    assert [c.token_ids for p, m in zip(prompts, mixed(), strict=True) for c in llm.generate([p], m, cache=False)] == [
        c.token_ids for c in alone
    ]


def test_the_ways_an_answer_ends(llm: LLM) -> None:
    def answer(**options: Any) -> Completion:
        return llm.generate([[5, 6]], SamplingParams(seed=0, **options))[0]

    whole = answer(regex="[a-f]{4}")
    assert (whole.finish_reason, len(whole.text)) == ("stop", 4)
    assert whole.token_ids[-1] != 4, "nothing can follow, so it ends without an end token"
    cut = answer(regex="[a-f]{400}", max_tokens=5)
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 5)
    assert answer(choice=["a"], min_tokens=50, max_tokens=60).text == "a", "min_tokens gives way where nothing can follow"
    long = answer(regex="[ab]+", min_tokens=30, max_tokens=60)
    assert len(long.token_ids) >= 30
    stopped = answer(regex="[ab]{20}c", stop=["b"], max_tokens=60)
    assert (stopped.finish_reason, set(stopped.text) <= {"a"}) == ("stop", True)
    endless = answer(regex="[ab]+", ignore_eos=True, max_tokens=40)
    assert (endless.finish_reason, set(endless.text)) == ("length", {"a", "b"})
    assert answer(regex="").text == ""
    assert answer(json_object=True, max_tokens=0).finish_reason == "length"
    token = llm.tokenizer.encode("b")[0]  # type: ignore[union-attr]
    ending = answer(regex="a{3,}", stop_token_ids=[token], max_tokens=200)
    assert (ending.token_ids[-1] in (token, 4), len(ending.text) >= 3) == (True, True), "what ends an answer comes where it may end"


def test_log_probabilities_stay_those_of_the_model(llm: LLM) -> None:
    free = llm.generate([[5, 6]], SamplingParams(max_tokens=1, logprobs=5, temperature=0.0))[0]
    held = llm.generate([[5, 6]], SamplingParams(max_tokens=1, logprobs=5, temperature=0.0, regex="z+"))[0]
    assert free.logprobs is not None
    assert held.logprobs is not None
    assert held.logprobs[0].top == free.logprobs[0].top
    assert held.logprobs[0].logprob < free.logprobs[0].logprob


def test_callables_cannot_lead_out_of_a_grammar(llm: LLM) -> None:
    seen: list[int] = []

    def choose(logits: Any) -> int:
        seen.append(int(np.isfinite(logits).sum()))
        return int(np.argmax(logits))

    chosen = llm.generate([[5]], SamplingParams(regex="[ab]{3}", choose=choose))[0]
    assert re.fullmatch("[ab]{3}", chosen.text)
    assert max(seen) < 50
    with pytest.raises(InvalidRequestError, match="choose gave token id 7, which the constraint does not allow"):
        llm.generate([[5]], SamplingParams(regex="[ab]{3}", choose=lambda logits: 7))

    def nothing(tokens: list[int], logits: Any) -> Any:
        logits[:] = -np.inf
        logits[1399] = 0.0  # a row of padding
        return logits

    for options in ({"logits_processor": nothing}, {"logits_processor": nothing, "temperature": 0.0}):
        with pytest.raises(InvalidRequestError, match="left none of the tokens that the constraint allows"):
            llm.generate([[5]], SamplingParams(regex="[ab]{3}", **options))


def test_a_model_without_a_tokenizer_says_so() -> None:
    with random_model(tokenizer=None) as model, pytest.raises(InvalidRequestError, match="regex needs a tokenizer"):
        model.generate([[5]], SamplingParams(regex="a"))


def test_a_matcher_that_fails_fails_its_request_alone(llm: LLM) -> None:
    """Fails closed: where the state is lost, there is an error and no further token."""
    alone = llm.generate([[9]], SamplingParams(seed=1, max_tokens=40))[0]
    other = llm.submit([9], SamplingParams(seed=1, max_tokens=40))
    answer = llm._model.answer([5], SamplingParams(regex="[ab]+", max_tokens=40), True)
    llm.engine.submit(answer.request)
    constraint: Any = answer.request.sequences[0].sampler.constraint
    outputs = llm.engine.outputs(answer.request)
    next(outputs)
    constraint._matcher.consume_token(7)
    with pytest.raises(LinnetError, match="regex could not be followed further"):
        list(outputs)
    assert other.result()[0].token_ids == alone.token_ids
    assert pool_is_whole(llm)


def test_threads_compile_and_run_at_once(llm: LLM) -> None:
    found: dict[int, str] = {}

    def work(index: int) -> None:
        found[index] = llm.generate([[5]], SamplingParams(regex=f"[a-c]{{{index + 1}}}", seed=index))[0].text

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {index: len(text) for index, text in found.items()} == {index: index + 1 for index in range(8)}
