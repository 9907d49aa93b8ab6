"""Mistral 7B (Jiang et al. 2023) and its successors of the same shape: Llama with a sliding window and no biases; in Ministral (2024),
which layers have it is listed. GGUF calls these files "llama"."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.layer_types import sliding_layers
from linnet.arch.llama import llama_spec
from linnet.arch.spec import ModelSpec
from linnet.arch.table import ATTENTION, GATED_MLP, Table, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    # null means no window; a file that does not say has the 4096 of the first release.
    family, window = config.text("model_type"), config.optional_integer("sliding_window", 4096)
    spec = llama_spec(config, family, window)
    if family == "ministral":
        layer, sliding = spec.layers[0], sliding_layers(config, len(spec.layers), lambda layer: True)
        everywhere = replace(layer, attention=replace(layer.attention, window=None))
        spec = replace(spec, layers=tuple(layer if slides else everywhere for slides in sliding))
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    return standard_table(spec, (*ATTENTION, *GATED_MLP))
