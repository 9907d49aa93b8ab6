"""`ServerOptions`: every option of the server, defined once. Flags, environment variables, configuration files and docs use its fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from linnet.options import Options, option


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    """Where to listen, whom to answer, and the limits of requests. Unknown or out-of-range options raise InvalidRequestError."""

    host: str = option("127.0.0.1", "address to listen on; any but a loopback address needs API keys, or --no-auth")
    port: int = option(8000, "port to listen on; 0: any that is free, which is printed", 0, 65535)
    api_keys_file: str | None = option(None, "file of API keys, one a line; lines that start with # are comments")
    no_auth: bool = option(False, "listen on any address without API keys")
    allowed_hosts: Sequence[str] = option((), "names that a Host header may hold, besides this machine's own address and localhost")
    allowed_origins: Sequence[str] = option((), "origins of web pages that may call the server, such as https://chat.example.org")
    max_body_bytes: int = option(8 * 2**20, "most bytes of a request's body", 1024)
    max_header_bytes: int = option(32 * 2**10, "most bytes of a request's line and headers", 1024, 2**20)
    max_json_depth: int = option(64, "most levels of a request's JSON", 8, 500)
    max_prompt_bytes: int = option(2 * 2**20, "most bytes of a prompt, all its messages together, before it is tokenized", 1)
    max_n: int = option(16, "most samples that a request may ask for", 1, 256)
    body_timeout: float = option(30.0, "seconds that a client has to send its request", 0.1)
    request_timeout: float = option(600.0, "seconds that a request may take, its wait in the queue included", 0.1)
    drain_timeout: float = option(60.0, "seconds that running requests have to end once the server is told to", 0.0)
    generation_config: str = option(
        "auto",
        "options of sampling that a request leaves out: as the model's generation_config.json says (auto), or Linnet's own (linnet)",
        choices=("auto", "linnet"),
    )
    memory: int | None = option(
        None, "most bytes that all models may take, weights and KV caches, on GPUs and off them; None: what there is", 1
    )
    idle_unload: float | None = option(None, "seconds without requests after which a model gives its memory back; None: never", 1.0)
