"""Tiny random models of transformers', with tokenizers of their kind, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXTS = [
    "The linnet is a small passerine bird of the finch family.",
    "It derives its name from its fondness for flax seeds, which linen is made of.",
    "Translate English to German: the house is wonderful; summarize: a long story cut short.",
]


def save_unigram(folder: Path) -> None:
    """SentencePiece's kind, as T5 and mT5 have it: texts that an encoder reads end with </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    # Written out: what a UnigramTrainer finds differs from run to run.
    words = [f"▁{word}" for word in dict.fromkeys(" ".join(TEXTS).split())]
    letters = sorted(set("".join(words)))
    special = ["<pad>", "</s>", "<unk>"]
    pieces = [(piece, 0.0) for piece in special] + [(letter, -6.0) for letter in letters] + [(word, -4.0) for word in words]
    tokenizer = Tokenizer(models.Unigram(pieces[:90], unk_id=2, byte_fallback=False))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    _save(tokenizer, folder, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def save_byte_level(folder: Path) -> None:
    """Byte-level BPE, as BART has it: <s> before and </s> after."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    _save(tokenizer, folder, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _save(tokenizer: Any, folder: Path, **named: str) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def t5(folder: Path, **config: Any) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    save_unigram(folder)
    _save_model(T5ForConditionalGeneration, T5Config(**_T5, **config), folder)


def mt5(folder: Path) -> None:
    from transformers import MT5Config, MT5ForConditionalGeneration

    save_unigram(folder)
    _save_model(MT5ForConditionalGeneration, MT5Config(**{**_T5, "feed_forward_proj": "gated-gelu"}), folder)


def bart(folder: Path) -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    save_byte_level(folder)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}
    _save_model(BartForConditionalGeneration, BartConfig(vocab_size=300, d_model=32, max_position_embeddings=64, **sizes), folder)


def gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    save_byte_level(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    _save_model(GPT2LMHeadModel, GPT2Config(vocab_size=300, n_positions=96, n_embd=32, n_layer=2, n_head=4, **ends), folder)


def mamba(folder: Path) -> None:
    """A decoder that Linnet has no family for, and that has no positions."""
    from transformers import MambaConfig, MambaForCausalLM

    save_byte_level(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    _save_model(MambaForCausalLM, MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4, **ends), folder)


def byt5(folder: Path) -> None:
    """Bytes are tokens, by a tokenizer that is written in Python and has no file of its own."""
    from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

    ByT5Tokenizer().save_pretrained(folder)
    _save_model(T5ForConditionalGeneration, T5Config(**{**_T5, "vocab_size": 384}), folder)


def marian(folder: Path) -> None:
    """Two SentencePiece models and a list of pieces, by a tokenizer that is written in Python."""
    import json
    import shutil

    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir(exist_ok=True)
    (folder / "texts").write_text("\n".join(TEXTS * 9))
    SentencePieceTrainer.train(input=str(folder / "texts"), model_prefix=str(folder / "source"), vocab_size=50, minloglevel=2)
    source, target = folder / "source.spm", folder / "target.spm"
    (folder / "source.model").rename(source)
    shutil.copy(source, target)
    pieces = SentencePieceProcessor(model_file=str(source))
    names = [piece for i in range(pieces.get_piece_size()) if (piece := pieces.id_to_piece(i)) not in ("<s>", "</s>", "<unk>")]
    vocabulary = {name: id for id, name in enumerate(("</s>", "<unk>", *names, "<pad>"))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    MarianTokenizer(str(source), str(target), str(folder / "vocab.json")).save_pretrained(folder)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 64))}
    ends = {"pad_token_id": len(vocabulary) - 1, "decoder_start_token_id": len(vocabulary) - 1, "eos_token_id": 0, "forced_eos_token_id": 0}
    config = MarianConfig(vocab_size=len(vocabulary), d_model=32, max_position_embeddings=96, **sizes, **ends)
    _save_model(MarianMTModel, config, folder)


_T5 = {
    "vocab_size": 90,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}

MODELS: dict[str, Callable[[Path], None]] = {"t5": t5, "bart": bart, "mt5": mt5, "gpt2": gpt2, "mamba": mamba}
IN_PYTHON: dict[str, Callable[[Path], None]] = {"byt5": byt5, "marian": marian}
SEQ2SEQ = ("t5", "bart", "mt5")


def _save_model(kind: Any, config: Any, folder: Path) -> None:
    import torch

    torch.manual_seed(5)
    model = kind(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "conv" not in name and "A_log" not in name:
                weight.normal_(0.0, 0.4)
    model.save_pretrained(folder)
