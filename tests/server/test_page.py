"""The page at `/`, in a real browser: with the built-in model, and with a server that fails as a script says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api")

from browser import ARGUMENTS, CHROMIUM, Script, scripted  # noqa: E402
from server_process import Server  # noqa: E402

expect = playwright.expect
PATIENCE_MS = 120_000  # only what fails ever waits so long
expect.set_options(timeout=PATIENCE_MS)
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
    context.set_default_timeout(PATIENCE_MS)
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
    expect(page.locator(ANSWERED)).to_have_count(answers)


def last_answer(page: Page) -> Any:
    return page.locator(".message.assistant .body").last


def test_a_conversation_is_answered_and_kept(page: Page) -> None:
    ask(page, QUESTION)
    expect(last_answer(page)).to_contain_text("17 + 25 = 42")
    expect(page).to_have_title(re.compile(re.escape(QUESTION)))
    page.reload()
    expect(last_answer(page)).to_contain_text("17 + 25 = 42")
    ask(page, "What is the capital of Canada?", answers=2)
    expect(last_answer(page)).to_contain_text("Ottawa")
    page.keyboard.press("Alt+KeyN")
    expect(page.locator(".welcome")).to_be_visible()
    expect(page.locator("#conversations li")).to_have_count(2)


def test_what_is_sent_before_the_models_are_known_waits_for_them(stage: Page, script: tuple[str, Script]) -> None:
    script[1].lists.clear()
    stage.reload()
    stage.fill("#message", "Hi")
    stage.keyboard.press("Enter")
    expect(stage.locator("#stop")).to_be_visible()
    assert not script[1].asked
    script[1].lists.set()
    expect(last_answer(stage)).to_have_text("Hello there.")
    assert script[1].asked[0]["model"] == "m"


def test_editing_and_regenerating_branch(page: Page) -> None:
    ask(page, QUESTION)
    page.click("text=Edit")
    page.fill(".edit textarea", "What is 20 + 30?")
    page.keyboard.press("Enter")
    expect(page.locator(".message.user footer")).to_contain_text("2 / 2")
    expect(last_answer(page)).to_contain_text("20 + 30 = 50")
    expect(page.locator(ANSWERED)).to_be_visible()
    page.click("[aria-label='Previous version']")
    expect(last_answer(page)).to_contain_text("17 + 25 = 42")
    page.click("text=Regenerate")
    expect(page.locator(ANSWERED)).to_contain_text("2 / 2")


def test_tokens_show_what_else_might_have_come_and_branch(page: Page) -> None:
    ask(page, QUESTION)
    page.keyboard.press("Alt+KeyT")
    tokens = page.locator(".token")
    expect(page.locator(".tokens")).to_have_text(re.compile("^7"))
    tokens.nth(1).click()
    expect(page.locator(".candidates li").nth(4)).to_be_visible()
    other = page.locator(".branch").first
    begun = tokens.first.inner_text()
    text = other.locator(".piece").inner_text()
    other.click()
    expect(page.locator(ANSWERED)).to_contain_text("2 / 2")
    page.keyboard.press("Alt+KeyT")
    expect(last_answer(page)).to_have_text(re.compile("^" + re.escape((begun + text.replace("·", " ")).rstrip())))
    page.keyboard.press("Alt+KeyT")
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(tokens.nth(1)).to_have_attribute("aria-expanded", "true")


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
    expect(stage.locator("#speed svg")).to_have_attribute("aria-label", "1 values, the last 9.0 tokens/s")
    expect(stage.locator("#memory svg")).to_be_visible()


def test_stop_keeps_what_had_come(stage: Page, script: tuple[str, Script]) -> None:
    script[1].words = ["so "] * 5
    script[1].goes_on.clear()
    stage.fill("#message", "Go on for ever")
    stage.keyboard.press("Enter")
    expect(last_answer(stage)).to_contain_text("so so so")
    stage.keyboard.press("Escape")
    expect(stage.locator(ANSWERED)).to_be_visible()
    expect(last_answer(stage)).to_contain_text("so so so")
    stage.reload()
    expect(last_answer(stage)).to_contain_text("so so so")


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
    script[1].goes_on.clear()
    stage.fill("#message", "Hi")
    stage.keyboard.press("Enter")
    if script_says["words"]:
        expect(last_answer(stage)).to_have_text("Half of")  # a browser throws away what it has not read of a stream that breaks
    script[1].goes_on.set()
    expect(stage.locator(".failed")).to_contain_text(shown)
    expect(last_answer(stage)).to_have_text("".join(script_says["words"]))
    fresh = Script()
    for name in ("words", "status", "error", "drops"):
        setattr(script[1], name, getattr(fresh, name))
    stage.click("text=Try again")
    expect(last_answer(stage)).to_have_text("Hello there.")
    expect(stage.locator(".failed")).to_have_count(0)


def test_a_server_that_is_gone(browser: Any) -> None:
    with scripted() as (url, _):
        pages = opened(browser, url)
        page = next(pages)
    ask(page, "Are you there?")
    expect(page.locator(".failed")).to_contain_text("The server cannot be reached")
    expect(page.locator(".message.user .body")).to_have_text("Are you there?")
    next(pages, None)


def test_html_and_script_are_text(stage: Page, script: tuple[str, Script]) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    script[1].words = [hostile, "\n\n[link](javascript:alert(1)) ", "**bold** `<b>code</b>`\n\n```html\n<script>x</script>\n```"]
    ask(stage, hostile)
    expect(stage.locator(".message.user .body")).to_contain_text(hostile)
    expect(last_answer(stage)).to_contain_text(hostile)
    expect(last_answer(stage)).to_contain_text("[link](javascript:alert(1))")
    expect(stage.locator(".message strong")).to_have_text("bold")
    expect(stage.locator(".message pre")).to_have_text("<script>x</script>")
    expect(stage.locator(".message img, .message script, .message a")).to_have_count(0)
    assert stage.title() != "owned"


@pytest.mark.parametrize("text", ["`" * 190_000, "a | b\n" + "-|" * 90_000 + "x", "# a" + " " * 190_000 + "b"])
def test_no_markdown_holds_the_page_up(stage: Page, script: tuple[str, Script], text: str) -> None:
    script[1].words = [text]
    ask(stage, "Hi")  # what took quadratic time would take many minutes
    expect(last_answer(stage)).not_to_be_empty()


def test_a_very_long_message(stage: Page, script: tuple[str, Script]) -> None:
    ask(stage, "x" * 100_000)
    assert len(script[1].asked[-1]["messages"][0]["content"]) == 100_000
    stage.reload()
    expect(stage.locator(ANSWERED)).to_be_visible()


def test_what_is_stored_but_unreadable_is_put_aside(browser: Any, script: tuple[str, Script]) -> None:
    pages = opened(browser, script[0])
    page = next(pages)
    page.evaluate("localStorage.setItem('linnet.conversations', '{\"format\": 1')")
    page.reload()
    expect(page.locator("#notice")).to_contain_text("put aside, not thrown away")
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
    expect(other.locator(".message.user .body")).to_have_text("Keep this")
    damaged = json.loads(saved.read_text())
    node = next(iter(damaged["conversations"][0]["nodes"].values()))
    node["parent"] = node["id"]
    strange = json.loads(saved.read_text())  # what the page would fail at when it shows it, each time that it is opened
    next(iter(strange["conversations"][0]["nodes"].values()))["speed"] = "fast"
    odd = json.loads(saved.read_text())
    next(iter(odd["conversations"][0]["nodes"].values()))["tokens"] = [{"id": 1}]
    broken = [(json.dumps(content), "damaged") for content in (damaged, strange, odd)]
    for i, (text, reason) in enumerate((("no JSON", "not JSON"), *broken, ("{}", "not exported by this page"))):
        wrong = tmp_path / f"wrong-{i}.json"
        wrong.write_text(text)
        other.set_input_files("#import-file", wrong)
        expect(other.locator("#notice")).to_contain_text(re.compile(f"wrong-{i}.json was not imported.*{reason}"))
    expect(other.locator("#conversations li")).to_have_count(2)
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
    expect(page.locator("#facts")).not_to_be_empty()
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
