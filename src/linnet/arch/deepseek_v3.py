"""DeepSeek V3 and R1 (2024), Kimi K2, GLM 4.7 Flash: V2's latent attention, and experts scored by sigmoids, corrected for choosing.

GGUF calls these files "deepseek2". Layers that predict further tokens are left out.
"""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.deepseek_v2 import latent_spec, table
from linnet.arch.moe import read_corrected_router
from linnet.arch.sizes import further_layers
from linnet.arch.spec import ModelSpec
from linnet.arch.table import Table

__all__ = ["build", "table"]

_GROUPS = {"n_group": 8, "topk_group": 4}
_DEFAULTS = {
    "deepseek_v3": {**_GROUPS, "first_k_dense_replace": 3, "routed_scaling_factor": 2.5, "n_shared_experts": 1},
    "glm4_moe_lite": {"first_k_dense_replace": 1, "routed_scaling_factor": 1.8, "n_shared_experts": 1, "rms_norm_eps": 1e-5},
}
"""Of transformers' classes, where a published config.json leaves a key out."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    # The norms within attention have this epsilon, too: as vLLM and llama.cpp have it. DeepSeek's files say the same for both.
    config.assume(**_DEFAULTS.get(config.text("model_type"), {}))
    spec = latent_spec(config, "deepseek_v3", read_corrected_router)
    rows = table(spec) if gguf else table(spec, config.flag("attention_bias", False), mlp_bias=False)
    return spec, replace(rows, ignored=(*rows.ignored, *further_layers(config, len(spec.layers))))
