"""What a file type such as Q4_K_M means: which tensor gets which type. Names, mixtures and fallbacks are llama.cpp's.

Facts: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from linnet.arch.spec import ModelSpec, Moe
from linnet.errors import InvalidRequestError
from linnet.quantize.gguf_tensors import Tensor
from linnet.tensors import (
    BF16,
    F16,
    F32,
    FLOATS,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    TYPES,
    TensorType,
)


@dataclass(frozen=True)
class FileType:
    """type: of most matrices. id: what `general.file_type` says (llama.cpp's LLAMA_FTYPE)."""

    name: str
    type: TensorType
    id: int


FILE_TYPES = {
    name: FileType(name, type, id)
    for name, type, id in (
        ("F32", F32, 0),
        ("F16", F16, 1),
        ("BF16", BF16, 32),
        ("Q8_0", Q8_0, 7),
        ("Q6_K", Q6_K, 18),
        ("Q5_K_M", Q5_K, 17),
        ("Q5_K_S", Q5_K, 16),
        ("Q5_1", Q5_1, 9),
        ("Q5_0", Q5_0, 8),
        ("Q4_K_M", Q4_K, 15),
        ("Q4_K_S", Q4_K, 14),
        ("Q4_1", Q4_1, 3),
        ("Q4_0", Q4_0, 2),
        ("IQ4_NL", IQ4_NL, 25),
        ("IQ4_XS", IQ4_XS, 30),
        ("MXFP4", MXFP4, 38),
        ("MXFP4_MOE", MXFP4, 38),
        ("Q3_K_L", Q3_K, 13),
        ("Q3_K_M", Q3_K, 12),
        ("Q3_K_S", Q3_K, 11),
        ("Q2_K", Q2_K, 10),
    )
}
"""Largest first. MXFP4_MOE is llama.cpp's: experts, and Q8_0 for all else; MXFP4 is for every matrix alike."""
_ALSO_CALLED = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
BITS = {2: "Q2_K", 4: "Q4_K_M", 8: "Q8_0"}
"""What `bits` stands for."""

_FALLBACKS = {Q2_K: Q4_0, Q3_K: Q4_0, IQ4_XS: IQ4_NL, Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0}
"""For rows that are no multiple of 256."""
# Parts of names of matrices that are never quantized: small, and choosing or normalising.
_NEVER = ("_norm.weight", "ffn_gate_inp.weight", "per_layer_model_proj.weight")


@dataclass(frozen=True)
class Choice:
    """How the types of tensors are chosen. overrides: regular expressions that a tensor's name contains a match of, the first that does;
    pure: one type throughout. calibrated: whether importances are known (mixtures then differ a little)."""

    file_type: FileType
    pure: bool = False
    overrides: Mapping[re.Pattern[str], TensorType] = field(default_factory=dict)
    output_type: TensorType | None = None
    embedding_type: TensorType | None = None
    calibrated: bool = False


@dataclass(frozen=True)
class Chosen:
    """instead: the type that was wanted, where the rows do not divide into its blocks."""

    tensor: Tensor
    type: TensorType
    instead: TensorType | None = None


def file_type(name: str) -> FileType:
    """By its name in any case; Q4_K is Q4_K_M and so on. Raises InvalidRequestError with the names that are nearest."""
    wanted = _ALSO_CALLED.get(name.upper(), name.upper())
    if wanted not in FILE_TYPES:
        raise _unknown("type", name, [*FILE_TYPES, *_ALSO_CALLED])
    return FILE_TYPES[wanted]


def tensor_type(name: str, option: str) -> TensorType:
    """The type of a single tensor, in any case."""
    if name.lower() not in TYPES:
        raise _unknown(option, name, [type.upper() for type in TYPES])
    return TYPES[name.lower()]


def _unknown(option: str, name: str, known: Sequence[str]) -> InvalidRequestError:
    near = difflib.get_close_matches(name.upper(), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return InvalidRequestError(f"{option} is {name!r}, which is no type that is written; {hint}")


def overrides(given: Mapping[str, str]) -> dict[re.Pattern[str], TensorType]:
    """`--tensor-type PATTERN=TYPE`. Raises InvalidRequestError for a pattern that is no regular expression, or an unknown type."""
    found: dict[re.Pattern[str], TensorType] = {}
    for pattern, name in given.items():
        try:
            found[re.compile(pattern)] = tensor_type(name, f"the type of {pattern!r}")
        except re.error as error:
            raise InvalidRequestError(f"tensor_types: {pattern!r} is no regular expression ({error})") from None
    return found


def choose_types(choice: Choice, tensors: Sequence[Tensor], spec: ModelSpec, architecture: str) -> list[Chosen]:
    """A type for every tensor, in their order. Raises InvalidRequestError for an override that matches none, and for two types of the one
    matrix that is embedding and output."""
    mixture = _Mixture(choice, tensors, spec, architecture)
    if mixture.tied and None not in (choice.output_type, choice.embedding_type) and choice.output_type != choice.embedding_type:
        raise InvalidRequestError("output_type and embedding_type differ, and this model's token_embd.weight is both; give one of them")
    chosen = {tensor.name: _chosen(choice, tensor, mixture) for tensor in sorted(tensors, key=_order)}
    for pattern in choice.overrides:
        if not any(pattern.search(tensor.name) for tensor in tensors if is_quantized(tensor)):
            raise InvalidRequestError(f"tensor_types: {pattern.pattern!r} matches no matrix of this model")
    return [chosen[tensor.name] for tensor in tensors]


def is_quantized(tensor: Tensor) -> bool:
    """Whether a tensor is a matrix whose type may be chosen; the others are F32."""
    name = tensor.name
    return len(tensor.shape) > 1 and name.endswith("weight") and name != "position_embd.weight" and not any(part in name for part in _NEVER)


def _chosen(choice: Choice, tensor: Tensor, mixture: _Mixture) -> Chosen:
    if not is_quantized(tensor):
        return Chosen(tensor, F32)
    of_embedding = choice.embedding_type or (choice.output_type if mixture.tied else None)
    of_name = {"output.weight": choice.output_type, "token_embd.weight": of_embedding}.get(tensor.name)
    if of_name is None:
        of_name = next((type for pattern, type in choice.overrides.items() if pattern.search(tensor.name)), None)
    if of_name is None:
        of_name = choice.file_type.type if choice.pure or choice.file_type.type in FLOATS else mixture.type_of(tensor)
    return _fitting(tensor, of_name)


def _fitting(tensor: Tensor, wanted: TensorType) -> Chosen:
    """The type, or what stands in for it where the rows do not divide."""
    columns = tensor.shape[-1]
    if columns % wanted.block == 0:
        return Chosen(tensor, wanted)
    type = _FALLBACKS.get(wanted, F16)
    return Chosen(tensor, type if columns % type.block == 0 else F16, wanted)


def _order(tensor: Tensor) -> tuple[int, str]:
    """Layer by layer, as mixtures count."""
    layer = _layer(tensor.name)
    return (-1 if layer is None else layer, tensor.name)


def _layer(name: str) -> int | None:
    found = re.match(r"blk\.(\d+)\.", name)
    return None if found is None else int(found[1])


class _Mixture:
    """llama.cpp's rules: values, the last projection of each block and the output, on which most depends, get more bits."""

    def __init__(self, choice: Choice, tensors: Sequence[Tensor], spec: ModelSpec, architecture: str) -> None:
        self.name, self.type, self.calibrated = choice.file_type.name, choice.file_type.type, choice.calibrated
        self.falcon = architecture == "falcon"
        self.layers = len(spec.layers)
        attention = spec.layers[0].attention
        self.shared_keys = attention.heads // attention.kv_heads >= 4
        self.is_70b = architecture in ("llama", "qwen2") and self.layers == 80 and attention.heads != attention.kv_heads
        moe = next((layer.mlp for layer in spec.layers if isinstance(layer.mlp, Moe)), None)
        self.experts = 1 if moe is None else moe.experts
        names = [tensor.name for tensor in tensors]
        self.tied = "output.weight" not in names
        self.values = sum(map(_is_value, names))
        self.values_seen = self.downs_seen = 0

    def type_of(self, tensor: Tensor) -> TensorType:
        """Call it layer by layer: it counts."""
        name = tensor.name
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            return self._output(tensor.shape[-1])
        if self.name == "MXFP4_MOE":
            return MXFP4 if len(tensor.shape) > 2 else Q8_0
        if name in ("token_embd.weight", "per_layer_token_embd.weight"):
            return self.type
        if _is_value(name):
            self.values_seen += 1
            return self._value(self.values_seen - 1)
        if "attn_k.weight" in name:
            return Q8_0 if self.experts == 8 else self.type
        if "ffn_down" in name:
            self.downs_seen += 1
            layer = _layer(name)
            return self._down(layer if self.experts > 1 and layer is not None else self.downs_seen - 1)
        return self._attention_output() if "attn_output.weight" in name else self.type

    def _output(self, columns: int) -> TensorType:
        if self.type == MXFP4 or self.falcon or columns % self.type.block:
            return Q8_0
        return Q8_0 if self.type == Q8_0 else Q6_K

    def _value(self, index: int) -> TensorType:
        type = {
            "Q2_K": Q4_K if self.shared_keys else Q3_K,
            "Q3_K_M": Q5_K if index < 2 else Q4_K,
            "Q3_K_L": Q5_K,
            "Q4_K_S": Q5_K if index < 4 else Q4_K,
            "Q4_K_M": Q6_K if _more_bits(index, self.values) else Q4_K,
            "Q5_K_M": Q6_K if _more_bits(index, self.values) else Q5_K,
            "IQ4_NL": Q5_K if self.shared_keys else IQ4_NL,
            "IQ4_XS": Q5_K if self.shared_keys else IQ4_XS,
        }.get(self.name, self.type)
        if self.is_70b and type in (Q3_K, Q4_K):
            type = Q5_K
        return Q8_0 if self.experts == 8 else type

    def _down(self, layer: int) -> TensorType:
        first, more = layer < self.layers // 8, _more_bits(layer, self.layers)
        if self.falcon:
            beginning = layer < self.layers // 16
            falcons = {
                "Q3_K_M": Q5_K if beginning else Q4_K if more else Q3_K,
                "Q3_K_L": Q4_K,
                "Q4_K_S": Q4_K,
                "Q4_K_M": Q6_K if beginning else Q5_K if more else Q4_K,
            }
            if self.name in falcons:
                return falcons[self.name]
        return {
            "Q2_K": Q3_K,
            "Q3_K_M": Q5_K if layer < self.layers // 16 else Q4_K,
            "Q3_K_L": Q5_K,
            "Q4_K_S": Q5_K if first else Q4_K,
            "Q4_K_M": Q6_K if more else Q4_K,
            "Q5_K_M": Q6_K if more else Q5_K,
            "IQ4_NL": Q5_K if first and not self.calibrated else IQ4_NL,
            "IQ4_XS": Q5_K if first and not self.calibrated else IQ4_XS,
            "Q4_0": Q4_1 if first and self.calibrated else Q4_0,
            "Q5_0": Q5_1 if first and self.calibrated else Q5_0,
        }.get(self.name, self.type)

    def _attention_output(self) -> TensorType:
        if self.falcon:
            return Q4_K if self.name == "Q3_K_L" else self.type
        if self.experts == 8:
            raised = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ4_XS")
            return Q5_K if self.name in raised else self.type
        return {"Q2_K": Q3_K, "Q3_K_M": Q4_K, "Q3_K_L": Q5_K}.get(self.name, self.type)


def _is_value(name: str) -> bool:
    return any(part in name for part in ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"))


def _more_bits(index: int, count: int) -> bool:
    """The first and last eighth, and every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2
