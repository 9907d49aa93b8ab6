"""Plain PyTorch checkpoints of every kind: the tokens are those of the PyTorch code that the weights come from."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_models import GENERATIONS, Generation, NanoChat, NanoGpt, Tutorial, greedy, randomise, spelled_out
from transformers import GPT2Config, GPT2LMHeadModel

from linnet import LLM, SamplingParams
from linnet.errors import InvalidRequestError, ModelFileError
from linnet.load.checkpoint import open_checkpoint

OP_SETS = ["reference", "native"]

H_PARAMS = {"d_model": 24, "num_heads": 3, "num_blocks": 2, "context_length": 16, "max_token_value": 97}
TRAINING = {
    "batch_size": 4,
    "learning_rate": 1e-3,
    "dropout": 0.1,
    "device": "cuda",
    "max_iters": 5000,
    "eval_interval": 50,
    "eval_iters": 20,
}
NANOGPT = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 20, "bias": True, "vocab_size": 97, "dropout": 0.1}
NANOCHAT = {"sequence_len": 384, "vocab_size": 97, "n_layer": 5, "n_head": 4, "n_kv_head": 2, "n_embd": 64}


@pytest.fixture(params=OP_SETS)
def op_set(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def generated(path: Path, op_set: str, prompt: list[int], count: int, **options: Any) -> list[int]:
    with LLM(path, ops=op_set, kv_dtype="f32", **options) as llm:
        return llm.generate(prompt, SamplingParams(temperature=0.0, max_tokens=count))[0].token_ids


def logits(path: Path, op_set: str, tokens: list[int]) -> Any:
    with LLM(path, ops=op_set, kv_dtype="f32") as llm:
        return llm.logits(tokens)


def assert_close(ours: Any, model: Callable[[torch.Tensor], torch.Tensor], tokens: list[int]) -> None:
    with torch.no_grad():
        theirs = model(torch.tensor([tokens]))[0].numpy()
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def tutorial(**options: Any) -> Tutorial:
    model = Tutorial(H_PARAMS, **options)
    randomise(model, seed=3)
    return model.eval()


def nanogpt(tied: bool = True, **changed: Any) -> NanoGpt:
    model = NanoGpt(NANOGPT | changed, tied)
    randomise(model)
    return model.eval()


# ---- from-scratch tutorials


@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
@pytest.mark.parametrize("options", [{}, {"projection_bias": False}, {"spare_row": True}], ids=["plain", "no-projection-bias", "spare-row"])
def test_a_tutorials_model_generates_what_its_code_does(long: bool, options: dict[str, bool], op_set: str, tmp_path: Path) -> None:
    model, context = tutorial(**options), H_PARAMS["context_length"]
    state = spelled_out(model.state_dict()) if long else model.state_dict()
    torch.save({"h_params": H_PARAMS | TRAINING, "model_state_dict": state}, tmp_path / "model.ckpt")
    seen = set()
    for prompt in ([5, 1, 90], list(range(12)), list(range(40, 80))):  # the last is longer than the context
        expected = greedy(model, prompt, 40, context)
        assert generated(tmp_path / "model.ckpt", op_set, prompt, 40) == expected
        seen.update(expected)
    assert len(seen) > 5


# ---- GPT-2 in PyTorch


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_nanogpts_model_generates_what_its_code_does(bias: bool, tied: bool, prefix: str, op_set: str, tmp_path: Path) -> None:
    model = nanogpt(tied, bias=bias)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    saved = {"model": state, "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.zeros(3)}}}, "iter_num": 10}
    torch.save(saved | {"model_args": NANOGPT | {"bias": bias}, "config": {"dataset": "x"}}, tmp_path / "ckpt.pt")
    for prompt in ([7, 3], list(range(30))):
        expected = greedy(model, prompt, 40, NANOGPT["block_size"])
        assert generated(tmp_path / "ckpt.pt", op_set, prompt, 40, overflow="slide") == expected
    assert len(set(expected)) > 3


def test_a_gpt2_style_checkpoint_with_config_and_tokenizer_path(op_set: str, tmp_path: Path) -> None:
    model = nanogpt(vocab_size=300)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    state |= {f"module.transformer.h.{i}.attn.bias": torch.ones(1, 1, 20, 20) for i in range(2)}  # older code's mask
    (tmp_path / "tok").mkdir()
    write_tokenizer(tmp_path / "tok" / "tokenizer.json")
    saved = {"model": state, "config": NANOGPT | {"vocab_size": 300}, "tokenizer_path": "tok/tokenizer.json"}
    torch.save(saved, tmp_path / "gpt.pth")
    with LLM(tmp_path / "gpt.pth", ops=op_set, kv_dtype="f32") as llm:
        completion = llm.generate("abc", SamplingParams(temperature=0.0, max_tokens=15))[0]
        assert completion.prompt_token_ids == [64, 65, 66]
        assert completion.token_ids == greedy(model, [64, 65, 66], 15, 20)
    torch.save(saved | {"tokenizer_path": "C:\\runs\\elsewhere\\gone.json"}, tmp_path / "gpt.pth")
    with LLM(tmp_path / "gpt.pth", ops=op_set) as llm, pytest.raises(InvalidRequestError, match=r"no tokenizer.*pass tokenizer="):
        llm.generate("abc")


def write_tokenizer(path: Path) -> None:
    """Printable ASCII, a token each."""
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({chr(33 + i): i for i in range(94)}, [])).save(str(path))


# ---- nanochat


def save_nanochat(folder: Path, model: NanoChat, step: int, prefix: str = "") -> Path:
    path = folder / f"model_{step:06d}.pt"
    torch.save({prefix + name: tensor for name, tensor in model.state.items()}, path)
    meta = {"step": step, "val_bpb": 0.8, "model_config": model.config, "user_config": {"depth": 5, "run": "dummy"}}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta))
    return path


def nanochat(generation: Generation, **changed: Any) -> NanoChat:
    config = NANOCHAT | changed
    if generation.remixed:
        config = {"window_pattern": "SSSL"} | config
    return NanoChat(config, generation, seed=1)


@pytest.mark.parametrize("name", GENERATIONS)
def test_nanochats_models_generate_what_its_code_does(name: str, op_set: str, tmp_path: Path) -> None:
    changed = {"short_seq_len": 128} if name == "2026-08" else {}
    model = nanochat(GENERATIONS[name], **changed)
    path = save_nanochat(tmp_path, model, 650, "_orig_mod." if name == "2025-10" else "")
    tokens = np.random.default_rng(0).integers(0, 97, 240).tolist()  # longer than every short window: 192 and 128 tokens
    assert_close(logits(path, op_set, tokens), model, tokens)
    expected = greedy(model, tokens[:200], 40, 384)
    assert generated(path, op_set, tokens[:200], 40) == expected
    assert generated(path, op_set, tokens[:1], 32) == greedy(model, tokens[:1], 32, 384)
    assert len(set(expected)) > 8


def test_a_nanochat_folder_is_its_last_step(tmp_path: Path) -> None:
    old, new = (NanoChat(NANOCHAT, GENERATIONS["2025-10"], seed) for seed in (1, 2))
    save_nanochat(tmp_path, new, 1000)
    early = save_nanochat(tmp_path, old, 990)
    torch.save({"exp_avg": torch.zeros(2)}, tmp_path / "optim_001000_rank0.pt")
    (tmp_path / "model_001100_backup.pt").write_bytes(b"")
    assert_close(logits(tmp_path, "reference", [1, 2, 3]), new, [1, 2, 3])
    assert_close(logits(early, "reference", [1, 2, 3]), old, [1, 2, 3])


def test_chat_with_a_nanochat_folder(op_set: str, tmp_path: Path) -> None:
    """Model and tokenizer where nanochat's training leaves them; an answer ends with <|assistant_end|>, and never before."""
    tiktoken = pytest.importorskip("tiktoken")
    special = "bos user_start user_end assistant_start assistant_end python_start python_end output_start output_end".split()
    ids = {f"<|{name}|>": 256 + i for i, name in enumerate(special)}
    encoding = tiktoken.Encoding("rustbpe", pat_str=r"\w+|\W", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens=ids)
    folder, beside = tmp_path / "chatsft_checkpoints" / "d5", tmp_path / "tokenizer"
    folder.mkdir(parents=True)
    beside.mkdir()
    (beside / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    model = nanochat(GENERATIONS["2026-08"], vocab_size=265, short_seq_len=128)
    for token in ids.values():
        model.state["lm_head.weight"][token] = 0  # no special token but the end, and that one now and then
    save_nanochat(folder, model, 20)
    prompt = [256, 257, *b"hello <|bos|>", 258, 259]
    with LLM(folder, ops=op_set, kv_dtype="f32") as llm:
        answer = llm.chat([{"role": "user", "content": "hello <|bos|>"}], SamplingParams(temperature=0.0, max_tokens=20))
        assert answer.prompt_token_ids == prompt
        assert answer.token_ids == greedy(model, prompt, 20, 384)
        end = SamplingParams(temperature=0.0, max_tokens=20, logit_bias={260: 100.0}, min_tokens=3)
        ended = llm.chat([{"role": "user", "content": "hello <|bos|>"}], end)
        assert (ended.token_ids, ended.finish_reason) == ([*answer.token_ids[:3], 260], "stop")


def test_the_encoding_that_is_taken_where_none_is_named(tmp_path: Path) -> None:
    torch.save({"h_params": H_PARAMS, "model_state_dict": tutorial().state_dict()}, tmp_path / "model.ckpt")
    assert open_checkpoint(tmp_path / "model.ckpt").encoding == "cl100k_base"
    for vocabulary, encoding in ((50_304, "gpt2"), (50_257, "gpt2"), (65, None)):
        model = NanoGpt(NANOGPT | {"vocab_size": vocabulary, "n_embd": 6, "n_layer": 1})
        torch.save(
            {"model": model.state_dict(), "model_args": NANOGPT | {"vocab_size": vocabulary, "n_embd": 6, "n_layer": 1}}, tmp_path / "x.pt"
        )
        assert open_checkpoint(tmp_path / "x.pt").encoding == encoding


# ---- files


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tensors_of_every_float(dtype: torch.dtype, op_set: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = nanogpt().to(dtype)
    torch.save({"model": model.state_dict(), "model_args": NANOGPT}, tmp_path / "ckpt.pt")
    with caplog.at_level(logging.WARNING):
        ours = logits(tmp_path / "ckpt.pt", op_set, [1, 2, 3])
    assert_close(ours, model.float(), [1, 2, 3])
    assert ("float64" in caplog.text) == (dtype == torch.float64)


def test_tensors_that_are_views_of_others(op_set: str, tmp_path: Path) -> None:
    model = nanogpt()
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.ndim == 2 and "w" not in name.split(".")[1]:
            state[name] = tensor.T.contiguous().T  # another order of memory
    torch.save({"model": state, "model_args": NANOGPT}, tmp_path / "ckpt.pt")
    assert_close(logits(tmp_path / "ckpt.pt", op_set, [1, 2, 3]), model, [1, 2, 3])


def test_the_format_of_before_pytorch_1_6(op_set: str, tmp_path: Path) -> None:
    model = tutorial()
    saved = {"h_params": H_PARAMS, "model_state_dict": model.state_dict()}
    torch.save(saved, tmp_path / "model.ckpt", _use_new_zipfile_serialization=False)
    assert generated(tmp_path / "model.ckpt", op_set, [1, 2, 3], 32) == greedy(model, [1, 2, 3], 32, 16)


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=24, n_layer=3, n_head=3, bos_token_id=1, eos_token_id=None)
    model = GPT2LMHeadModel(config)
    randomise(model)
    model.train(False)
    return model


@pytest.mark.parametrize("shards", [1, 3])
def test_hugging_face_folders_with_pickled_weights(shards: int, gpt2: Any, op_set: str, tmp_path: Path) -> None:
    gpt2.config.save_pretrained(tmp_path)
    state = {name: tensor.clone() for name, tensor in gpt2.state_dict().items() if name != "lm_head.weight"}
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)  # as old checkpoints have it
    names = list(state)
    files = ["pytorch_model.bin"] if shards == 1 else [f"pytorch_model-{i + 1:05d}-of-00003.bin" for i in range(3)]
    homes = {name: files[i * shards // len(names)] for i, name in enumerate(names)}
    for file in files:
        torch.save({name: state[name] for name in names if homes[name] == file}, tmp_path / file)
    if shards > 1:
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    assert_close(logits(tmp_path, op_set, [1, 2, 3]), lambda ids: gpt2(ids).logits, [1, 2, 3])
    if shards > 1:
        (tmp_path / files[1]).unlink()
        with pytest.raises(ModelFileError, match=rf"the shard {files[1]} is not there"):
            LLM(tmp_path)


def test_the_only_checkpoint_of_a_folder_is_opened(tmp_path: Path) -> None:
    model = nanogpt()
    torch.save({"model": model.state_dict(), "model_args": NANOGPT}, tmp_path / "ckpt.pt")
    assert_close(logits(tmp_path, "reference", [1, 2]), model, [1, 2])
    torch.save({}, tmp_path / "other.pt")
    with pytest.raises(ModelFileError, match=r"name one of ckpt\.pt, other\.pt"):
        LLM(tmp_path)


def test_weights_stay_where_the_file_maps_them(tmp_path: Path) -> None:
    """A large checkpoint takes little memory of its own: its matrices are views of the mapped file."""
    torch.save({"model": nanogpt().state_dict(), "model_args": NANOGPT, "unused": nn.Linear(8, 8).weight}, tmp_path / "ckpt.pt")
    with open("/proc/self/maps") as maps:
        assert "ckpt.pt" not in maps.read()
    checkpoint = open_checkpoint(tmp_path / "ckpt.pt")
    with open("/proc/self/maps") as maps:
        mapped = [line.split() for line in maps if "ckpt.pt" in line]
    address = checkpoint.source.read("transformer.wte.weight").data.ctypes.data
    assert any(int(start, 16) <= address < int(end, 16) for start, end in (line[0].split("-") for line in mapped))
    checkpoint.close()
