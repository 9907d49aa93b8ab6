"""The page at `/`, in a real browser: with the built-in model, and with a server that fails as a script says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api")

from browser import ARGUMENTS, CHROMIUM, Script, scripted  # noqa: E402
from server_process import Server  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

QUESTION = "What is 17 + 25?"
ANSWERED = ".message.assistant footer"
Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    yield from opened(browser, server.url)


@pytest.fixture
def script() -> Iterator[tuple[str, Script]]:
    with scripted() as found:
        yield found


@pytest.fixture
def stage(browser: Any, script: tuple[str, Script]) -> Iterator[Page]:
    yield from opened(browser, script[0])


def opened(browser: Any, url: str, **options: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    context.set_default_timeout(20_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(url)
    page.locator("#model option").first.wait_for(state="attached")
    yield page
    context.close()
    assert not faults


def ask(page: Page, text: str, answers: int = 1) -> None:
    page.fill("#message", text)
    page.keyboard.press("Enter")
    page.locator(ANSWERED).nth(answers - 1).wait_for()


def last_answer(page: Page) -> str:
    return str(page.locator(".message.assistant .body").last.inner_text())


def test_a_conversation_is_answered_and_kept(page: Page) -> None:
    ask(page, QUESTION)
    assert last_answer(page).endswith("17 + 25 = 42")
    assert page.title().startswith(QUESTION)
    page.reload()
    page.locator(ANSWERED).wait_for()
    assert last_answer(page).endswith("17 + 25 = 42")
    ask(page, "What is the capital of Canada?", answers=2)
    assert "Ottawa" in last_answer(page)
    page.keyboard.press("Alt+KeyN")
    page.locator(".welcome").wait_for()
    assert page.locator("#conversations li").count() == 2


def test_editing_and_regenerating_branch(page: Page) -> None:
    ask(page, QUESTION)
    page.click("text=Edit")
    page.fill(".edit textarea", "What is 20 + 30?")
    page.keyboard.press("Enter")
    page.locator("text=2 / 2").wait_for()
    page.locator(ANSWERED).wait_for()
    assert last_answer(page).endswith("20 + 30 = 50")
    page.click("[aria-label='Previous version']")
    assert last_answer(page).endswith("17 + 25 = 42")
    page.click("text=Regenerate")
    page.locator(".message.assistant >> text=2 / 2").wait_for()


def test_tokens_show_what_else_might_have_come_and_branch(page: Page) -> None:
    ask(page, QUESTION)
    page.keyboard.press("Alt+KeyT")
    tokens = page.locator(".token")
    assert "".join(tokens.all_inner_texts()).startswith("7")
    tokens.nth(1).click()
    assert page.locator(".candidates li").count() >= 5
    other = page.locator(".branch").first
    begun = tokens.first.inner_text()
    text = other.locator(".piece").inner_text()
    other.click()
    page.locator("text=2 / 2").wait_for()
    page.keyboard.press("Alt+KeyT")
    assert last_answer(page).startswith((begun + text.replace("·", " ")).rstrip())
    page.keyboard.press("Alt+KeyT")
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert tokens.nth(1).get_attribute("aria-expanded") == "true"


def test_settings_go_with_the_request(stage: Page, script: tuple[str, Script]) -> None:
    stage.keyboard.press("Alt+KeyS")
    stage.fill("#system", "Be brief.")
    stage.fill("#option-temperature", "0.5")
    stage.fill("#option-seed", "7")
    stage.fill("#option-top_p", "9")  # out of range: not sent
    ask(stage, "Hi")
    body = script[1].asked[-1]
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert (body["temperature"], body["seed"], body["top_p"]) == (0.5, 7, 1)
    assert stage.locator("#speed svg").get_attribute("aria-label") == "1 values, the last 9.0 tokens/s"
    stage.locator("#memory svg").wait_for()


def test_stop_keeps_what_had_come(stage: Page, script: tuple[str, Script]) -> None:
    script[1].words, script[1].pause = ["so "] * 500, 0.02
    stage.fill("#message", "Go on for ever")
    stage.keyboard.press("Enter")
    stage.locator(".message.assistant >> text=so so so").wait_for()
    stage.keyboard.press("Escape")
    stage.locator(ANSWERED).wait_for()
    assert last_answer(stage).startswith("so so so")
    stage.reload()
    stage.locator(ANSWERED).wait_for()
    assert last_answer(stage).startswith("so so so")


@pytest.mark.parametrize(
    ("script_says", "shown"),
    [
        ({"status": 401, "words": []}, "The server wants an API key"),
        ({"status": 429, "words": []}, "The server is busy. It says: as the script says"),
        ({"status": 500, "words": []}, "It says: as the script says"),
        ({"words": ["Half of"], "error": {"message": "the step failed", "code": "internal_error"}}, "It says: the step failed"),
        ({"words": ["Half of"], "drops": True}, "went away in the middle of the answer"),
    ],
)
def test_failures_are_said_where_the_user_looks_and_lose_nothing(
    stage: Page, script: tuple[str, Script], script_says: dict[str, Any], shown: str
) -> None:
    for name, value in script_says.items():
        setattr(script[1], name, value)
    ask(stage, "Hi")
    assert shown in stage.locator(".failed").inner_text()
    if script_says["words"]:
        assert last_answer(stage) == "Half of"
    url, fresh = script[0], Script()
    for name in ("words", "status", "error", "drops"):
        setattr(script[1], name, getattr(fresh, name))
    stage.click("text=Try again")
    stage.locator(".message.assistant >> text=Hello there.").wait_for()
    assert not stage.locator(".failed").count()
    assert url in stage.url


def test_a_server_that_is_gone(browser: Any) -> None:
    with scripted() as (url, _):
        pages = opened(browser, url)
        page = next(pages)
    ask(page, "Are you there?")
    assert "The server cannot be reached" in page.locator(".failed").inner_text()
    assert page.locator(".message.user").inner_text().splitlines()[1:][-1]
    next(pages, None)


def test_html_and_script_are_text(stage: Page, script: tuple[str, Script]) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    script[1].words = [hostile, "\n\n[link](javascript:alert(1)) ", "**bold** `<b>code</b>`\n\n```html\n<script>x</script>\n```"]
    ask(stage, hostile)
    assert hostile in stage.locator(".message.user .body").inner_text()
    assert hostile in last_answer(stage)
    assert "[link](javascript:alert(1))" in last_answer(stage)
    assert stage.locator(".message strong").inner_text() == "bold"
    assert stage.locator(".message pre").inner_text() == "<script>x</script>"
    assert not stage.locator(".message img, .message script, .message a").count()
    assert stage.title() != "owned"


@pytest.mark.parametrize("text", ["`" * 60_000, "a | b\n" + "-|" * 3000 + "x", "# a" + " " * 60_000 + "b"])
def test_no_markdown_holds_the_page_up(stage: Page, script: tuple[str, Script], text: str) -> None:
    script[1].words = [text]
    ask(stage, "Hi")  # waits no longer than for any answer
    assert last_answer(stage)


def test_a_very_long_message(stage: Page, script: tuple[str, Script]) -> None:
    ask(stage, "x" * 100_000)
    assert len(script[1].asked[-1]["messages"][0]["content"]) == 100_000
    stage.reload()
    stage.locator(ANSWERED).wait_for()


def test_what_is_stored_but_unreadable_is_put_aside(browser: Any, script: tuple[str, Script]) -> None:
    pages = opened(browser, script[0])
    page = next(pages)
    page.evaluate("localStorage.setItem('linnet.conversations', '{\"format\": 1')")
    page.reload()
    page.locator("#notice >> text=put aside, not thrown away").wait_for()
    kept = page.evaluate("Object.keys(localStorage).filter((name) => name.startsWith('linnet.conversations.unreadable')).length")
    assert kept == 1
    next(pages, None)


def test_export_and_import(browser: Any, stage: Page, script: tuple[str, Script], tmp_path: Path) -> None:
    ask(stage, "Keep this")
    with stage.expect_download() as download:
        stage.click("#export")
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    pages = opened(browser, script[0])
    other = next(pages)
    other.set_input_files("#import-file", saved)
    other.locator(".message.user >> text=Keep this").wait_for()
    damaged = json.loads(saved.read_text())
    node = next(iter(damaged["conversations"][0]["nodes"].values()))
    node["parent"] = node["id"]
    strange = json.loads(saved.read_text())  # what the page would fail at when it shows it, each time that it is opened
    next(iter(strange["conversations"][0]["nodes"].values()))["speed"] = "fast"
    odd = json.loads(saved.read_text())
    next(iter(odd["conversations"][0]["nodes"].values()))["tokens"] = [{"id": 1}]
    broken = [(json.dumps(content), "damaged") for content in (damaged, strange, odd)]
    for text, reason in (("no JSON", "not JSON"), *broken, ("{}", "not exported by this page")):
        wrong = tmp_path / "wrong.json"
        wrong.write_text(text)
        other.set_input_files("#import-file", wrong)
        other.locator(f"#notice >> text={reason}").wait_for()
    assert other.locator("#conversations li").count() == 2
    next(pages, None)


def test_nothing_is_fetched_from_elsewhere(browser: Any, server: Server) -> None:
    policy = httpx.get(server.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert httpx.get(f"{server.url}/web/..%2f__init__.py").status_code == 404
    assert httpx.get(f"{server.url}/web/nothing.js").status_code == 404
    context = browser.new_context()
    page, urls = context.new_page(), []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(server.url)
    page.locator("#model option").first.wait_for(state="attached")
    context.close()
    assert len(urls) > 8
    assert all(url.startswith(server.url) for url in urls)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_accessible_in_every_dress(browser: Any, server: Server, theme: str, width: int, tmp_path: Path) -> None:
    """Found by axe-core to have no serious fault; screenshots are left where LINNET_SCREENSHOTS says."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    pages = opened(browser, server.url, color_scheme=theme, bypass_csp=True, reduced_motion="reduce")
    page = next(pages)
    page.set_viewport_size({"width": width, "height": 800})
    ask(page, "What is the capital of Canada?")
    ask(page, QUESTION, answers=2)
    page.click("#view")
    page.locator(".token").nth(5).click()
    folder = Path(os.environ.get("LINNET_SCREENSHOTS", tmp_path))
    page.screenshot(path=folder / f"page-{theme}-{'wide' if width > 1000 else 'narrow'}.png")
    for _ in range(2):  # then with the settings open
        found = axe.run(page).response["violations"]
        assert not [(fault["id"], fault["nodes"][0]["target"]) for fault in found if fault["impact"] in ("serious", "critical")]
        page.click("#settings")
    next(pages, None)
