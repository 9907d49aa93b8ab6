"""`ModelOptions`: every option of opening a model, once. The `LLM` signature, flags and documentation derive from its fields."""

# ruff: noqa: RUF009 (`option` is dataclasses.field with our metadata)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from linnet.arch.rope_spec import DynamicScaling
from linnet.arch.spec import ModelSpec
from linnet.engine.page_plan import KV_BYTES
from linnet.errors import InvalidRequestError
from linnet.ops.torch.devices import parse_device
from linnet.options import Options, option
from linnet.tensors import TYPES, TensorType
from linnet.text.tool_calls.formats import FORMATS

PROCESSOR_BATCH, GPU_BATCH = 16, 64
"""Sequences that run at once unless told: more add little to a processor's throughput."""

_OF_TRANSFORMERS = (
    "backend",
    "trust_remote_code",
    "tokenizer",
    "chat_template",
    "tool_format",
    "context",
    "max_batch",
    "max_queue",
    "prefix_cache",  # there is none
    "device",
    "dtype",
)
"""Options that mean something to `backend="transformers"`."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """How to open and run a model. Unknown or out-of-range options, and such as are not built yet, raise InvalidRequestError."""

    ops: str = option(
        "auto", "who computes; auto: native, or torch on any device but cpu and with tp", choices=("auto", "native", "reference", "torch")
    )
    backend: str = option(
        "linnet",
        "which engine runs the model: Linnet's own, or transformers, for encoder-decoders and decoders that Linnet has no family for",
        choices=("linnet", "transformers"),
        later=("llama.cpp", "onnxruntime", "vllm"),
    )
    weights: str = option(
        "auto",
        "type to re-encode matrices as, all of them; auto: as stored, or where that does not fit in memory q8_0 or q4_0",
        choices=("auto", "stored", *TYPES),
    )
    tokenizer: Any = option(None, "a Tokenizer, or a path to one, in place of the model's own")
    chat_template: str | None = option(None, "a chat template, its name, or a file that holds one, in place of the model's own")
    tool_format: str = option("auto", "how the model writes tool calls; auto: as its template says", choices=("auto", *FORMATS))
    threads: int | None = option(None, "threads of the native op set; None: one per physical core", 1, 1024)
    prefill_threads: int | None = option(None, "threads for steps that read prompts; None: as many as threads", 1, 1024)
    context: int | None = option(None, "most tokens of prompt and answer; None: what the model was made for, as far as memory goes", 1)
    overflow: str = option(
        "auto",
        "past the context: error, or slide (the model sees the last tokens that it holds, as if they were the first; for absolute "
        "positions); auto: slide where the checkpoint's own code does",
        choices=("auto", "error", "slide"),
    )
    kv_dtype: str = option("auto", "type of stored keys and values; auto: f16, or q8_0 with low_memory", choices=("auto", *KV_BYTES))
    kv_memory: int | None = option(None, "most bytes of KV cache; None: 40% of the available memory", 1)
    max_batch: int | None = option(None, "most sequences that run at once; None: 16, or 64 on a GPU", 1, 4096)
    prefill_chunk: int = option(512, "most prompt tokens in one step", 1, 2**20)
    max_queue: int | None = option(None, "most requests that may wait for a place in the batch; None: any number, in a server 256", 0)
    prefix_cache: bool = option(True, "keep the keys and values of prompts, for later ones that begin alike")
    draft: Any = option(None, "a smaller model with the same tokens, which guesses ahead")
    low_memory: bool = option(False, "leave weights where their file is mapped, rearranged at each use: slower, and no memory of their own")
    device: str | None = option(
        None,
        "where to compute: cpu, or one that PyTorch drives: cuda, cuda:1, mps, xpu, mlu, musa, npu; None: a GPU that holds the weights "
        "(of 256 MB and more), else cpu",
    )
    dtype: str | None = option(
        None, "what the torch op set computes in; None: f32 on cpu, else bf16 where it is fast, else f16", choices=("f32", "f16", "bf16")
    )
    tp: int = option(1, "devices that share each layer, by tensor parallelism of the torch op set", 1, 1024)
    offload: int | None = option(
        None,
        "layers whose weights stay in host memory, brought to the device at each step; None: as few as its memory allows",
        0,
        2**16,
    )
    compile: bool = option(False, "have torch.compile make a program of decoding steps: faster, after a minute or so at the first ones")
    adapters: Mapping[str, str] | Sequence[str] | None = option(None, "LoRA adapters to load", letter="H")
    trust_remote_code: bool = option(False, "run Python code that comes with the model: whatever it is, it may do all that you may")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend == "transformers":
            self._check_transformers()
            return
        if self.trust_remote_code:
            raise InvalidRequestError("trust_remote_code is for backend='transformers'; Linnet's own engine runs no code of a model's")
        self._check_device()
        if self.ops == "reference":
            for name, count in (("threads", self.threads), ("prefill_threads", self.prefill_threads)):
                if count not in (None, 1):
                    raise InvalidRequestError(f"{name} is {count}, but ops='reference' runs on one; leave {name} out")
            if self.low_memory:
                raise InvalidRequestError("low_memory is for the native op set; ops='reference' holds every weight in float32")
        if self.low_memory and self.target is not None:
            raise InvalidRequestError(f"low_memory leaves weights as they are stored, but weights is {self.weights!r}; leave one out")

    def _check_transformers(self) -> None:
        for f in fields(self):
            if f.name not in _OF_TRANSFORMERS and getattr(self, f.name) != f.default:
                raise InvalidRequestError(f"{f.name} is for Linnet's own engine, and backend is 'transformers'; leave one of them out")

    def _check_device(self) -> None:
        if self.device is not None:
            parse_device(self.device)
        elsewhere = self.device is not None and self.device != "cpu"
        if self.tp > 1 and self.ops in ("native", "reference"):
            raise InvalidRequestError(f"tp is {self.tp}, but ops={self.ops!r} runs on the cpu as one; leave one of them out")
        if elsewhere and self.ops in ("native", "reference"):
            raise InvalidRequestError(f"device is {self.device!r}, but ops={self.ops!r} runs on the cpu; leave one of them out")
        if self.op_set == "torch":
            given = [name for name in ("threads", "prefill_threads") if getattr(self, name)]
            if given:
                raise InvalidRequestError(f"{given[0]} is for the native op set; with ops='torch', PyTorch's own settings hold")
            if self.low_memory:
                raise InvalidRequestError("low_memory is for the native op set; with ops='torch' choose smaller weights, as q8_0 or q4_0")
            if self.offload and self.tp > 1:
                raise InvalidRequestError(f"offload is {self.offload} and tp is {self.tp}: layers are kept off one device; leave one out")
            if self.compile and self.tp > 1:
                raise InvalidRequestError(f"compile goes with one device, and tp is {self.tp}; leave one of them out")
        elif self.compile:
            raise InvalidRequestError(f"compile is for ops='torch'; the {self.op_set} op set is compiled already, leave it out")
        elif self.offload is not None:
            raise InvalidRequestError(f"offload is for ops='torch'; the {self.op_set} op set computes where the weights are, leave it out")
        elif self.dtype is not None:
            raise InvalidRequestError(f"dtype is for ops='torch'; the {self.op_set} op set computes in float32, leave it out")

    @property
    def op_set(self) -> str:
        """`ops`, resolved."""
        if self.ops != "auto":
            return self.ops
        return "native" if self.device in (None, "cpu") and self.tp == 1 else "torch"

    @property
    def target(self) -> TensorType | None:
        """What matrices are re-encoded as; None: nothing."""
        return TYPES.get(self.weights)

    @property
    def batch(self) -> int:
        """`max_batch`, resolved."""
        return self.max_batch or (PROCESSOR_BATCH if self.op_set != "torch" or self.device == "cpu" else GPU_BATCH)

    @property
    def kv_type(self) -> str:
        """`kv_dtype`, resolved."""
        if self.kv_dtype != "auto":
            return self.kv_dtype
        return "q8_0" if self.low_memory else "f16"

    def check_context(self, spec: ModelSpec) -> None:
        """Raises InvalidRequestError for a context past what the model's positions reach."""
        longest = longest_context(spec)
        if self.context is not None and self.context > longest:
            raise InvalidRequestError(f"context is {self.context} and the model was made for {int(longest)}; lower it")

    def slides(self, spec: ModelSpec, own: bool) -> bool:
        """Whether requests go on past the context; `own`: whether the checkpoint's code lets them. Raises InvalidRequestError where
        that is asked of a model whose positions are not absolute."""
        if self.overflow != "slide" and not (own and self.overflow == "auto"):
            return False
        relative = [attention for attention in spec.attentions if attention.ropes or attention.alibi is not None]
        if relative or spec.embedding.positions is None:
            kind = "ALiBi" if relative and relative[0].alibi is not None else "rotary" if relative else "no"
            raise InvalidRequestError(
                f"overflow='slide' is for models with absolute positions, and this one ({spec.family}) has {kind} positions; leave it out"
            )
        return True


def longest_context(spec: ModelSpec) -> float:
    """How far a model's positions reach: its context, or past it where dynamic scaling stretches them."""
    longest = float(spec.context)
    for attention in spec.attentions:
        for rope in attention.ropes:
            if isinstance(rope.scaling, DynamicScaling):
                longest = max(longest, spec.context * rope.scaling.factor)
    return longest
