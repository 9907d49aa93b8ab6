"""Files as the `gguf` package reads them, and as Linnet runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from safetensors.numpy import load_file
from tiny_model import TINY, Quantized

import linnet
from linnet import LLM, SamplingParams
from linnet.quantize.file_types import FILE_TYPES

LARGEST_ERROR = {
    "F32": 0.0,
    "F16": 1e-3,
    "BF16": 3e-3,
    "Q8_0": 0.01,
    "Q6_K": 0.03,
    "Q5": 0.06,
    "Q4": 0.12,
    "IQ4": 0.12,
    "MXFP4": 0.14,
    "Q3": 0.2,
    "Q2": 0.35,
}


def contents(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def test_the_gguf_package_reads_all_that_the_folder_says(tiny_in: Quantized) -> None:
    said = contents(tiny_in("Q4_K_M"))
    config, tokenizer = (json.loads((TINY / f"{name}.json").read_text("utf-8")) for name in ("config", "tokenizer"))
    assert said["general.architecture"] == "llama"
    assert said["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert said["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert said["llama.context_length"] == config["max_position_embeddings"]
    assert said["llama.embedding_length"] == config["hidden_size"]
    assert said["llama.block_count"] == config["num_hidden_layers"]
    assert said["llama.feed_forward_length"] == config["intermediate_size"]
    assert said["llama.attention.head_count"] == config["num_attention_heads"]
    assert said["llama.attention.head_count_kv"] == config["num_key_value_heads"]
    assert said["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config["rms_norm_eps"])
    assert said["llama.rope.freq_base"] == config["rope_parameters"]["rope_theta"]
    assert said["llama.vocab_size"] == len(said["tokenizer.ggml.tokens"]) == config["vocab_size"]
    assert {token: id for id, token in enumerate(said["tokenizer.ggml.tokens"])} == tokenizer["model"]["vocab"]
    assert said["tokenizer.ggml.merges"] == [" ".join(merge) for merge in tokenizer["model"]["merges"]]
    control = [id for id, kind in enumerate(said["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]
    assert control == [token["id"] for token in tokenizer["added_tokens"]]
    assert said["tokenizer.ggml.tokens"][said["tokenizer.ggml.eos_token_id"]] == "<|end|>"
    assert said["tokenizer.ggml.add_bos_token"] is False
    assert said["tokenizer.chat_template"] == (TINY / "chat_template.jinja").read_text("utf-8")


@pytest.mark.parametrize("type", FILE_TYPES)
def test_every_type_holds_the_values(type: str, tiny_in: Quantized) -> None:
    """Decoded by the `gguf` package, whose decoders are llama.cpp's in Python."""
    source = load_file(TINY / "model.safetensors")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_in(type)).tensors}
    assert len(tensors) == len(source)
    allowed = next(error for prefix, error in LARGEST_ERROR.items() if type.startswith(prefix))
    for name, ours in (("model.embed_tokens", "token_embd"), ("model.layers.2.mlp.down_proj", "blk.2.ffn_down")):
        tensor, expected = tensors[f"{ours}.weight"], source[f"{name}.weight"].astype(np.float32)
        values = quants.dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type)).reshape(expected.shape)
        assert np.linalg.norm(values - expected) <= allowed * np.linalg.norm(expected)
    norm = tensors["blk.1.ffn_norm.weight"]
    assert norm.tensor_type == GGMLQuantizationType.F32
    assert (norm.data == source["model.layers.1.post_attention_layernorm.weight"].astype(np.float32)).all()


@pytest.mark.parametrize("type", FILE_TYPES)
def test_linnet_runs_every_type(type: str, tiny_in: Quantized) -> None:
    with LLM(tiny_in(type)) as llm:
        answer = llm.chat([{"role": "user", "content": "What is 17 + 25?"}], SamplingParams(temperature=0.0, max_tokens=40))
        assert answer.text.endswith("17 + 25 = 42") or type in ("Q2_K", "Q3_K_S")
        assert answer.finish_reason == "stop"
        assert llm.tokenizer is not None
        assert llm.tokenizer.chat_template


@pytest.mark.parametrize(
    ("wanted", "name"),
    [({"bits": 2}, "Q2_K"), ({"bits": 4}, "Q4_K_M"), ({"bits": 8}, "Q8_0"), ({"type": "q4_K"}, "Q4_K_M"), ({"type": "Iq4_xS"}, "IQ4_XS")],
)
def test_types_by_other_names(wanted: dict[str, Any], name: str, tiny_in: Quantized, tmp_path: Path) -> None:
    assert linnet.quantize(TINY, tmp_path / "out.gguf", **wanted).type == name
    assert (tmp_path / "out.gguf").read_bytes() == tiny_in(name).read_bytes()


def test_quality_falls_with_size(tmp_path: Path) -> None:
    """On the built-in model and its own text, which is taken where the model is asked for by name."""
    reports = [linnet.quantize("tiny", tmp_path / "model.gguf", type, force=True) for type in ("F16", "q8_0", "q6_k", "q4_k", "q2_k")]
    divergences = [report.evaluation.kl_divergence for report in reports if report.evaluation]
    assert divergences[0] < 1e-9
    assert divergences == sorted(divergences)
    assert [report.bits_per_weight for report in reports] == sorted((report.bits_per_weight for report in reports), reverse=True)
    assert all(report.evaluation and report.evaluation.tokens > 3000 for report in reports)


def test_metadata_of_a_gguf_file_is_copied(tiny_in: Quantized, tmp_path: Path) -> None:
    """Keys that nobody knows too, each in its own type; a file's own keys are made anew."""
    source = tmp_path / "source.gguf"
    reader, writer = gguf.GGUFReader(tiny_in("F16")), gguf.GGUFWriter(source, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    writer.add_uint16("general.own.small", 7)
    writer.add_int64("general.own.large", -(2**40))
    writer.add_float64("general.own.precise", 0.1)
    writer.add_array("general.own.list", ["a", "ü"])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    linnet.quantize(source, tmp_path / "out.gguf", "q4_0")
    before, after = (gguf.GGUFReader(path).fields for path in (source, tmp_path / "out.gguf"))
    own = {"GGUF.kv_count", "general.file_type", "general.quantization_version"}
    assert before.keys() - own == after.keys() - own
    for name in before.keys() - own:
        assert after[name].types == before[name].types
        assert after[name].contents() == before[name].contents()


def test_same_bytes_with_any_number_of_threads(tmp_path: Path) -> None:
    for threads in (1, 3):
        linnet.quantize(str(TINY), tmp_path / f"{threads}.gguf", "q4_k_m", threads=threads)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()
