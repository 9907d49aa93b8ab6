"""Fixtures of the text tests: the built-in model's files, and a tokenizer trained on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from text_inputs import CORPUS, SHARED


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    folder = SHARED / "tiny" / "model"
    if not folder.is_dir():
        pytest.skip("../shared/tiny/model is not there")
    return folder


@pytest.fixture(scope="session")
def byte_level() -> Any:
    """A byte-level BPE tokenizer as GPT-2's, with a control token, a marker that is not flagged, and runs of spaces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(keepends=True), trainer)
    tokenizer.add_special_tokens(["<|user|>", "<|assistant|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("  ", normalized=False)])
    return tokenizer
