"""Tokenizers of every file kind behind one class, `Tokenizer`. Each kind has a module, imported when such a file is opened."""

from linnet.text.tokenizer.tokenizer import Tokenizer, tokenizer_file

__all__ = ["Tokenizer", "tokenizer_file"]
