"""Opens the model that guesses for another, and sees to it that both speak of the same tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from linnet.engine.draft_model import DraftModel
from linnet.engine.prefix_cache import PrefixCache
from linnet.errors import InvalidRequestError, LinnetError, OutOfMemoryError
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.machine_memory import available_memory
from linnet.model_options import ModelOptions
from linnet.op_set import OpSet, open_op_set
from linnet.prompts import read_tokenizer
from linnet.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Draft:
    """A draft model that was opened and has passed every check. It runs on one device, with its weights as they are stored."""

    checkpoint: Checkpoint
    op_set: OpSet
    options: ModelOptions

    def load(self) -> DraftModel:
        """Reads its weights."""
        weights = self.op_set.load(self.checkpoint, self.options)
        return DraftModel(self.op_set.ops, self.op_set.spec, weights, self.options.kv_type)


def read_draft(options: ModelOptions) -> Checkpoint | None:
    """The files of the draft model that `options` name; None where they name none. Raises what opening a model does."""
    if options.draft is None:
        return None
    if not isinstance(options.draft, (str, Path)):
        raise InvalidRequestError(f"draft is {options.draft!r}; it must be a path or a name, such as 'tiny'")
    try:
        return open_checkpoint(options.draft)
    except LinnetError as error:
        raise type(error)(f"draft: {error}") from error


def open_draft(checkpoint: Checkpoint, options: ModelOptions, model: Checkpoint, op_set: OpSet, tokenizer: Tokenizer | None) -> Draft:
    """The draft model of this checkpoint, for a model on this op set, with this tokenizer. Reads headers, configuration and vocabulary.

    Raises OutOfMemoryError where its weights do not fit beside the model's, and InvalidRequestError for one that cannot guess for it.
    """
    own = replace(options, ops=options.op_set, weights="auto", tp=1, offload=None if options.offload is None else 0)
    if not PrefixCache.suits(checkpoint.spec):
        family = checkpoint.spec.family
        raise InvalidRequestError(f"draft {checkpoint.name!r}: a {family} model reads prompts both ways and cannot guess; leave it out")
    for one in (model, checkpoint):
        if one.spec.is_recurrent:
            raise InvalidRequestError(
                f"draft {checkpoint.name!r}: {one.name!r} has recurrent layers, which cannot take back what was guessed wrong; "
                "leave draft out"
            )
    _check_vocabulary(checkpoint, model, tokenizer)
    draft = Draft(checkpoint, open_op_set(own, checkpoint), own)
    _check_memory(draft, model, op_set)
    return draft


def _check_memory(draft: Draft, model: Checkpoint, op_set: OpSet) -> None:
    needed = draft.op_set.weight_bytes
    left = (available_memory() if op_set.memory is None else op_set.memory) - op_set.weight_bytes
    if needed > left:
        raise OutOfMemoryError(
            f"draft {draft.checkpoint.name!r} takes {needed} bytes, and {max(0, left)} are available beside those of {model.name!r}; "
            "choose smaller weights for that, as weights='q8_0' or 'q4_0', or a smaller draft, or leave it out"
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
