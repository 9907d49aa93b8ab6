"""dots.llm1 (rednote 2025): Qwen 3's attention, upper layers perhaps with a window, and experts chosen as in DeepSeek V3."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.deepseek import later_layers
from linnet.arch.moe import moe_rows, read_corrected_router, read_moe, with_experts
from linnet.arch.qwen2 import qwen_spec
from linnet.arch.spec import ModelSpec
from linnet.arch.table import ATTENTION, QUERY_KEY_NORMS, Table, biases, standard_table


def build(config: Config) -> tuple[ModelSpec, Table]:
    gguf = config.format == "gguf"
    if not gguf:
        config.assume(use_sliding_window=True, max_window_layers=62, norm_topk_prob=False)
    dense = qwen_spec(config, "dots1", query_key_norms=True)
    spec = with_experts(dense, read_moe(config, read_corrected_router), later_layers(config, len(dense.layers)))
    return spec, table(spec, None if gguf else config.flag("attention_bias", False))


def table(spec: ModelSpec, attention_bias: bool | None = None) -> Table:
    """Biases: on the four projections of attention, on none, or (None) as the checkpoint has them."""
    return standard_table(spec, (*ATTENTION, *biases(ATTENTION, attention_bias), *QUERY_KEY_NORMS, *moe_rows(spec)))
