"""`backend="transformers"` gives what transformers itself gives: greedy, drawn, in beams, in batches, with every option that it takes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import MODELS, SEQ2SEQ, TEXTS  # noqa: E402

from linnet import LLM, SamplingParams  # noqa: E402

GREEDY = {"temperature": 0.0, "max_tokens": 12}


@pytest.fixture(scope="module", params=["t5", "bart", "mt5", "gpt2", pytest.param("mamba", marks=pytest.mark.slow)])
def pair(request, tmp_path_factory):
    """A model as Linnet opens it, and as transformers does."""
    folder = tmp_path_factory.mktemp(request.param)
    MODELS[request.param](folder)
    kind = transformers.AutoModelForSeq2SeqLM if request.param in SEQ2SEQ else transformers.AutoModelForCausalLM
    theirs = kind.from_pretrained(folder).eval()
    with LLM(folder, backend="transformers", max_batch=4) as llm:
        yield llm, theirs, transformers.AutoTokenizer.from_pretrained(folder)


def expected(theirs, ids, **settings):
    """The answers, without the prompt or the token that a decoder starts with, and without padding after their ends."""
    with torch.no_grad():
        sequences = theirs.generate(torch.tensor([ids]), **{"max_new_tokens": 12, "do_sample": False, **settings}).tolist()
    start = 1 if theirs.config.is_encoder_decoder else len(ids)
    end = settings.get("eos_token_id", theirs.generation_config.eos_token_id)
    answers = [sequence[start:] for sequence in sequences]
    return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]


def test_texts_become_the_tokens_and_the_text_of_transformers(pair):
    llm, theirs, tokenizer = pair
    for text, found in zip(TEXTS, llm.generate(TEXTS, SamplingParams(**GREEDY)), strict=True):
        ids = tokenizer(text).input_ids[: None if theirs.config.is_encoder_decoder else -1]  # a decoder goes on from a text
        assert found.prompt_token_ids == ids
        assert [found.token_ids] == expected(theirs, ids)
        kept = found.token_ids[:-1] if found.finish_reason == "stop" else found.token_ids
        assert found.text == tokenizer.decode(kept, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("params", "settings"),
    [
        ({"repetition_penalty": 1.7, "min_tokens": 8}, {"repetition_penalty": 1.7, "min_new_tokens": 8}),
        ({"no_repeat_ngram_size": 2, "logit_bias": {7: 3.0}}, {"no_repeat_ngram_size": 2, "sequence_bias": {(7,): 3.0}}),
        ({"ignore_eos": True}, {"eos_token_id": -1}),
        ({"temperature": 1.3, "seed": 4, "top_k": 9, "top_p": 0.9}, {"do_sample": True, "temperature": 1.3, "top_k": 9, "top_p": 0.9}),
        ({"temperature": 1.0, "seed": 5, "min_p": 0.05, "n": 3}, {"do_sample": True, "min_p": 0.05, "top_k": 0, "num_return_sequences": 3}),
        ({"num_beams": 4, "n": 2, "length_penalty": 0.3}, {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.3}),
        ({"num_beams": 2, "early_stopping": True, "min_tokens": 4}, {"num_beams": 2, "early_stopping": True, "min_new_tokens": 4}),
        ({"num_beams": 3, "temperature": 1.4, "seed": 9}, {"num_beams": 3, "do_sample": True, "temperature": 1.4, "top_k": 0}),
    ],
    ids=lambda value: "-".join(value),
)
def test_options_are_those_of_transformers(pair, params, settings):
    llm, theirs, _ = pair
    prompt = [9, 20, 31, 42, 7]
    torch.manual_seed(params.get("seed", 0))
    found = llm.generate(prompt, SamplingParams(**{**GREEDY, **params}))
    assert [completion.token_ids for completion in found] == expected(theirs, prompt, **settings)


def test_beams_of_several_prompts_are_those_of_each(pair):
    llm, theirs, _ = pair
    prompts = [[9, 20, 31, 42, 7], [11, 12], [50, 3, 60]]
    found = llm.generate(prompts, SamplingParams(**GREEDY, num_beams=3, n=2))
    wanted = [answer for prompt in prompts for answer in expected(theirs, prompt, num_beams=3, num_return_sequences=2)]
    assert [completion.token_ids for completion in found] == wanted


def test_a_batch_gives_what_each_prompt_gives_alone(pair):
    llm, theirs, _ = pair
    prompts = [[9, 20, 31, 42, 7], [11], [12, 13, 14], [8, 8, 30, 2], [50, 3], [60, 61, 62]]
    found = llm.generate(prompts, SamplingParams(**GREEDY))
    assert [completion.token_ids for completion in found] == [expected(theirs, prompt)[0] for prompt in prompts]
    assert llm.counters().batch_sizes.counts[2] > 0  # of three or four rows


def test_a_stream_is_the_answer_token_by_token(pair):
    llm, _, _ = pair
    params = SamplingParams(temperature=1.2, seed=8, max_tokens=12)
    whole = llm.generate(TEXTS[0], params)[0]
    chunks = list(llm.stream(TEXTS[0], params))
    assert [chunk.token_ids for chunk in chunks] == [[token] for token in whole.token_ids]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert chunks[-1].completion.text == whole.text


def test_texts_and_ids_stop_an_answer(pair):
    llm, _, _ = pair
    whole = llm.generate(TEXTS[0], SamplingParams(**GREEDY, ignore_eos=True))[0]
    assert whole.finish_reason == "length"
    stop = whole.text[2:4]
    cut = llm.generate(TEXTS[0], SamplingParams(**GREEDY, ignore_eos=True, stop=stop))[0]
    assert (cut.text, cut.finish_reason, cut.stop_text) == (whole.text[: whole.text.index(stop)], "stop", stop)
    last = llm.generate(TEXTS[0], SamplingParams(**GREEDY, stop_token_ids=[whole.token_ids[4]]))[0]
    assert last.token_ids == whole.token_ids[: whole.token_ids.index(whole.token_ids[4]) + 1]
    assert last.finish_reason == "stop"


def test_logprobs_are_those_of_the_model(pair):
    llm, theirs, _ = pair
    prompt = [9, 20, 31]
    found = llm.generate(prompt, SamplingParams(**GREEDY, logprobs=2, repetition_penalty=1.5))[0]
    with torch.no_grad():
        if theirs.config.is_encoder_decoder:
            logits = theirs(
                torch.tensor([prompt]), decoder_input_ids=torch.tensor([[theirs.config.decoder_start_token_id, *found.token_ids]])
            )
            rows = logits.logits[0, :-1]
        else:
            rows = theirs(torch.tensor([prompt + found.token_ids])).logits[0, len(prompt) - 1 : -1]
    wanted = torch.log_softmax(rows.double(), -1)
    for entry, row in zip(found.logprobs, wanted, strict=True):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-4)
        assert [value for _, value in entry.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-4)
