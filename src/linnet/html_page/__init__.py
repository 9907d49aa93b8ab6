"""Pages of HTML that need nothing else, no network and no fonts: what they all have, `page.html` and `page.css`, stands here."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import Any


def html_page(package: str, name: str, *, title: str, model: str, facts: Iterable[tuple[str, str]], **values: Any) -> str:
    """A page about a model. package, name: where NAME.html lies, which extends "page", with NAME.css and perhaps NAME.js beside it. facts:
    what is said first, names and values. values: what the template shows; texts among them never become markup."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    own, shared = files(package), files(__name__)
    templates = {"page": shared.joinpath("page.html").read_text("utf-8"), "own": own.joinpath(f"{name}.html").read_text("utf-8")}
    style = shared.joinpath("page.css").read_text("utf-8") + own.joinpath(f"{name}.css").read_text("utf-8")
    code = own.joinpath(f"{name}.js")
    script = code.read_text("utf-8") if code.is_file() else ""
    environment = Environment(
        loader=DictLoader(templates), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["digest"] = _digest
    known = {"title": title, "model": model, "facts": list(facts), "style": Markup(style), "script": Markup(script)}
    return environment.get_template("own").render(**known, **values)


def _digest(text: str) -> str:
    """What a Content-Security-Policy calls a style or script that it lets pass."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
