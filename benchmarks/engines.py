"""The engines that are measured, each behind three calls. What they wrap is imported by their constructors: one process has one of them.

`prompt(tokens)` gives the seconds from a prompt to its first token. `fill(prompts)` begins sequences, and `decode(count)` gives the
seconds in which each of them grows by so many tokens, every time from where the last call left them. Where there is one, `serve(prompts,
count)` gives the seconds in which prompts that come together all have so many tokens. All sample greedily, in native
code where the engine has it, and go past end tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

Prompt = list[int]


class Engine(Protocol):
    def prompt(self, tokens: Prompt) -> float: ...

    def fill(self, prompts: list[Prompt]) -> None: ...

    def decode(self, count: int) -> float: ...

    def about(self) -> str:
        """Version, and what of the machine it uses."""
        ...


class Linnet:
    """Through the same engine as every request: its scheduler, sampling and Python are part of the time."""

    def __init__(self, model: str, threads: int, context: int, batch: int) -> None:
        from linnet import LLM

        self.llm = LLM(model, ops="native", threads=threads, context=context, max_batch=batch, prefix_cache=False)
        self.streams: list[Iterator[Any]] = []

    def prompt(self, tokens: Prompt) -> float:
        self.streams.clear()  # closing a stream ends its request
        start = time.perf_counter()
        next(self._stream(tokens, 1))
        return time.perf_counter() - start

    def fill(self, prompts: list[Prompt]) -> None:
        self.streams.clear()
        self.streams = [self._stream(prompt, self.llm.context - len(prompt)) for prompt in prompts]
        for stream in self.streams:
            next(stream)

    def decode(self, count: int) -> float:
        """Steps run while somebody waits for a token: those of the last sequence, which began last."""
        start = time.perf_counter()
        for _ in range(count):
            next(self.streams[-1])
        elapsed = time.perf_counter() - start
        for stream in self.streams[:-1]:
            for _ in range(count):
                next(stream)
        return elapsed

    def serve(self, prompts: list[Prompt], count: int) -> float:
        from linnet import SamplingParams

        start = time.perf_counter()
        self.llm.generate(prompts, SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True))
        return time.perf_counter() - start

    def steps(self) -> tuple[float, float]:
        """Seconds of all steps so far, and what the model itself took of them."""
        counters = self.llm.counters()
        return counters.step_seconds.total, counters.forward_seconds

    def about(self) -> str:
        from linnet.ops.native import arithmetic_peaks

        return f"{import_module('linnet').__version__}, {arithmetic_peaks(1)[0]}"

    def _stream(self, tokens: Prompt, count: int) -> Iterator[Any]:
        from linnet.engine.params import SamplingParams
        from linnet.engine.request import Request

        request = Request(tokens, SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True, speculation="off"), seed=0)
        self.llm.engine.submit(request)
        return self.llm.engine.outputs(request)


class LlamaCpp:
    """Several sequences in one context, a token of each a call of llama_decode; batches of up to 512 tokens."""

    def __init__(self, model: str, threads: int, context: int, batch: int) -> None:
        from peer import LlamaCpp as Peer

        self.peer = Peer(Path(model), threads, context, sequences=batch)
        self.last: list[int] = []
        self.length = 0

    def prompt(self, tokens: Prompt) -> float:
        self.peer.clear()
        start = time.perf_counter()
        self.peer.feed(tokens)
        self.peer.sample()
        return time.perf_counter() - start

    def fill(self, prompts: list[Prompt]) -> None:
        self.peer.clear()
        self.length = len(prompts[0])
        self.last = []
        for sequence, prompt in enumerate(prompts):
            for begin in range(0, len(prompt), 512):
                piece = prompt[begin : begin + 512]
                self.peer.feed_sequences([(sequence, begin + index, token) for index, token in enumerate(piece)])
            self.last.append(self.peer.sample())

    def serve(self, prompts: list[Prompt], count: int) -> float:
        """Prompts packed into batches of up to 512 tokens, then a batch of one token of each for every step."""
        self.peer.clear()
        self.length, self.last = len(prompts[0]), []
        start = time.perf_counter()
        together = max(1, 512 // self.length)
        for first in range(0, len(prompts), together):
            packed = prompts[first : first + together]
            rows = [(first + i, at, token) for i, prompt in enumerate(packed) for at, token in enumerate(prompt)]
            self.peer.feed_sequences(rows)
            self.last += [self.peer.sample(self.length * (i + 1) - 1) for i in range(len(packed))]
        self.decode(count - 1)
        return time.perf_counter() - start

    def decode(self, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            self.peer.feed_sequences([(sequence, self.length, token) for sequence, token in enumerate(self.last)])
            self.last = [self.peer.sample(row) for row in range(len(self.last))]
            self.length += 1
        return time.perf_counter() - start

    def about(self) -> str:
        return f"llama-cpp-python {self.peer.api.__version__}, {self.peer.system_info}"


class CTranslate2:
    """int8 weights and activations. It has no way to pause, so each `decode` begins anew from the prompts and counts from the first
    token on."""

    def __init__(self, model: str, threads: int, context: int, batch: int) -> None:
        self.api: Any = import_module("ctranslate2")
        self.generator = self.api.Generator(model, compute_type="int8", inter_threads=1, intra_threads=threads)
        self.prompts: list[list[str]] = []

    def prompt(self, tokens: Prompt) -> float:
        start = time.perf_counter()
        self._generate([self._names(tokens)], 1)
        return time.perf_counter() - start

    def fill(self, prompts: list[Prompt]) -> None:
        self.prompts = [self._names(prompt) for prompt in prompts]

    def decode(self, count: int) -> float:
        came: list[float] = []
        self._generate(self.prompts, count + 1, lambda result: came.append(time.perf_counter()))  # None: go on
        return came[-1] - came[len(self.prompts) - 1]

    def about(self) -> str:
        return f"ctranslate2 {self.api.__version__}, {self.generator.compute_type}"

    def _generate(self, prompts: list[list[str]], count: int, callback: Any = None) -> None:
        self.generator.generate_batch(
            prompts, max_length=count, min_length=count, include_prompt_in_result=False, sampling_topk=1, callback=callback
        )

    def _names(self, tokens: Prompt) -> list[str]:
        from convert_model import token

        return [token(index) for index in tokens]


class Transformers:
    """PyTorch on the CPU, weights and activations in `dtype`."""

    def __init__(self, model: str, threads: int, context: int, batch: int, dtype: str = "float32") -> None:
        self.torch: Any = import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_grad_enabled(False)
        library: Any = import_module("transformers")
        library.utils.logging.disable_progress_bar()
        self.version = f"transformers {library.__version__}, torch {self.torch.__version__}, {dtype}"
        self.model = library.AutoModelForCausalLM.from_pretrained(model, dtype=getattr(self.torch, dtype)).eval()
        self.last: Any = None
        self.cache: Any = None

    def prompt(self, tokens: Prompt) -> float:
        start = time.perf_counter()
        self.fill([tokens])
        return time.perf_counter() - start

    def fill(self, prompts: list[Prompt]) -> None:
        self.cache = None
        self._step(self.torch.tensor(prompts))

    def decode(self, count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            self._step(self.last)
        return time.perf_counter() - start

    def about(self) -> str:
        return self.version

    def _step(self, tokens: Any) -> None:
        output = self.model(tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache = output.past_key_values
        self.last = output.logits.argmax(-1)


def open_engine(name: str, model: str, threads: int, context: int, batch: int) -> Engine:
    """The engine `name` over a model in the form that it reads; `context` tokens for each of `batch` sequences."""
    if name.startswith("transformers"):
        return Transformers(model, threads, context, batch, {"f32": "float32", "bf16": "bfloat16"}[name.split("-")[1]])
    kinds: dict[str, type[Linnet] | type[LlamaCpp] | type[CTranslate2]]
    kinds = {"linnet": Linnet, "llama.cpp": LlamaCpp, "ctranslate2": CTranslate2}
    return kinds[name](model, threads, context, batch)
