"""`inspect_model` against the files themselves, transformers, the `gguf` package, and the memory that an LLM takes."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gguf
import pytest
import torch
from gguf_files import write_gguf
from safetensors import safe_open
from torch_models import NanoGpt
from transformers import LlamaConfig, LlamaForCausalLM

from linnet import LLM, ContextLengthError, InvalidRequestError, ModelFileError, Tokenizer, inspect_model
from linnet.engine.page_plan import page_bytes
from linnet.look.memory import usual_contexts
from linnet.look.tensor_families import families, matching
from linnet.look.tokenizer_facts import NamedToken

TINY = Path(__file__).parents[2] / "models" / "tiny"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A GGUF file with Q4_K matrices, the built-in model's vocabulary and a template; and its oracle."""
    sizes = {"vocab_size": 1400, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "max_position_embeddings": 8192}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    template = "{{ messages[0].content }}"
    return write_gguf(path, model, "q4_k", TINY / "tokenizer.json", "gpt-2", template, eos_token_id=4), model


def test_tensors_are_those_of_the_file() -> None:
    report = inspect_model("tiny")
    with safe_open(TINY / "model.safetensors", "numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    assert {t.name: (t.shape, t.type, t.nbytes) for t in report.tensors} == {n: (a.shape, "f16", a.nbytes) for n, a in arrays.items()}
    assert [(Path(file).name, size) for file, size in report.files.items()] == [
        ("model.safetensors", (TINY / "model.safetensors").stat().st_size)
    ]
    assert report.file_bytes == (TINY / "model.safetensors").stat().st_size
    assert (report.format, report.bits_per_weight) == ("safetensors", 16.0)


def test_a_gguf_file_is_described_as_the_gguf_package_reads_it(quantized: tuple[Path, LlamaForCausalLM]) -> None:
    path, model = quantized
    report, reader = inspect_model(path), gguf.GGUFReader(path)
    assert report.format == "GGUF"
    assert report.file_bytes == path.stat().st_size
    assert report.parameters.total == model.num_parameters()
    found = {t.name: (t.shape, t.type, t.nbytes) for t in report.tensors}
    assert found == {t.name: (tuple(map(int, t.shape[::-1])), t.tensor_type.name.lower(), t.n_bytes) for t in reader.tensors}
    assert {share.type: share.tensors for share in report.types} == Counter(t.tensor_type.name.lower() for t in reader.tensors)
    assert {share.type: share.bits_per_weight for share in report.types} == {"q4_k": 4.5, "f32": 32.0}
    bits = 8 * sum(t.n_bytes for t in reader.tensors) / sum(t.n_elements for t in reader.tensors)
    assert report.bits_per_weight == pytest.approx(float(bits))


def test_a_plain_pytorch_checkpoint(tmp_path: Path) -> None:
    sizes = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 20, "bias": True, "vocab_size": 97, "dropout": 0.1}
    model, path = NanoGpt(sizes, tied=True), tmp_path / "ckpt.pt"
    torch.save({"model": model.state_dict(), "model_args": sizes}, path)
    report = inspect_model(path)
    assert (report.format, report.files, report.tokenizer) == ("PyTorch", {str(path): path.stat().st_size}, None)
    assert report.parameters.total == sum(parameter.numel() for parameter in model.parameters())
    assert {share.type for share in report.types} == {"f32"}


def test_tokenizer_and_templates(quantized: tuple[Path, LlamaForCausalLM]) -> None:
    report = inspect_model(quantized[0])
    facts = report.tokenizer
    assert facts is not None
    assert (facts.kind, facts.vocab_size) == ("byte-level BPE (GGUF gpt2, words cut as gpt-2)", 1400)
    assert (facts.bos, facts.eos) == (NamedToken(1, "<|user|>"), NamedToken(4, "<|end|>"))  # 1: as transformers' LlamaConfig has it
    assert [token.id for token in facts.special] == sorted(Tokenizer(quantized[0]).special_ids)
    assert report.chat_templates == {"default": "{{ messages[0].content }}"}
    tiny = inspect_model("tiny")
    assert tiny.tokenizer is not None
    assert tiny.tokenizer.kind == "byte-level BPE (tokenizer.json)"
    assert tiny.chat_templates == {"default": (TINY / "chat_template.jinja").read_text()}


