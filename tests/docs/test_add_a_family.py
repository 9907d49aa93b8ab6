"""docs/add-a-family.md: its file is a family, and its tests' file describes it: both run here as they stand on the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from code_blocks import code_blocks

from linnet import LLM, UnsupportedModelError
from linnet.arch import registry
from linnet.arch.config import Config

TESTS = Path(__file__).parents[1]
PROMPT = [int(token) for token in np.random.default_rng(1).integers(0, 101, 45)]
SHARED = {"vocab_size": 101, "max_position_embeddings": 160, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}


@pytest.fixture(scope="module")
def family() -> Iterator[Any]:
    """The page's family, registered as the page says; gives its description for tests."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("agree", "load"):
            patch.syspath_prepend(str(TESTS / folder))
        modules = [ModuleType(name) for name in ("linnet.arch.olmo", "families.olmo")]
        for module, code in zip(modules, code_blocks("add-a-family.md"), strict=True):
            patch.setitem(sys.modules, module.__name__, module)
            exec(compile(code, f"docs/add-a-family.md: {module.__name__}", "exec"), module.__dict__)
        patch.setitem(registry.HF_FAMILIES, "olmo", "olmo")
        patch.setitem(registry.GGUF_FAMILIES, "olmo", "olmo")
        yield modules[1].FAMILY


def model_of(family: Any, settings: dict[str, Any]) -> Any:
    torch.manual_seed(5)
    model = family.model(family.config(**(SHARED | family.settings | settings), attn_implementation="eager"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def their_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([PROMPT])).logits[0].numpy()


def all_settings(family: Any) -> list[dict[str, Any]]:
    return [*family.named.values(), *(family.draw(np.random.default_rng(seed)) for seed in range(6))]


@pytest.mark.parametrize("ops", ["reference", "native"])
def test_logits_are_those_of_transformers(family: Any, ops: str, tmp_path: Path) -> None:
    for index, settings in enumerate(all_settings(family)):
        model = model_of(family, settings)
        folder = tmp_path / str(index)
        model.save_pretrained(folder)
        expected = their_logits(model)
        with LLM(folder, ops=ops, kv_dtype="f32", context=45) as llm:
            assert llm.spec.family == "olmo"
            np.testing.assert_allclose(llm.logits(PROMPT), expected, rtol=0, atol=2e-4 * np.abs(expected).max(), err_msg=str(settings))


def test_the_table_is_the_state_dict(family: Any) -> None:
    for settings in all_settings(family):
        model = model_of(family, settings)
        spec, table = registry.build(Config(model.config.to_dict(), "config.json"))
        names = {str(row.hf).replace("{layer}", str(index)) for row in table.rows for index in range(len(spec.layers))}
        assert names == set(model.state_dict()) - ({"lm_head.weight"} if spec.tied else set())


def test_what_it_does_not_read_is_refused(family: Any, tmp_path: Path) -> None:
    model_of(family, family.named["plain"]).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "clip_qkv": 8.0}))
    with pytest.raises(UnsupportedModelError, match=r"config\.json: not understood: clip_qkv = 8\.0"):
        LLM(tmp_path)


def test_a_gguf_file_of_it(family: Any, tmp_path: Path) -> None:
    """Names of the gguf package; queries and keys in the order that llama.cpp's converter gives those of OLMo."""
    from gguf_files import interleave

    model = model_of(family, family.named["plain"])
    config = model.config
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "olmo")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_eps(1e-5)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.OLMO, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        for projection, heads in (("q_proj", 4), ("k_proj", 2)):
            if projection in name:
                values = interleave(values, heads)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with LLM(tmp_path / "model.gguf", ops="reference", kv_dtype="f32", context=45) as llm:
        np.testing.assert_allclose(llm.logits(PROMPT), their_logits(model), rtol=0, atol=2e-4 * np.abs(their_logits(model)).max())
