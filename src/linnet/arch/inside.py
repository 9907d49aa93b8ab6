"""Text models out of checkpoints that also see or hear."""

from __future__ import annotations

from dataclasses import replace

from linnet.arch.config import Config
from linnet.arch.table import Row, Stored, Table

_KEYS = """
vision_config audio_config mm_tokens_per_image vision_soft_tokens_per_image audio_soft_tokens_per_image image_token_index boi_token_index
eoi_token_index image_token_id boi_token_id eoi_token_id video_token_id audio_token_id boa_token_id eoa_token_id eoa_token_index
vision_start_token_id vision_end_token_id multimodal_projector_bias projector_hidden_act spatial_merge_size vision_feature_layer
"""
"""Of the whole, which only matter to images and sounds."""
_PARTS = "vision_tower multi_modal_projector audio_tower embed_vision embed_audio vision_embedder visual"


def text_config(config: Config, tied: bool = True) -> tuple[Config, bool]:
    """The configuration of the text model inside that of the whole, and whether its output is tied (tied: where nothing says so); of a
    text model by itself, its own."""
    tied = config.flag("tie_word_embeddings", tied)
    if config.format == "gguf" or config.text("model_type").endswith("_text"):
        return config, tied
    config.ignore(_KEYS.split())
    text = config.group("text_config")
    if text is None:
        raise config.error("text_config", "the configuration of the text model")
    return text, text.flag("tie_word_embeddings", tied)


def inside(table: Table) -> Table:
    """The table of the text model by itself, and as the whole has it, under the names that were published and under those of
    transformers."""
    ignored = [f"language_model.{name}" for name in table.ignored if not name.startswith("*")]
    return Table(tuple(map(_also_inside, table.rows)), (*table.ignored, *ignored, *(f"*{part}.*" for part in _PARTS.split())))


def _also_inside(row: Row) -> Row:
    given = row.hf if isinstance(row.hf, tuple) else (row.hf,)
    stored = [Stored(how) if isinstance(how, str) else how for how in given if how is not None]
    names = [(how, name) for how in stored for name in (how.name, f"language_model.{how.name}", _within(how.name))]
    return replace(row, hf=tuple(replace(how, name=name) for how, name in names))


def _within(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1)
