"""The models of a server, by name: opened when first asked for, closed when idle, within one budget of memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from linnet.engine.page_plan import cache_bytes
from linnet.engine.params import SamplingParams, advice
from linnet.errors import DeadlineError, InvalidRequestError, ModelFileError, OutOfMemoryError
from linnet.model_options import ModelOptions
from linnet.server.errors import ApiError, unavailable
from linnet.server.settings import ModelSettings, Settings
from linnet.tensors import F32

if TYPE_CHECKING:
    from linnet.llm import LLM
    from linnet.load.checkpoint import Checkpoint

logger = logging.getLogger("linnet.server")


@dataclass(eq=False)
class Served:
    """A model of the server. users: requests that use it now. used_at: when the last one left, by time.monotonic(). size: bytes of weights
    and KV cache while it is open."""

    settings: ModelSettings
    llm: LLM | None = None
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)
    size: int = 0
    opening: asyncio.Task[LLM] | None = None


class Models:
    """The models by name. `use` opens a model that is not open; if memory is short, it first closes models that nobody uses."""

    def __init__(self, settings: Settings) -> None:
        self.created = int(time.time())
        self._budget, self._advised = settings.server.memory, settings.server.generation_config == "auto"
        self._served = {model.name: Served(model) for model in settings.models}
        self._changing = asyncio.Lock()  # one model is opened or closed at a time, so that sizes add up

    @property
    def names(self) -> list[str]:
        return list(self._served)

    @property
    def open(self) -> dict[str, LLM]:
        """The models that are open now, by name."""
        return {name: served.llm for name, served in self._served.items() if served.llm is not None}

    def find(self, name: str) -> Served:
        """Raises a 404 that names the models there are."""
        served = self._served.get(name)
        if served is None:
            there = ", ".join(self._served)
            raise ApiError(404, f"there is no model {name[:100]!r}; there are: {there}", code="model_not_found", param="model")
        return served

    @asynccontextmanager
    async def use(self, name: str, timeout: float | None = None) -> AsyncIterator[LLM]:
        """The model, which stays open inside the `with`. Raises what opening it raises, and DeadlineError if that takes longer than
        `timeout` seconds; it is then opened nevertheless, for later requests."""
        served = self.find(name)
        served.users += 1
        try:
            yield served.llm or await self._open(served, timeout)
        finally:
            served.users -= 1
            served.used_at = time.monotonic()

    async def close_idle(self, seconds: float) -> None:
        """Closes models that nobody has used for this long; runs until it is cancelled."""
        while True:
            await asyncio.sleep(min(seconds / 4, 10.0))
            async with self._changing:
                for served in self._idle():
                    if not served.users and time.monotonic() - served.used_at >= seconds:  # one may have come meanwhile
                        await self._close(served)

    async def close(self) -> None:
        async with self._changing:
            for served in self._served.values():
                await self._close(served)

    def _idle(self) -> list[Served]:
        """Open models without users, the longest unused first."""
        idle = [served for served in self._served.values() if served.llm is not None and not served.users]
        return sorted(idle, key=lambda served: served.used_at)

    async def _open(self, served: Served, timeout: float | None) -> LLM:
        """Opens a model once for all requests that wait for it; one that leaves does not stop it for the others."""
        opening = served.opening = served.opening or asyncio.create_task(self._load(served))
        done, _ = await asyncio.wait({opening}, timeout=timeout)
        if not done:
            raise DeadlineError(f"the model was not opened within the request's timeout of {timeout:g} seconds; allow it more")
        return opening.result()

    async def _load(self, served: Served) -> LLM:
        started, name = time.perf_counter(), served.settings.name
        try:
            async with self._changing:
                options = dict(served.settings.options)
                try:
                    if self._budget is not None:
                        options["kv_memory"] = await self._make_room(served, self._budget)
                    served.llm = await asyncio.to_thread(_opened, served.settings.path, options, self._advised)
                except OutOfMemoryError as error:
                    logger.error("model %s cannot be opened: %s", name, error)
                    raise unavailable(
                        f"this machine has no memory for the model {name} now; try again when some is free, or lower --context"
                    ) from None
                except InvalidRequestError as error:  # about the server's options, with paths in it: not the client's mistake
                    raise ModelFileError(str(error)) from error
        finally:
            served.opening = None
            if served.llm is None:
                served.size = 0
        logger.info("model %s opened in %.1f s", name, time.perf_counter() - started)
        return served.llm

    async def _make_room(self, served: Served, budget: int) -> int:
        """Closes idle models until this one fits, if possible with all of its KV cache. Gives the bytes that the cache may take."""
        weights, cache = await asyncio.to_thread(needs, served.settings)
        if budget < weights + cache and (said := await asyncio.to_thread(_too_large, served.settings, budget)):
            logger.error("%s", said)
            raise unavailable(said)
        while (left := budget - sum(other.size for other in self._served.values())) < weights + cache and (idle := self._idle()):
            await self._close(idle[0])
        granted = min(cache, left - weights)
        if granted <= 0:
            logger.error("model %s takes %d bytes of weights, and of %d bytes %d are left", served.settings.name, weights, budget, left)
            raise unavailable(f"there is no memory for the model {served.settings.name} beside those in use; try again, or raise --memory")
        served.size = weights + granted
        return granted

    async def _close(self, served: Served) -> None:
        llm, served.llm, served.size = served.llm, None, 0
        if llm is not None:
            await asyncio.to_thread(llm.close)
            logger.info("model %s closed", served.settings.name)


def _opened(path: str, options: Mapping[str, Any], advised: bool) -> LLM:
    """The opened model. advised: its generation_config.json will be followed. Raises what opening it raises, and InvalidRequestError if
    that file cannot be followed."""
    from linnet.llm import LLM

    llm = LLM(path, **options)
    try:
        if advised:
            SamplingParams(**advice(llm.generation_config))
    except InvalidRequestError as error:
        llm.close()
        message = f"{path}: its generation_config.json is at fault: {error}; --generation-config linnet passes over it"
        raise InvalidRequestError(message) from None
    return llm


def needs(settings: ModelSettings) -> tuple[int, int]:
    """Bytes that a model and its draft model take in memory, the machine's or a GPU's: those of the weights, and those of the KV cache
    if there is memory enough for all of it."""
    from linnet.draft import read_draft
    from linnet.load.checkpoint import open_checkpoint
    from linnet.ops.torch.devices import usual_device

    options = ModelOptions(**settings.options)
    if options.op_set == "torch" and options.device is None and options.tp == 1 and options.offload is None:
        options = replace(options, device=usual_device())  # the batch size depends on it
    with closing(open_checkpoint(settings.path)) as checkpoint:
        weights = _weight_bytes(checkpoint, options)
        guessing = read_draft(options)
        if guessing is not None:
            with closing(guessing):
                weights += _weight_bytes(guessing, replace(options, weights="auto"))
        spec, draft = checkpoint.spec, None if guessing is None else guessing.spec
    context = spec.context if options.context is None else options.context
    cache = cache_bytes(spec, options.kv_type, context, options.batch, options.prefill_chunk, draft)
    return weights, cache if options.kv_memory is None else min(cache, options.kv_memory)


def _least(settings: ModelSettings, **changed: Any) -> int:
    """The fewest bytes that a model is opened with: its weights, and the smallest KV cache that the options allow."""
    options = {**settings.options, "max_batch": 1, **changed}
    return sum(needs(replace(settings, options={**options, "context": options.get("context") or 1})))


def _too_large(settings: ModelSettings, budget: int) -> str | None:
    """For a model that does not fit into the budget even alone: an error message that says what would help. None if it fits."""
    least = _least(settings)
    if least <= budget:
        return None
    smaller = [] if settings.options.get("low_memory") else [name for name in ("q8_0", "q4_0") if _least(settings, weights=name) <= budget]
    other = f", or choose smaller weights: --weights {' or '.join(smaller)}" if smaller else ""
    return f"the model {settings.name} takes at least {least} bytes of weights and KV cache, and --memory is {budget}; raise it{other}"


def _weight_bytes(checkpoint: Checkpoint, options: ModelOptions) -> int:
    """Bytes of the weights, on the device that the options name; if it is still to be chosen, the most that any choice takes."""
    from linnet.choosing import places
    from linnet.load.assemble import plan
    from linnet.load.weight_bytes import bytes_of

    if options.op_set == "reference":
        slots = plan(checkpoint.spec, checkpoint.table, checkpoint.source, checkpoint.naming, checkpoint.strict)
        return sum(F32.nbytes(slot.field_shape) for slot in slots)
    if options.low_memory:
        return bytes_of(checkpoint, options.target, mapped=True)
    return max(place.weight_bytes(checkpoint, options, options.weights) for place in places(checkpoint, options))
