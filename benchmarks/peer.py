"""llama.cpp behind the few calls that comparisons need; through its C interface, without Python work per token."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR


@cache
def quiet_llama_cpp() -> Any:
    """The `llama_cpp` module, started and with its log turned off, but for the last errors, which are kept as `linnet_errors`. Raises
    ImportError where it is not installed."""
    api: Any = import_module("llama_cpp")
    api.linnet_errors = deque(maxlen=3)

    def keep_errors(level: int, text: bytes, data: Any) -> None:
        if level == LOG_ERROR:
            api.linnet_errors.append(text.decode(errors="replace").strip())

    api.linnet_log = api.llama_log_callback(keep_errors)  # C keeps a pointer: it must live as long
    api.llama_log_set(api.linnet_log, None)
    api.llama_backend_init()
    return api


class LlamaCpp:
    """One model and one context of `context` tokens for each of `sequences`, greedy sampling in C; attention as llama.cpp chooses, or
    not flash; keys and values kept as float16, or `exact`, as float32."""

    def __init__(
        self,
        path: Path,
        threads: int,
        context: int = 1024,
        batch: int = 512,
        flash: bool = True,
        exact: bool = False,
        sequences: int = 1,
    ) -> None:
        self.api = quiet_llama_cpp()
        self.api.linnet_errors.clear()
        self.model: Any = self.api.llama_model_load_from_file(str(path).encode(), self.api.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}: {' '.join(self.api.linnet_errors)}")
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = context * sequences, batch, batch, sequences
        if not flash:
            params.flash_attn_type = self.api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if exact:
            params.type_k = params.type_v = self.api.GGML_TYPE_F32
        params.n_threads = params.n_threads_batch = threads
        self.context: Any = self.api.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp gives no context of {context} tokens for {path}")
        self.sampler: Any = self.api.llama_sampler_init_greedy()

    @property
    def system_info(self) -> str:
        """The instruction sets that this build uses on this machine."""
        return str(self.api.llama_print_system_info().decode())

    def clear(self) -> None:
        """Empties the context."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def feed(self, tokens: list[int]) -> None:
        """Runs tokens after those already in the context; the last one's logits stand."""
        array = (self.api.llama_token * len(tokens))(*tokens)
        self._check(self.api.llama_decode(self.context, self.api.llama_batch_get_one(array, len(tokens))))

    def feed_sequences(self, tokens: list[tuple[int, int, int]]) -> None:
        """Runs (sequence, position, token) triples in one batch; the logits of each sequence's last one stand."""
        batch = self.api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        last = {sequence: index for index, (sequence, _, _) in enumerate(tokens)}
        for index, (sequence, position, token) in enumerate(tokens):
            batch.token[index], batch.pos[index], batch.n_seq_id[index] = token, position, 1
            batch.seq_id[index][0], batch.logits[index] = sequence, last[sequence] == index
        try:
            self._check(self.api.llama_decode(self.context, batch))
        finally:
            self.api.llama_batch_free(batch)

    def sample(self, row: int = -1) -> int:
        """The likeliest next token after a row of the last batch (waits for the computation)."""
        return int(self.api.llama_sampler_sample(self.sampler, self.context, row))

    def stream(self, prompt: list[int], count: int) -> Iterator[int]:
        """`count` greedy tokens after `prompt`, from an empty context, end tokens included."""
        self.clear()
        self.feed(prompt)
        for index in range(count):
            token = self.sample()
            yield token
            if index + 1 < count:
                self.feed([token])

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """Logits after every token, float32 [len(tokens), vocab], from an empty context and in one batch."""
        self.clear()
        batch = self.api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, index
            batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
        self._check(self.api.llama_decode(self.context, batch))
        vocabulary = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))
        logits = np.ctypeslib.as_array(self.api.llama_get_logits(self.context), (len(tokens), vocabulary)).copy()
        self.api.llama_batch_free(batch)
        return logits

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Ids of a text, without a beginning token; `special` reads markers as control tokens."""
        data = text.encode()
        buffer = (self.api.llama_token * (len(data) + 8))()
        vocabulary = self.api.llama_model_get_vocab(self.model)
        count = self.api.llama_tokenize(vocabulary, data, len(data), buffer, len(buffer), False, special)
        return list(buffer[:count])

    def _check(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")

    def close(self) -> None:
        self.api.llama_sampler_free(self.sampler)
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)
