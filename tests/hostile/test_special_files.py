"""What stands where a model file should be and is none: pipes, devices, folders, loops of links, files that shrink."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostile_files import model_gguf, write_folder

from linnet.errors import ModelFileError
from linnet.load.files import MappedFile

SPECIAL = ["pipe", "folder", "device", "loop", "dangling", "socket"]


def make(kind: str, path: Path) -> None:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(path.with_name("absent"))
    else:
        import socket

        os.chdir(path.parent)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)


@pytest.mark.parametrize("name", ["model.gguf", "model"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_in_the_place_of_a_file(kind, name, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(kind, tmp_path / name)
    refused(tmp_path / name, "not a regular file|no such file|holds no model|cannot be read")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_in_a_folder(kind, file, attacked, tmp_path, monkeypatch):
    """Where a file may be absent, something else in its place may count as absent; it is never waited for or read for ever."""
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "model")
    make(kind, folder / file)
    outcome = attacked.run("use", folder)["outcome"]
    needed = file in ("config.json", "model.safetensors")
    assert outcome.startswith("ModelFileError") or (outcome == "ok" and not needed), outcome


@pytest.mark.parametrize("kind", SPECIAL)
def test_as_a_shard(kind, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_folder(tmp_path / "model", shards=2)
    make(kind, folder / "model-00002-of-00002.safetensors")
    refused(folder, "model-00002-of-00002")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.gguf", "tokenizer.model", "merges.tiktoken"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_as_a_tokenizer(kind, name, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(kind, tmp_path / name)
    refused(tmp_path / name, ".", action="tokenize")


def test_a_link_to_a_model_is_a_model(accepted, tmp_path):
    """The hub's cache is made of links."""
    (tmp_path / "blob").write_bytes(model_gguf(["f32"]).data)
    (tmp_path / "model.gguf").symlink_to("blob")
    accepted(tmp_path / "model.gguf")


def test_a_file_cut_short_while_it_is_opened(tmp_path, monkeypatch):
    """Between asking for the size and mapping, which is the one moment when Linnet can notice (see docs/hostile_files.md)."""
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(100_000))
    real = __import__("mmap").mmap

    def shrinking(number: int, size: int, **options: object) -> object:
        os.truncate(path, 10)
        return real(number, size, **options)

    monkeypatch.setattr("linnet.load.files.mmap.mmap", shrinking)
    with pytest.raises(ModelFileError, match=r"model\.gguf: cannot be read"):
        MappedFile(path)
