"""The page at a server that fails: before an answer, in the middle of one, when it is gone on with, and when the page asks for counters.
What failed is said at the answer, nothing that had come is lost, and it can be tried again."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi")
expect = pytest.importorskip("playwright.sync_api").expect

from browser import ANSWERED, CHROMIUM, Page, Script, ask, last_answer, opened, scripted, send  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

SAID = {
    401: "The server wants an API key. It says: as the script says",
    429: "The server is busy. It says: as the script says",
    500: "The server failed (500). It says: as the script says",
}
EVENTS = {  # how servers and proxies write it into a stream
    401: {"type": "authentication_error", "code": "invalid_api_key"},
    429: {"type": "rate_limit_error", "code": "429"},
    500: {"type": "server_error", "code": "internal_error"},
}


def changed(script: Script, **says: Any) -> None:
    """The script as it begins, but for this."""
    fresh = Script()
    for name in ("words", "status", "error", "drops", "metrics"):
        setattr(script, name, says.get(name, getattr(fresh, name)))


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_refusal_is_said_and_can_be_tried_again(stage: Page, script: tuple[str, Script], status: int) -> None:
    changed(script[1], status=status)
    ask(stage, "Hi")
    failed = stage.locator(".message .failed")
    for asked in (1, 2, 3):  # each time that it is tried again; what is empty does not pile up
        expect(failed).to_contain_text(SAID[status])
        assert len(script[1].asked) == asked
        with stage.expect_response("**/api/chat"):
            stage.click(".message >> text=Try again")
    expect(stage.locator(ANSWERED)).not_to_contain_text("/ 2")
    changed(script[1])
    stage.click(".message >> text=Try again")
    expect(last_answer(stage)).to_have_text("Hello there.")
    expect(failed).to_have_count(0)
    expect(stage.locator(".message.user .body")).to_have_text("Hi")


@pytest.mark.parametrize("status", [401, 429, 500, None])
def test_what_fails_in_the_middle_loses_nothing(stage: Page, script: tuple[str, Script], status: int | None) -> None:
    """status: of an error among the events; None: the connection is lost."""
    says = {"drops": True} if status is None else {"error": {"message": "as the script says", **EVENTS[status]}}
    said = "The server went away in the middle of the answer." if status is None else f"{SAID[status]}."
    changed(script[1], words=["Half", " of"], **says)
    script[1].goes_on.clear()
    send(stage, "Hi")
    expect(last_answer(stage)).to_have_text("Half of")  # a browser throws away what it has not read of a stream that breaks
    script[1].goes_on.set()
    failed = stage.locator(".message .failed")
    for _ in range(2):  # and once more when the page is opened again
        expect(failed).to_contain_text(f"{said} What had come is kept.")
        expect(last_answer(stage)).to_have_text("Half of")
        stage.reload()

    if status is None:
        stage.context.set_offline(True)
    else:
        changed(script[1], status=status)
    stage.click("text=Go on from here")
    expect(stage.locator(ANSWERED).last).to_contain_text("2 / 2")
    expect(failed).to_contain_text("The server cannot be reached" if status is None else SAID[status])
    expect(last_answer(stage)).to_have_text("Half of")
    stage.context.set_offline(False)
    changed(script[1], words=["Half of", " it."])
    stage.click(".message >> text=Try again")
    expect(last_answer(stage)).to_have_text("Half of it.")
    assert script[1].asked[-1]["begin"] == [1, 1]
    expect(stage.locator(ANSWERED).last).to_contain_text("2 / 2")
    stage.click("[aria-label='Previous version']")
    expect(last_answer(stage)).to_have_text("Half of")


def test_a_key_is_asked_for_where_it_is_missing(stage: Page, script: tuple[str, Script]) -> None:
    changed(script[1], status=401)
    ask(stage, "Hi")
    stage.click("text=Give the key")
    expect(stage.locator("#key")).to_be_focused()
    stage.keyboard.type("no kéy")
    stage.keyboard.press("Enter")
    expect(stage.locator("#notice")).to_contain_text("This is no key")
    stage.keyboard.press("Control+A")
    stage.keyboard.type("secret")
    stage.keyboard.press("Enter")
    changed(script[1])
    with stage.expect_request("**/api/chat") as request:
        stage.click(".message >> text=Try again")
    assert request.value.headers["authorization"] == "Bearer secret"
    expect(last_answer(stage)).to_have_text("Hello there.")


def test_a_server_with_keys_asks_for_one(browser: Any) -> None:
    """As a password, which browsers ask for: a line of its own each challenge has, or Chromium does not know the second."""
    with scripted(["sesame"]) as (url, script):
        assert httpx.get(url).headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="linnet", charset="UTF-8"']
        pages = opened(browser, url, http_credentials={"username": "anyone", "password": "sesame"})
        page = next(pages)
        ask(page, "Hi")
        expect(last_answer(page)).to_have_text("Hello there.")
        page.keyboard.press("Alt+KeyS")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text("The server wants an API key. It says: the API key is not one")
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_be_empty()
        assert len(script.asked) == 1
        next(pages, None)


@pytest.mark.parametrize("status", [401, 429, 500])
def test_counters_that_are_refused_do_not_touch_the_answer(stage: Page, script: tuple[str, Script], status: int) -> None:
    changed(script[1], words=["so "] * 3)
    script[1].goes_on.clear()
    send(stage, "Hi")
    expect(last_answer(stage)).to_contain_text("so so so")
    changed(script[1], words=script[1].words, metrics=status)
    expect(stage.locator("#memory .failed")).to_contain_text(SAID[status])
    expect(stage.locator(".message .failed")).to_have_count(0)
    stage.keyboard.press("Escape")
    expect(stage.locator(ANSWERED)).to_contain_text("stopped")
    expect(last_answer(stage)).to_contain_text("so so so")
    stage.reload()  # then it asks once, and no more
    expect(stage.locator("#memory .failed")).to_be_visible()
    changed(script[1])
    stage.click("#memory >> text=Try again")
    expect(stage.locator("#memory .failed")).to_have_count(0)


def test_a_server_that_is_gone(stage: Page) -> None:
    stage.context.set_offline(True)
    ask(stage, "Are you there?")
    expect(stage.locator(".message .failed")).to_contain_text("The server cannot be reached")
    expect(stage.locator(".message.user .body")).to_have_text("Are you there?")


def test_an_answer_under_way_outlives_the_page(stage: Page, script: tuple[str, Script]) -> None:
    script[1].goes_on.clear()
    send(stage, "Hi")
    expect(last_answer(stage)).to_have_text("Hello there.")
    stage.reload()
    ends = "The page was closed before the answer was complete|The server went away in the middle of the answer"  # as the browser has it
    expect(stage.locator(".message .failed")).to_contain_text(re.compile(f"({ends}). What had come is kept."))
    expect(last_answer(stage)).to_have_text("Hello there.")
    script[1].goes_on.set()
    stage.click("text=Go on from here")
    expect(stage.locator(ANSWERED).last).to_contain_text(re.compile("2 / 2.*9.0 a second"))


def test_what_is_no_event_is_said(stage: Page, script: tuple[str, Script]) -> None:
    stage.route("**/api/chat", lambda route: route.fulfill(content_type="text/event-stream", body=": a comment\n\ndata: <html>\n\n"))
    ask(stage, "Hi")
    expect(stage.locator(".message .failed")).to_contain_text("The server sent what is no answer: <html>")


def test_a_message_sent_after_a_failure_keeps_its_place(stage: Page, script: tuple[str, Script]) -> None:
    changed(script[1], status=500)
    ask(stage, "One")
    changed(script[1])
    ask(stage, "Two", answers=2)
    stage.click(".message >> text=Try again")  # what failed has messages behind it
    expect(stage.locator(".message.user .body")).to_have_text(["One"])
    expect(last_answer(stage)).to_have_text("Hello there.")
    stage.reload()
    stage.click("[aria-label='Previous version']")
    expect(stage.locator(".message.user .body")).to_have_text(["One", "Two"])
