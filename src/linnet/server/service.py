"""`Service`: what the routes share. One for each server."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends, Request

from linnet.engine.params import SamplingParams
from linnet.server.errors import ApiError
from linnet.server.models import Models
from linnet.server.settings import Settings


class Service:
    """The settings, and the models that they name."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.options = settings.server
        self.models = Models(settings)

    def check_size(self, *texts: str | None) -> None:
        """Raises a 400 for a prompt that is too large to be tokenized."""
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts if text is not None)
        if size > self.options.max_prompt_bytes:
            raise ApiError(400, f"the prompt has {size} bytes and this server takes {self.options.max_prompt_bytes}; shorten it")

    def check_samples(self, n: int | None) -> None:
        if n is not None and n > self.options.max_n:
            raise ApiError(400, f"n is {n} and this server gives up to {self.options.max_n}; lower it", param="n")

    def timeout(self, params: SamplingParams) -> float:
        """Seconds that a request may take: its own, and no more than the server's."""
        most = self.options.request_timeout
        return most if params.timeout is None else min(most, params.timeout)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf: TypeAlias = Annotated[Service, Depends(_service)]
"""The parameter of a route that wants the service."""
