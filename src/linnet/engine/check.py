"""What no engine could ever do: requests that are refused before any work."""

from __future__ import annotations

from linnet.engine.params import SamplingParams
from linnet.engine.request import Request
from linnet.errors import ContextLengthError, InvalidRequestError

_ROOM = "shorten the prompt, lower max_tokens, or open the model with a larger context"


def most_tokens(request: Request, context: int, slides: bool) -> int:
    """Most tokens each answer may have."""
    most = request.params.max_tokens
    if most is None:
        return context if slides else max(0, context - len(request.prompt))
    return most


def check_tokens(request: Request, vocab: int) -> None:
    """Raises InvalidRequestError for a prompt without tokens, and for token ids that the model does not have."""
    prompt, params = request.prompt, request.params
    if not prompt:
        raise InvalidRequestError("the prompt is empty: it has no tokens; give at least one")
    named = {"the prompt": prompt, "logit_bias": params.logit_bias, "stop_token_ids": params.stop_token_ids}
    for where, tokens in named.items():
        if tokens and not 0 <= min(tokens) <= max(tokens) < vocab:
            outside = next(token for token in tokens if not 0 <= token < vocab)
            raise InvalidRequestError(f"token id {outside} in {where} is outside the model's {vocab} embedding rows")


def check_beams(params: SamplingParams, max_batch: int) -> None:
    """Raises InvalidRequestError for more beams than a batch has rows."""
    if params.num_beams > max_batch:
        raise InvalidRequestError(
            f"num_beams is {params.num_beams} and max_batch {max_batch}: beams go side by side; lower num_beams or raise max_batch"
        )


def check_request(request: Request, vocab: int, context: int, slides: bool, drafts: bool, max_batch: int, recurrent: bool = False) -> None:
    """Raises InvalidRequestError or ContextLengthError where an engine of this context and batch can never honour it. drafts: whether
    there is a draft model; recurrent: whether the model has recurrent layers."""
    prompt, params = request.prompt, request.params
    check_tokens(request, vocab)
    if params.speculation == "draft" and not drafts:
        raise InvalidRequestError("speculation='draft' needs a draft model, and there is none; open the model with draft=, or use 'auto'")
    if recurrent and params.speculation in ("lookup", "draft"):
        raise InvalidRequestError(
            f"speculation is {params.speculation!r}, and this model has recurrent layers, which cannot take back what was guessed wrong; "
            "leave it at 'auto' or 'off'"
        )
    check_beams(params, max_batch)
    total = len(prompt) + most_tokens(request, context, slides)
    if slides:
        if request.prompt_logits is not None and len(prompt) > context:
            raise ContextLengthError(f"a prompt of {len(prompt)} tokens cannot be scored in a context of {context}: {_ROOM}")
        total = min(total, context)
    if params.max_tokens is None and len(prompt) >= context and not slides:
        raise ContextLengthError(f"the prompt has {len(prompt)} tokens and the context holds {context}: {_ROOM}")
    if total > context:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens and max_tokens is {params.max_tokens}, together {total}, "
            f"and the context holds {context}: {_ROOM}"
        )
