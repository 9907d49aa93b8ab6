"""From `SamplingParams` to transformers' GenerationConfig; what that has not is refused by name."""

from __future__ import annotations

from typing import Any

from linnet.backends.transformers.model import TextModel
from linnet.engine.check import check_beams, check_tokens, most_tokens
from linnet.engine.params import SamplingParams
from linnet.engine.request import Request
from linnet.errors import ContextLengthError, InvalidRequestError

_NOT_THERE = ("presence_penalty", "frequency_penalty", "choose", "json_schema", "json_object", "regex", "choice", "grammar")
_BACKEND = "backend='transformers'"


def check(request: Request, model: TextModel, max_batch: int) -> None:
    """Raises InvalidRequestError or ContextLengthError where the request can never be honoured."""
    params = request.params
    check_tokens(request, model.vocab_size)
    for name in _NOT_THERE:
        if getattr(params, name) != getattr(SamplingParams, name, None):
            raise InvalidRequestError(f"{name} is not there with {_BACKEND}; leave it out")
    if request.constraint is not None:
        raise InvalidRequestError(f"a tool call cannot be demanded with {_BACKEND}; use tool_choice='auto'")
    if params.speculation not in ("auto", "off"):
        raise InvalidRequestError(f"speculation={params.speculation!r} is not there with {_BACKEND}; leave it out")
    if request.hidden:
        raise InvalidRequestError(f"there are no embeddings with {_BACKEND}")
    if params.n > max_batch:
        raise InvalidRequestError(f"n is {params.n} and max_batch is {max_batch}: with {_BACKEND} samples run together; lower n")
    if params.num_beams > 1:
        check_beams(params, max_batch)
        _check_beam_options(request)
    if model.reads_first and request.prompt_logits is not None:
        raise InvalidRequestError("this model's encoder reads the prompt whole, so that it cannot be scored")
    _check_room(request, model)


def _check_beam_options(request: Request) -> None:
    given = [name for name in ("stop", "logprobs", "logits_processor") if getattr(request.params, name) not in ((), None)]
    if request.text is not None:  # without a stop, to end with a call
        given.append("parallel_tool_calls=False")
    if given:
        raise InvalidRequestError(f"{given[0]} does not go with num_beams and {_BACKEND}; leave one of them out")


def _check_room(request: Request, model: TextModel) -> None:
    prompt, most = len(request.prompt), most_answer(request, model)
    if model.source_context is not None:
        if prompt > model.source_context:
            raise ContextLengthError(f"the prompt has {prompt} tokens and the encoder takes {model.source_context}: shorten the prompt")
        if most > model.context:
            raise ContextLengthError(f"max_tokens is {most} and the decoder holds {model.context} tokens: lower max_tokens")
    elif prompt + max(most, request.params.max_tokens is None) > model.context:
        raise ContextLengthError(
            f"the prompt has {prompt} tokens and max_tokens is {request.params.max_tokens}, and the context holds {model.context}: "
            "shorten the prompt, lower max_tokens, or open the model with a larger context"
        )


def most_answer(request: Request, model: TextModel) -> int:
    """Most tokens that each answer may have."""
    if model.reads_first:
        return model.context if request.params.max_tokens is None else request.params.max_tokens
    return most_tokens(request, model.context, slides=False)


def batch_key(request: Request, settings: dict[str, Any], model: TextModel) -> Any:
    """Requests of equal keys can run in one batch."""
    params = request.params
    if params.num_beams > 1 and params.temperature > 0:
        return object()  # transformers draws for all beams of a call by one seed
    # Beams, and the end token that some decoders are forced to, go by how long an answer may get; elsewhere each row has its own end.
    return settings if model.reads_first or params.num_beams > 1 else {**settings, "max_new_tokens": None}


def generation_settings(request: Request, model: TextModel) -> dict[str, Any]:
    """The fields of a GenerationConfig that a request means. Requests of equal ones can run in one batch."""
    params, beams = request.params, request.params.num_beams
    found: dict[str, Any] = {
        **model.structure,
        "pad_token_id": model.pad_id,
        "eos_token_id": sorted(request.ends) or None,
        "repetition_penalty": params.repetition_penalty,
        "no_repeat_ngram_size": params.no_repeat_ngram_size,
        "min_new_tokens": params.min_tokens or None,
        "sequence_bias": {(token,): bias for token, bias in params.logit_bias.items()} or None,
        "use_cache": request.cache,
        "num_beams": beams,
        "max_new_tokens": most_answer(request, model),
    }
    if beams > 1:
        found |= {"num_return_sequences": params.n, "length_penalty": params.length_penalty, "early_stopping": params.early_stopping}
        if params.temperature > 0:  # elsewhere draws are `Chooser`'s
            drawn = {"temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p, "min_p": params.min_p or None}
            found |= {"do_sample": True, **drawn}
    return found