def test_a_tokenizer_that_cannot_be_read_is_no_end(tiny_copy: Path) -> None:
    (tiny_copy / "tokenizer.json").write_text("{")
    report = inspect_model(tiny_copy)
    assert report.tokenizer is None
    assert "tokenizer.json" in (report.tokenizer_error or "")
    (tiny_copy / "tokenizer.json").unlink()
    report = inspect_model(tiny_copy)
    assert (report.tokenizer, report.tokenizer_error, report.chat_templates) == (None, None, {})


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((TINY / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("weights", ["auto", "q8_0"])
def test_memory_is_what_an_llm_takes(quantized: tuple[Path, LlamaForCausalLM], weights: str) -> None:
    report = inspect_model(quantized[0], weights=weights, contexts=[100, 513], batch_sizes=[1, 3])
    assert {(need.context, need.batch_size) for need in report.memory} == {(100, 1), (100, 3), (513, 1), (513, 3)}
    assert {need.kv_dtype for need in report.memory} == {"f16", "bf16", "q8_0", "f32"}
    for need in report.memory:
        options = {"context": need.context, "max_batch": need.batch_size, "kv_dtype": need.kv_dtype}
        with LLM(quantized[0], weights=weights, ops="reference", **options) as llm:
            assert need.kv_cache_bytes == llm.engine.pool.count * page_bytes(llm.spec, need.kv_dtype)
        assert need.total_bytes == need.weight_bytes + need.kv_cache_bytes + need.step_bytes
    matrices = sum(t.nbytes for t in report.tensors if len(t.shape) == 2)
    vectors = sum(t.nbytes for t in report.tensors if len(t.shape) == 1)
    assert report.memory[0].weight_bytes == vectors + (matrices if weights == "auto" else matrices * 8.5 / 4.5)


def test_contexts_are_the_models_own_and_fractions_of_it() -> None:
    assert usual_contexts(131072) == [2048, 8192, 32768, 131072]
    assert usual_contexts(2048) == [512, 2048]
    assert usual_contexts(100) == [100]
    with pytest.raises(ContextLengthError, match="context is 2000 and the model was made for 1024"):
        inspect_model("tiny", contexts=[512, 2000])
    with pytest.raises(InvalidRequestError, match="weights is 'q9'"):
        inspect_model("tiny", weights="q9")


def test_what_does_not_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linnet.engine.page_plan.available_memory", lambda: 30_000_000)
    report = inspect_model("tiny")
    budget = (30_000_000 - report.memory[0].weight_bytes) * 0.4
    assert [need.fits for need in report.memory] == [need.kv_cache_bytes <= budget for need in report.memory]
    assert {need.fits for need in report.memory} == {True, False}


def test_the_record_is_json_and_says_the_whole_spec() -> None:
    report = inspect_model("tiny")
    record = json.loads(json.dumps(report.record()))
    assert record["family"] == "llama"
    assert record["spec"]["layers"][0]["layers"] == [0, 1, 2, 3]
    assert record["spec"]["layers"][0]["mixer"]["ropes"][0]["theta"] == report.spec.layers[0].attention.ropes[0].theta
    assert record["spec"]["layers"][0]["mlp"] == {"class": "Mlp", "width": 768, "activation": "silu", "gated": True}
    assert len(record["tensors"]) == len(report.tensors)
    assert record["chat_templates"]["default"] == report.chat_templates["default"]


def test_tensors_that_differ_by_number_are_one_family() -> None:
    report = inspect_model("tiny")
    found = {family.name: family.count for family in families(report.tensors)}
    assert found["model.layers.{0 to 3}.mlp.up_proj.weight"] == 4
    assert found["model.embed_tokens.weight"] == 1
    assert sum(found.values()) == len(report.tensors)
    assert [t.name for t in matching(report.tensors, "*.2.*q_proj*")] == ["model.layers.2.self_attn.q_proj.weight"]
    with pytest.raises(InvalidRequestError, match=r"no tensor is called 'blk\.\*'"):
        matching(report.tensors, "blk.*")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not say what a process took")
def test_no_weight_of_a_model_of_a_hundred_gigabytes_is_read(tmp_path: Path) -> None:
    """The file is all holes behind its header; the process may touch no more than a small part of what it would fill."""
    config = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 72}
    config |= {"max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 64, "num_key_value_heads": 64}))
    shapes = {"model.embed_tokens.weight": [32000, 8192], "lm_head.weight": [32000, 8192], "model.norm.weight": [8192]}
    for layer in range(72):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": [8192, 8192] for name in "qkvo"}
        shapes |= {f"{prefix}.mlp.{name}_proj.weight": [22016, 8192] for name in ("gate", "up")}
        shapes |= {f"{prefix}.mlp.down_proj.weight": [8192, 22016]}
        shapes |= {f"{prefix}.{name}_layernorm.weight": [8192] for name in ("input", "post_attention")}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    code = """
import sys
from linnet import inspect_model
report = inspect_model(sys.argv[1])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(report.parameters.total, peak.split()[1])
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True, timeout=60)
    total, peak_kilobytes = map(int, done.stdout.split())
    assert 2 * total == end > 100e9
    assert peak_kilobytes < 400_000


def test_files_that_are_no_model(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(vocabulary, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    with pytest.raises(ModelFileError, match=r"vocabulary\.gguf: a vocabulary without tensors"):
        inspect_model(vocabulary)
    with pytest.raises(ModelFileError, match="no such file"):
        inspect_model(tmp_path / "missing")
