"""Models on which two quantizers are compared, and how far a quantized file's predictions are from those of its source.

The built-in model's few thousand most sensitive numbers make one comparison a matter of luck, so it is compared in several orders of its
channels: the same function, in which other values share blocks.
"""

from __future__ import annotations

import json
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from linnet import LLM

TINY = Path(__file__).parents[2] / "models" / "tiny"
sys.path.append(str(TINY))
from corpus import documents  # noqa: E402

Arrays = dict[str, NDArray[np.float32]]

TYPES = {"q4_0": 2, "q2_k": 10, "q4_k": 15, "q6_k": 18}
"""llama.cpp's numbers of the file types (LLAMA_FTYPE_MOSTLY_*), which are pure here."""
CASES = [(type, False) for type in TYPES] + [("q4_k", True), ("q2_k", True)]
"""Types, and whether calibrated."""
ORDERS, RANDOM = 24, 6
MODELS = [f"tiny-{order}" for order in range(ORDERS)] + [f"random-{seed}" for seed in range(RANDOM)]
TOKENS, WINDOW = 2048, 256
CALIBRATION_TEXTS = 300


def write_model(name: str, folder: Path) -> Path:
    """A folder of one of MODELS, float32: tiny-0 is the built-in model as it is."""
    kind, number = name.split("-")
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.py", "*.safetensors", "__pycache__"))
    config = json.loads((TINY / "config.json").read_text())
    if kind == "tiny":
        tensors = {key: values.astype(np.float32) for key, values in load_file(TINY / "model.safetensors").items()}
        tensors = reordered(tensors, int(number)) if int(number) else tensors
    else:
        config |= {"tie_word_embeddings": False, "intermediate_size": 512}
        tensors = random_tensors(config, int(number))
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    save_file({key: np.ascontiguousarray(values, np.float32) for key, values in tensors.items()}, folder / "model.safetensors")
    return folder


def reordered(tensors: Arrays, seed: int) -> Arrays:
    """The same function with the channels of the residual stream and of every block's inner layer in another order."""
    rng = np.random.default_rng(seed)
    hidden = rng.permutation(tensors["model.norm.weight"].size)
    found, inner = {}, {}
    for name, values in tensors.items():
        layer = name.rpartition(".mlp.")[0]
        if layer and layer not in inner:
            inner[layer] = rng.permutation(tensors[f"{layer}.mlp.down_proj.weight"].shape[1])
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            values = values[inner[layer]]
        if name.endswith("down_proj.weight"):
            values = values[:, inner[layer]]
        found[name] = values[hidden] if values.ndim == 1 or name.endswith(("o_proj.weight", "down_proj.weight")) else values[:, hidden]
    return found


def random_tensors(config: dict[str, Any], seed: int) -> Arrays:
    """Student's t with 5 degrees of freedom, one column in a hundred three times as large, one value in a thousand five times; the
    embedding normal, with two columns in a hundred five times as large."""
    rng = np.random.default_rng(seed)
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden)}
    shapes |= {"self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden)}
    shapes |= {"mlp.down_proj": (hidden, inner)}

    def matrix(rows: int, columns: int, size: float) -> NDArray[np.float32]:
        values = rng.standard_t(5, (rows, columns)) * size / np.sqrt(columns)
        values *= np.where(rng.random((1, columns)) < 0.01, 3, 1) * np.where(rng.random((rows, columns)) < 0.001, 5, 1)
        return np.asarray(values, np.float16).astype(np.float32)

    def norm() -> NDArray[np.float32]:
        return np.asarray(np.exp(0.3 * rng.standard_normal(hidden)), np.float32)

    embedding = rng.standard_normal((vocabulary, hidden)) * np.where(rng.random((1, hidden)) < 0.02, 5, 1)
    found = {"model.embed_tokens.weight": embedding.astype(np.float16).astype(np.float32), "model.norm.weight": norm()}
    found["lm_head.weight"] = matrix(vocabulary, hidden, 0.7)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        found |= {prefix + "input_layernorm.weight": norm(), prefix + "post_attention_layernorm.weight": norm()}
        for name, (rows, columns) in shapes.items():
            found[f"{prefix}{name}.weight"] = matrix(rows, columns, 0.5 if name in ("self_attn.o_proj", "mlp.down_proj") else 1.0)
    return found


def calibration_text(path: Path) -> Path:
    """Texts like those that the built-in model was trained on, of another seed."""
    path.write_text("".join(islice(documents(77), CALIBRATION_TEXTS)), "utf-8")
    return path


def predictions(path: Path, threads: int = 1) -> NDArray[np.float64]:
    """Log-probabilities [TOKENS, vocabulary] on the built-in model's held-out text, in windows: weights decoded, all in float32."""
    with LLM(path, weights="f32", kv_dtype="f32", prefix_cache=False, max_batch=1, context=WINDOW, threads=threads) as llm:
        assert llm.tokenizer is not None
        ids = llm.tokenizer.encode((TINY / "held_out.txt").read_text("utf-8"), special=True)[:TOKENS]
        assert len(ids) == TOKENS
        logits = np.concatenate([llm.logits(ids[begin : begin + WINDOW]) for begin in range(0, TOKENS, WINDOW)]).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))


def divergence(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """Mean KL(expected || actual) in nats; both log-probabilities."""
    return float((np.exp(expected) * (expected - actual)).sum(axis=1).mean())
