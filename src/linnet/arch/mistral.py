"""Mistral 7B (Jiang et al. 2023) and its successors of the same shape: Llama with a sliding window and no biases.

GGUF calls these files "llama".
"""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec
from linnet.arch.spec import ModelSpec
from linnet.arch.table import ATTENTION, GATED_MLP, Table, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    # null means no window; a file that does not say has the 4096 of the first release.
    spec = llama_spec(config, "mistral", config.optional_integer("sliding_window", 4096))
    return spec, table(spec)


def table(spec: ModelSpec) -> Table:
    return standard_table(spec, (*ATTENTION, *GATED_MLP))
