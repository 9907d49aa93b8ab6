"""Tiny random models made by transformers: what every family is checked on, on every op set."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family import CONTEXT, VOCABULARY, Family, Settings
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

import linnet.arch
from linnet.arch.registry import GGUF_FAMILIES, HF_FAMILIES

ARCH = Path(linnet.arch.__path__[0])
BUILT = [name for name in dict.fromkeys([*HF_FAMILIES.values(), *GGUF_FAMILIES.values()]) if (ARCH / f"{name}.py").exists()]
"""The families that the registry names and that are there."""

DRAWN_IN_CI, DRAWN = 3, 20
"""How many random draws of each family: the first few always, the others in the slow tests."""


FAMILIES: dict[str, Family] = {}
UNDESCRIBED: dict[str, Exception] = {}
"""Why a family has no usable description: one test fails for it, and the others run."""
for name in BUILT:
    try:
        FAMILIES[name] = import_module(f"families.{name}").FAMILY
    except Exception as error:
        UNDESCRIBED[name] = error


@dataclass(frozen=True)
class Draw:
    """One tiny model. `settings` are its config keys past those that all share."""

    family: str
    name: str
    settings: Settings = field(compare=False)
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"

    def model(self) -> PreTrainedModel:
        """The model in float32, with eager attention (but where a family says otherwise) and experts, the same at each call."""
        made = FAMILIES[self.family]
        shared: Settings = {
            "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
        }
        shared |= {"attn_implementation": "eager", "experts_implementation": "eager"}
        config = made.config(**(shared | made.settings | self.settings))
        model: PreTrainedModel = made.model(config)
        model.train(False)
        randomise(model, zlib.crc32(str(self).encode()))
        return model


def named_draws(name: str) -> list[Draw]:
    return [Draw(name, draw, settings) for draw, settings in FAMILIES[name].named.items()]


def random_draws(name: str) -> Iterator[Draw]:
    for index in range(DRAWN):
        random = np.random.default_rng([zlib.crc32(name.encode()), index])
        yield Draw(name, f"random-{index}", FAMILIES[name].draw(random), slow=index >= DRAWN_IN_CI)


FIRST = [named_draws(name)[0] for name in FAMILIES]
"""Each family at its plainest."""
NAMED = [draw for name in FAMILIES for draw in named_draws(name)]
DRAWS = [draw for name in FAMILIES for draw in (*named_draws(name), *random_draws(name))]
BLOCKS = {name: Draw(name, "blocks", made.blocks) for name, made in FAMILIES.items()}
"""Every matrix has columns for the blocks of 256 of K-quants."""


@lru_cache(maxsize=16)
def shared_model(draw: Draw) -> PreTrainedModel:
    """The model of a draw, made once: not to be changed."""
    return draw.model()


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights that keep the size of what passes through, so that logits differ by whole units; norms around 1 (or 0 where 1 is
    added to them) and biases around 0, at which transformers starts them exactly."""
    generator = torch.Generator().manual_seed(seed)
    transposed = {id(p) for module in model.modules() for p in module.parameters(recurse=False) if is_transposed(module)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if is_matrix(name, parameter):
                inputs = parameter.shape[-2 if id(parameter) in transposed else -1]
                parameter.copy_(1.5 * inputs**-0.5 * noise)
            else:
                parameter.copy_((parameter == 1).all() + 0.3 * noise)


def is_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Or a stack of them; not norms of several heads, nor biases of several experts."""
    return parameter.ndim > 1 and "norm" not in name.rpartition(".")[0].rpartition(".")[2] and "bias" not in name


def is_transposed(module: torch.nn.Module) -> bool:
    """Whether a module's matrices are [in, out]: GPT-2's, and some stacks of experts."""
    return isinstance(module, Conv1D) or getattr(module, "is_transposed", False)


def save(model: PreTrainedModel, folder: Path, name: str | None = None, dtype: torch.dtype = torch.float32, shard: str = "5GB") -> None:
    """Writes the checkpoint with its weights as `dtype`, and leaves them so rounded, as float32, in the model. `name`: the
    family's, whose own form of checkpoint it then gets."""
    rounded: Any = model
    if dtype != torch.float32:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(dtype))
        # A copy, because `to` would round the rotary frequencies as well.
        rounded = copy.deepcopy(rounded).to(dtype)
    rounded.save_pretrained(folder, max_shard_size=shard)
    convert = name and FAMILIES[name].checkpoint
    if convert:
        config, tensors = folder / "config.json", folder / "model.safetensors"
        values, state = convert(json.loads(config.read_text()), load_file(tensors))
        config.write_text(json.dumps(values))
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, tensors)


def oracle(model: PreTrainedModel, tokens: list[int]) -> Any:
    """Logits of transformers, float32 array [len(tokens), vocab]."""
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].float().numpy()
