"""The format of an answer, as each API asks for it: text, any JSON object, or JSON that follows a schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from linnet.server.schema import Body


class TextFormat(Body):
    type: Literal["text"]


class ObjectFormat(Body):
    type: Literal["json_object"]


class BareSchemaFormat(Body):
    """A schema in Anthropic's API. As with every schema, it is enforced, but the model is not told about it."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class NamedSchema(Body):
    """A schema in the field `schema`. It is always enforced, strict or not; the model is told neither the schema nor its description."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class NamedSchemaFormat(NamedSchema):
    """A schema in the Responses API."""

    type: Literal["json_schema"]


class WrappedSchemaFormat(Body):
    """A schema in the chat API."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


ChatFormat = Annotated[TextFormat | ObjectFormat | WrappedSchemaFormat, Field(discriminator="type")]
ResponseFormat = Annotated[TextFormat | ObjectFormat | NamedSchemaFormat, Field(discriminator="type")]


def format_options(
    asked: TextFormat | ObjectFormat | BareSchemaFormat | NamedSchemaFormat | WrappedSchemaFormat | None,
) -> dict[str, Any]:
    """A format as options of SamplingParams."""
    if asked is None or isinstance(asked, TextFormat):
        return {}
    if isinstance(asked, ObjectFormat):
        return {"json_object": True}
    return {"json_schema": asked.json_schema.schema_ if isinstance(asked, WrappedSchemaFormat) else asked.schema_}
