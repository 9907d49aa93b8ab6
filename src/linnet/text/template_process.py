"""The program that renders chat templates: template_renderer.py asks it, and confined.py runs it in a process of its own.

Imports only Jinja2 and the standard library. Names and settings are those of transformers, so that a template renders the same.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template


def prepare() -> None:
    import jinja2  # noqa: F401


def answer(question: Any) -> tuple[bytes, str]:
    template, variables, longest = question
    return render(template, variables, longest)


def render(template: str, variables: dict[str, Any] | None, longest: int) -> tuple[bytes, str]:
    """(b"+", the text), or why there is none: b"-" for these messages, b"!" for any (the template itself is wrong).

    Without variables the template is only compiled, and the text is empty."""
    import jinja2.exceptions

    pieces: list[str] = []
    length = 0
    try:
        ready = compiled(template)
        for piece in ready.generate(variables) if variables is not None else ():
            pieces.append(piece)
            length += len(piece)
            if length > longest:
                return b"!", f"writes more than {longest} characters"
        return b"+", "".join(pieces)
    except jinja2.TemplateSyntaxError as error:
        return b"!", f"is malformed at line {error.lineno}: {error.message}"
    except jinja2.exceptions.SecurityError as error:
        return b"!", f"breaks out of the sandbox: {error}"
    except jinja2.TemplateError as error:
        return b"-", f"refuses these messages: {error}"
    except MemoryError:
        return b"!", "takes more memory than templates may"
    except RecursionError:
        return b"!", "nests or calls itself too deeply"
    except OverflowError as error:
        return b"!", f"asks for too much: {error}"
    except Exception as error:  # a template can cause any error
        return b"-", f"fails on these messages ({type(error).__name__}: {error}); check them or give another template"


@lru_cache(maxsize=32)
def compiled(template: str) -> Template:
    import jinja2.exceptions
    import jinja2.ext
    import jinja2.nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` marks the text that a model is trained on; rendered, it is just its body."""

        tags = {"generation"}  # noqa: RUF012 - Jinja's interface

        def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            body: list[jinja2.nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    class Sandbox(ImmutableSandboxedEnvironment):
        def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
            raise jinja2.exceptions.SecurityError(f"it reaches for {attribute!r} of a {type(obj).__name__}, which is not for templates")

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols], cache_size=0)
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes HTML; models are trained on plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
