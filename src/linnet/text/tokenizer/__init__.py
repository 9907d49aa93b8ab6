"""Tokenizers of every file kind behind one class, `Tokenizer`: one file a kind, imported when a file of it is opened."""

from linnet.text.tokenizer.tokenizer import Tokenizer, tokenizer_file

__all__ = ["Tokenizer", "tokenizer_file"]
