"""What the text tests share: where the inputs beside the checkout are, and tokenizers made on the spot."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(__file__).resolve().parents[3] / "shared"
CORPUS = (
    "The quick brown fox jumps over the lazy dog; it isn't lazy, it's tired. We'll see what they've done in 1984 and 2026.\n"
    "Приветствую вас, мир велик. 你好 世界，今天天气很好。 こんにちは世界 naïve café résumé, 12,345.67 + 89 = 12434.67\n"
    "def main(argument):\n    return [value for value in argument if value is not None]\n\n\tindented\twith tabs  and   runs\n"
) * 30


def save_folder(folder: Path, tokenizer: Any, **config: Any) -> Path:
    """A model folder's tokenizer files."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def train_sentencepiece(**options: Any) -> Any:
    import sentencepiece

    written = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "vocab_size": 700,
        "byte_fallback": True,
        "minloglevel": 2,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS.splitlines()), model_writer=written, **settings)
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def sentencepiece_metadata(processor: Any, user_defined: tuple[str, ...] = ()) -> dict[str, Any]:
    """The GGUF metadata that a converter would write for a SentencePiece model."""

    def kind(id: int) -> int:
        checks = ((processor.is_unknown, 2), (processor.is_control, 3), (processor.is_unused, 5), (processor.is_byte, 6))
        return next((kind for check, kind in checks if check(id)), 4 if processor.id_to_piece(id) in user_defined else 1)

    ids = range(processor.vocab_size())
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(id) for id in ids],
        "tokenizer.ggml.scores": np.array([processor.get_score(id) for id in ids], np.float32),
        "tokenizer.ggml.token_type": np.array([kind(id) for id in ids], np.int32),
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
    }


def byte_level_metadata(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """The GGUF metadata that a converter would write for a byte-level tokenizer."""
    tokens = [tokenizer.id_to_token(id) for id in range(tokenizer.get_vocab_size())]
    added = tokenizer.get_added_tokens_decoder()
    kinds = [(3 if added[id].special else 4) if id in added else 1 for id in range(len(tokens))]
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.eos_token_id": tokens.index("<|end|>"),
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }
