"""`TextModel`: a model of transformers' that makes text, and what Linnet has to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STRUCTURE = (
    "bos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
)
"""What of a generation_config.json belongs to the model; all else there is advice, and nothing is done that a request did not ask for."""


@dataclass(eq=False)
class TextModel:
    """model: a PreTrainedModel that generates. vocab_size: its embedding rows.

    context: most tokens of a prompt and its answer together; of an encoder-decoder, of the answer, and source_context: most of its prompt.
    end_ids: what ends an answer. pad_id: stands where a row of a batch has no token. masks: whether it takes rows of several lengths.
    """

    model: Any
    vocab_size: int
    context: int
    source_context: int | None
    end_ids: frozenset[int]
    pad_id: int
    masks: bool
    structure: Mapping[str, Any]

    @property
    def reads_first(self) -> bool:
        """Whether an encoder reads the prompt whole, and the answer begins anew."""
        return self.source_context is not None

    @property
    def device(self) -> Any:
        return self.model.device
