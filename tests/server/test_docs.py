"""/docs and /openapi.json: the API's document for people, from this machine alone."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from browser import ARGUMENTS, CHROMIUM
from server_process import Server


def test_every_part_comes_from_the_server_under_a_policy(server: Server) -> None:
    with server.client() as http:
        page = http.get("/docs")
        parts = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert "docs/swagger-ui-bundle.js" in parts
        for part in parts:
            answer = http.get(f"/{part}")
            assert answer.status_code == 200, part
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert len(answer.content) > 50
        for name in ("none.js", "favicon.png", "..%2f__init__.py", "%2fetc%2fpasswd"):
            assert http.get(f"/docs/{name}").status_code == 404
        assert "<script>" not in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_it_works_in_a_browser_that_reaches_nothing_else(server: Server) -> None:
    """Swagger UI lists every route and tries one out; no request goes elsewhere, and the policy forbids none of what it does."""
    playwright = pytest.importorskip("playwright.sync_api")
    routes = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        page: Any = chromium.new_page()
        asked: list[str] = []
        faults: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(f"{server.url}/docs")
        page.locator(".opblock").first.wait_for(timeout=60_000)
        assert page.locator(".opblock").count() == sum(len(methods) for methods in routes.values())
        page.locator("#operations-OpenAI-list_models_v1_models_get .opblock-summary-control").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.locator(".live-responses-table .microlight", has_text="tiny").first.wait_for(timeout=60_000)
        chromium.close()
    assert faults == []
    assert f"{server.url}/v1/models" in asked
    assert not [url for url in asked if not url.startswith((server.url, "data:"))]
