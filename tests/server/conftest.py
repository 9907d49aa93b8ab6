"""One real server for a session of tests, and browsers at its page or at that of a scripted one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("fastapi")

from server_process import Server, running

if TYPE_CHECKING:
    from browser import Page, Script


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), "tiny") as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browser import ARGUMENTS, CHROMIUM, PATIENCE_MS
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    from browser import opened

    yield from opened(browser, server.url)


@pytest.fixture
def script() -> Iterator[tuple[str, Script]]:
    from browser import scripted

    with scripted() as found:
        yield found


@pytest.fixture
def stage(browser: Any, script: tuple[str, Script]) -> Iterator[Page]:
    from browser import opened

    yield from opened(browser, script[0])
