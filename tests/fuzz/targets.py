"""What is fuzzed: for each target, how a seed becomes a model on disk."""

from __future__ import annotations

import base64
import io
import json
import pickle
import shutil
import struct
import zipfile
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import hostile_files as files
from mutate import mutate_bytes, mutate_json, mutate_payload

GGUF_SEEDS = (
    (["f32", "f16", "bf16", "q8_0", "q4_0"], files.Sizes(), "gpt2"),
    (["q4_1", "q5_0", "q5_1", "iq4_nl", "mxfp4"], files.Sizes(), "llama"),
    (["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"], files.SUPER, "gpt2"),
)
JSON_FILES = {
    "config": ("config.json", "generation_config.json", "model.safetensors.index.json"),
    "tokenizer": ("tokenizer.json", "tokenizer_config.json"),
}


def write_case(target: str, seed: int, folder: Path) -> Path:
    """The model of one seed, in an empty `folder`."""
    random = Random(f"{target} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if target == "gguf":
        data, numbers = _gguf(random.randrange(len(GGUF_SEEDS)))
        path = folder / "model.gguf"
        payload = numbers[-1][0] + 8
        path.write_bytes(mutate_payload(data, payload, random) if random.random() < 0.3 else mutate_bytes(data, numbers, random))
        return path
    if target == "vocabulary":
        name, content = random.choice(_vocabularies())
        (folder / name).write_bytes(mutate_bytes(content, [], random))
        return folder / name
    if target == "torch":
        (folder / "model.ckpt").write_bytes(_mutated_torch_file(random))
        return folder / "model.ckpt"
    files.write_folder(folder, shards=random.choice([1, 2]))
    if target == "safetensors":
        path = random.choice(sorted(folder.glob("*.safetensors")))
        path.write_bytes(_mutated_safetensors(path.read_bytes(), random))
        return folder
    path = folder / random.choice([name for name in JSON_FILES[target] if (folder / name).exists()])
    tree = json.loads(path.read_text())
    if path.name == "config.json":
        tree["model_type"] = random.choice(["llama", "mistral", "qwen2", "qwen3"])
        tree |= {"layer_types": ["full_attention"], "sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0}
        tree = {key: value for key, value in tree.items() if random.random() < 0.95}
    path.write_bytes(mutate_json(tree, random))
    return folder


@lru_cache
def _gguf(index: int) -> tuple[bytes, list[tuple[int, str]]]:
    types, sizes, tokenizer = GGUF_SEEDS[index]
    built = files.model_gguf(types, sizes, tokenizer)
    return bytes(built.data), built.numbers


@lru_cache
def _vocabularies() -> list[tuple[str, bytes]]:
    """Tokenizer files that are not JSON: SentencePiece models of both kinds, ranks as tiktoken writes them, a pickled encoding."""
    import sentencepiece
    import tiktoken

    texts = [f"the {word} {word}s {number}" for number, word in enumerate("hello world cat dog bird tree house river stone".split() * 20)]
    found = []
    for kind in ("bpe", "unigram"):
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=out,
            model_type=kind,
            vocab_size=300,
            byte_fallback=True,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        found.append(("tokenizer.model", out.getvalue()))
    tokens = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"hell"]
    ranks = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    encoding = tiktoken.Encoding(
        "pickled", pat_str=r"\w+|\W", mergeable_ranks={token: i for i, token in enumerate(tokens)}, special_tokens={"<|bos|>": 300}
    )
    found.append(("tokenizer.pkl", pickle.dumps(encoding)))
    return [*found, ("cl100k_base.tiktoken", ranks), ("tokenizer.model", ranks)]


@lru_cache
def _torch_files() -> tuple[bytes, bytes]:
    """A tutorial's checkpoint in both formats of torch.save."""
    import torch
    from torch_models import Tutorial

    h_params = {"d_model": 12, "num_heads": 2, "num_blocks": 1, "context_length": 8, "max_token_value": 11}
    saved = {"h_params": h_params, "model_state_dict": Tutorial(h_params).state_dict(), "note": [1, 2.5, "text", (None, True)]}
    written = io.BytesIO(), io.BytesIO()
    torch.save(saved, written[0])
    torch.save(saved, written[1], _use_new_zipfile_serialization=False)
    return written[0].getvalue(), written[1].getvalue()


def _mutated_torch_file(random: Random) -> bytes:
    """The archive as bytes, the pickle inside it, or the older format, whose first 2,000 bytes are pickles."""
    archive, older = _torch_files()
    if random.random() < 0.3:
        return mutate_bytes(archive, [], random)
    if random.random() < 0.4:
        return mutate_bytes(older[:2000], [], random) + older[2000:]
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as parts, zipfile.ZipFile(out, "w") as changed:
        for name in parts.namelist():
            data = parts.read(name)
            changed.writestr(name, mutate_bytes(data, [], random) if name.endswith("data.pkl") else data)
    return out.getvalue()


def _mutated_safetensors(data: bytes, random: Random) -> bytes:
    """Its header as JSON, its data, or the whole as bytes."""
    (length,) = struct.unpack_from("<Q", data)
    if random.random() < 0.3:
        return mutate_payload(data, 8 + length, random)
    if random.random() < 0.4:
        return mutate_bytes(data, [(0, "Q")], random)
    header: Any = json.loads(data[8 : 8 + length])
    text = mutate_json(header, random)
    return files.raw_safetensors(text, data[8 + length :])
