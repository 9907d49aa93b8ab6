"""Opens the model that guesses for another, and sees to it that both speak of the same tokens."""

from __future__ import annotations

from linnet.engine.draft_model import DraftModel
from linnet.engine.pages import available_memory
from linnet.engine.prefix_cache import PrefixCache
from linnet.errors import InvalidRequestError, LinnetError, OutOfMemoryError
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.model_options import ModelOptions
from linnet.op_set import open_op_set, weights_and_memory
from linnet.ops.base import Ops
from linnet.prompts import read_tokenizer
from linnet.text.tokenizer import Tokenizer


def open_draft(name: str, model: Checkpoint, tokenizer: Tokenizer | None, ops: Ops) -> Checkpoint:
    """The draft model `name` for a model with this tokenizer and op set; nothing but headers, configuration and vocabulary has been read.

    Raises what opening a model does, OutOfMemoryError where its weights do not fit beside the model's, and InvalidRequestError for one that
    cannot guess for it.
    """
    try:
        draft = open_checkpoint(name)
    except LinnetError as error:
        raise type(error)(f"draft: {error}") from error
    try:
        _check(draft, model, ops)
        _check_vocabulary(draft, model, tokenizer)
    except BaseException:
        draft.close()
        raise
    return draft


def load_draft(draft: Checkpoint, options: ModelOptions) -> DraftModel:
    """Its weights as they are stored, on an op set of its own."""
    ops = open_op_set(options)
    return DraftModel(ops, draft.spec, draft.assemble(ops), options.kv_type)


def _check(draft: Checkpoint, model: Checkpoint, ops: Ops) -> None:
    if not PrefixCache.suits(draft.spec):
        raise InvalidRequestError(
            f"draft {draft.name!r}: a {draft.spec.family} model reads prompts both ways and cannot guess; leave it out"
        )
    (own, _), (theirs, memory) = weights_and_memory(ops, draft), weights_and_memory(ops, model)
    left = (available_memory() if memory is None else memory) - theirs
    if own > left:
        raise OutOfMemoryError(
            f"draft {draft.name!r} takes {own} bytes, and {max(0, left)} are available beside those of {model.name!r}; "
            "choose a smaller one, or leave it out"
        )


def _check_vocabulary(draft: Checkpoint, model: Checkpoint, tokenizer: Tokenizer | None) -> None:
    own = read_tokenizer(draft, None)
    if tokenizer is not None and own is not None:
        _check_tokens(draft.name, model.name, own, tokenizer)
    elif draft.spec.vocab_size != model.spec.vocab_size:  # what there is to go by
        raise InvalidRequestError(
            f"draft {draft.name!r} has {draft.spec.vocab_size} tokens and {model.name!r} has {model.spec.vocab_size}; "
            "choose a draft of the same vocabulary"
        )


def _check_tokens(draft: str, model: str, own: Tokenizer, tokenizer: Tokenizer) -> None:
    """Fine-tuned models add tokens at the end; all others must be the same."""
    for token in range(min(own.vocab_size, tokenizer.vocab_size)):
        mine, theirs = own.token_bytes(token), tokenizer.token_bytes(token)
        if mine != theirs:
            raise InvalidRequestError(
                f"draft {draft!r} has another vocabulary than {model!r}: token {token} is {mine!r} there and {theirs!r} here; "
                "choose a draft of the same family"
            )
