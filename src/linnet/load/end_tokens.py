"""Tokens that end an answer, by their texts: converters and old configurations name one of them at most."""

from __future__ import annotations

from collections.abc import Collection

END_TEXTS = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|tool_response>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
)


def end_texts(vocabulary: Collection[str]) -> list[str]:
    """Those of a vocabulary."""
    texts = [text for text in END_TEXTS if text in vocabulary]
    if {"<|return|>", "<|call|>", "<|end|>"} <= set(texts):
        texts.remove("<|end|>")  # it ends a part of an answer in OpenAI's harmony format
    return texts
