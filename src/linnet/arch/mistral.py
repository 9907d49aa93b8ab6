"""Mistral 7B (Jiang et al. 2023) and its successors of the same shape, also out of a checkpoint that sees (Mistral Small 3.1): Llama
with a sliding window, or none, and no biases. Ministral (2024) lists the layers that have the window; in Ministral 3 (2025) queries grow
with their position. GGUF calls these files "llama", or "mistral3" where they saw."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.inside import inside, text_config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.llama import llama_spec
from linnet.arch.spec import Layer, ModelSpec, Temperature
from linnet.arch.table import ATTENTION, GATED_MLP, Table, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    if config.format == "hf" and config.text("model_type") == "mistral3":
        config, tied = text_config(config, tied=False)
        config.assume(model_type="mistral", tie_word_embeddings=tied)
    # null means no window; a file that does not say has the 4096 of the first release.
    first = config.format == "hf" and config.text("model_type") != "ministral3"
    spec = llama_spec(config, "mistral", config.optional_integer("sliding_window", 4096 if first else None))
    if config.text("model_type") == "ministral":
        layer, sliding = spec.layers[0], sliding_layers(config, len(spec.layers), lambda layer: True)
        everywhere = replace(layer, mixer=replace(layer.attention, window=None))
        spec = replace(spec, family="ministral", layers=tuple(layer if slides else everywhere for slides in sliding))
    temperature = _temperature(config)
    if temperature is not None:
        layers = tuple(_growing(layer, temperature) for layer in spec.layers)
        spec = replace(spec, family="ministral3", layers=layers)
    return spec, table(spec)


def _temperature(config: Config) -> Temperature | None:
    """GGUF has it beside the rotary scaling, config.json in it."""
    group = config.group("rope_scaling") or config.group("rope_parameters")
    if group is None:
        return None
    group.ignore(["max_position_embeddings"])
    beta = (config if config.format == "gguf" else group).number("llama_4_scaling_beta", 0.0)
    return Temperature(beta, group.integer("original_max_position_embeddings")) if beta else None


def _growing(layer: Layer, temperature: Temperature) -> Layer:
    return replace(layer, mixer=replace(layer.attention, temperature=temperature))


def table(spec: ModelSpec) -> Table:
    return inside(standard_table(spec, (*ATTENTION, *GATED_MLP)))
