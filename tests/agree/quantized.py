"""What quantized weights do to a model of transformers: the oracle of every quantized type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gguf
import numpy as np
import torch
from gguf_files import encode
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from linnet.load.encode import encode as linnet_encode
from linnet.tensors import TYPES
from models import is_matrix, is_transposed

Through = Callable[[torch.Tensor], torch.Tensor]


KEPT = {"wpe", "embed_positions", "gate", "wg", "router", "shared_expert_gate", "in_proj_a", "in_proj_b", "in_proj_ba"}
"""Modules whose matrices loading leaves as they are stored: learned positions, routers, gates of one output, and how fast the delta rule
forgets and learns."""


def quantize_model(model: PreTrainedModel, type_name: str, activations: bool, on_load: bool = False) -> None:
    """Makes the float32 model compute what one stored as `type_name` does: each matrix whose columns the type's block divides
    becomes what the `gguf` package reads back from that type, and, with `activations`, each input of one is rounded as
    llama.cpp's kernels for that type round it. Types without kernels go through q8_0, as linnet's documentation says. on_load: the
    type is what linnet's own encoders make on loading, not a file's."""
    type = gguf.GGMLQuantizationType[type_name.upper()]
    block = gguf.GGML_QUANT_SIZES[type][0]
    kernel_block = TYPES[type_name].block if type_name in TYPES else 32
    through = through_q8_k if kernel_block == 256 else through_q8_0
    done: set[int] = set()  # tied matrices once
    for path, module in model.named_modules():
        if is_norm(module) or path.rpartition(".")[2] in KEPT:
            continue
        found = False
        for name, parameter in module.named_parameters(recurse=False):
            values = parameter.detach().transpose(-2, -1) if is_transposed(module) and parameter.ndim > 1 else parameter.detach()
            if not is_matrix(name, parameter) or values.shape[-1] % block:
                continue
            found = True
            if id(parameter) not in done:
                done.add(id(parameter))
                values.copy_(torch.from_numpy(stored_as(values.numpy(), type_name, encode_on_load if on_load else encode)))
        if found and activations and kernel_block > 1:
            round_inputs(module, through)
    assert done, f"no matrix has columns that are a multiple of {block}"


def is_norm(module: torch.nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def round_inputs(module: torch.nn.Module, through: Through) -> None:
    """Rounds what goes into the matrices of a module that multiplies."""
    if isinstance(module, (torch.nn.Linear, Conv1D)):
        module.register_forward_pre_hook(lambda _, inputs: (through(inputs[0].detach()), *inputs[1:]))
    elif not isinstance(module, torch.nn.Embedding):  # experts and routers multiply inside
        module.forward = partial(rounding_forward, module.forward, through)


def rounding_forward(forward: Callable[..., Any], through: Through, *arguments: Any, **named: Any) -> Any:
    with RoundedProducts(through):
        return forward(*arguments, **named)


class RoundedProducts(TorchFunctionMode):
    """Rounds the first factor of every product of matrices."""

    PRODUCTS = (torch.nn.functional.linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)

    def __init__(self, through: Through) -> None:
        super().__init__()
        self.through = through

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if function in self.PRODUCTS:
            with torch._C.DisableTorchFunction():
                arguments = (self.through(arguments[0].detach()), *arguments[1:])
        return function(*arguments, **(named or {}))


def encode_on_load(values: NDArray[np.float32], type_name: str) -> NDArray[np.uint8]:
    return linnet_encode(values, TYPES[type_name])


def stored_as(values: NDArray[np.float32], type_name: str, encode: Callable[..., Any] = encode) -> NDArray[np.float32]:
    """The values once a tensor type has held them; types without kernels are then held as q8_0."""
    type = gguf.GGMLQuantizationType[type_name.upper()]
    held = gguf.quants.dequantize(encode(values, type_name), type).reshape(values.shape).astype(np.float32)
    return held if type_name in TYPES else stored_as(held, "q8_0", encode_on_load)


def through_q8_0(x: torch.Tensor) -> torch.Tensor:
    """Blocks of 32 as 8 bits and a float16 scale, by the `gguf` package."""
    stored = gguf.quants.quantize(x.reshape(-1, x.shape[-1]).numpy(), gguf.GGMLQuantizationType.Q8_0)
    return torch.from_numpy(gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q8_0).reshape(x.shape).copy())


def through_q8_k(x: torch.Tensor) -> torch.Tensor:
    """Blocks of 256 as 8 bits and a float32 scale by which the value of largest magnitude becomes -127 (ggml's Q8_K)."""
    blocks = x.reshape(-1, 256)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    inverse = torch.where(largest == 0, 0, -127 / largest)
    return (torch.round(blocks * inverse).clamp(max=127) / inverse).nan_to_num(0).reshape(x.shape)
