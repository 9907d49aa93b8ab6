"""The form that an answer is asked in: text, any JSON object, or JSON by a schema, as each API says it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from linnet.server.schema import Body


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]


class BareSchemaFormat(Body):
    """Anthropic's. As of every schema: it is enforced, and the model is not told of it."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class NamedSchema(Body):
    """A schema under the name `schema`. It is always enforced, strict or not; the model is told neither of it nor of its description."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class NamedSchemaFormat(NamedSchema):
    """Of the Responses API."""

    type: Literal["json_schema"]


class WrappedSchemaFormat(Body):
    """Of the chat API."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ChatFormat = Annotated[TextFormat | ObjectFormat | WrappedSchemaFormat, Field(discriminator="type")]
ResponseFormat = Annotated[TextFormat | ObjectFormat | NamedSchemaFormat, Field(discriminator="type")]


def format_options(
    asked: TextFormat | ObjectFormat | BareSchemaFormat | NamedSchemaFormat | WrappedSchemaFormat | None,
) -> dict[str, Any]:
    """What a format is among the options of SamplingParams."""
    if asked is None or isinstance(asked, TextFormat):
        return {}
    if isinstance(asked, ObjectFormat):
        return {"json_object": True}
    return {"json_schema": asked.json_schema.schema_ if isinstance(asked, WrappedSchemaFormat) else asked.schema_}
