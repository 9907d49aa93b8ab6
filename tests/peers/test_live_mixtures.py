"""Which tensor gets which type, beside llama.cpp's own quantizer; run by `make test-peers`."""

from __future__ import annotations

from pathlib import Path

import comparison  # noqa: F401  # lets the next ones be found
import gguf
import pytest
from family import Settings
from family_cases import FamilyCase
from llama_quantize import equal_importance, quantize

from linnet.load.checkpoint import open_checkpoint
from linnet.quantize.file_types import FILE_TYPES, Choice, choose_types
from linnet.quantize.gguf_model import gguf_model
from models import FAMILIES, Draw

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install '.[peers]'")
pytestmark = pytest.mark.peers

GROUPED: Settings = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32}
MODELS: dict[str, Settings] = {
    "llama": {"num_hidden_layers": 17, "num_key_value_heads": 4, "num_attention_heads": 8},
    "llama-grouped": {"num_hidden_layers": 17, **GROUPED, "tie_word_embeddings": True},
    "llama-odd": {"num_hidden_layers": 9, "hidden_size": 288, "intermediate_size": 480, "num_attention_heads": 9, "num_key_value_heads": 3},
    "mixtral": {"num_hidden_layers": 9, "num_local_experts": 8},
    "qwen3_moe": {"num_hidden_layers": 9},
    "falcon": {"num_hidden_layers": 17},
    "gpt2": {"n_layer": 17},
    "deepseek_v2": {"num_hidden_layers": 9},
}
COMPARED = [name for name in FILE_TYPES if name not in ("F32", "MXFP4")]


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family = request.param.partition("-")[0]
    settings = {**FAMILIES[family].blocks, **MODELS[request.param]}
    case = FamilyCase(Draw(family, "mixture", settings), str(FAMILIES[family].gguf))
    return case.write(tmp_path_factory.mktemp("mixture"))


@pytest.mark.parametrize("name", COMPARED)
def test_types(path: Path, name: str, tmp_path: Path) -> None:
    ftype = "LLAMA_FTYPE_MOSTLY_" + name
    quantize(path, tmp_path / "theirs.gguf", getattr(llama_cpp, ftype), importance=equal_importance(path))
    theirs = {tensor.name: tensor.tensor_type.name.lower() for tensor in gguf.GGUFReader(tmp_path / "theirs.gguf").tensors}
    model = gguf_model(open_checkpoint(path))
    choice = Choice(FILE_TYPES[name], calibrated=True)
    ours = {one.tensor.name: one.type.name for one in choose_types(choice, model.tensors, model.spec, model.architecture)}
    assert ours == theirs
