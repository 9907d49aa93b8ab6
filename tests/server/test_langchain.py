"""langchain's own tests of chat models, through langchain-openai.

Left out, by langchain's own switches: images, PDF and audio, in messages and from tools (the models here read text), and the time of a
stream (its requests would be replayed from a recording).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted import CALL, TEMPLATE, ScriptedService
from server_process import Server, in_process, running

pytest.importorskip("langchain_tests")

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


def use_a_tool_then_answer(body: Any) -> str:
    arguments = CALL.replace("city", "location")
    return "It is sunny." if body.messages[-1].role == "tool" else f"<tool_call>\n{arguments}\n</tool_call>"


def call_with_the_quoted_name(body: Any) -> str:
    """What is left of a call that the server has begun, since it is required, and that the answer's end ends."""
    arguments = {"customer_name": re.search("'(.*?)'", body.messages[-1].text)[1], "description": "é"}
    return f'{{"name": "unicode_customer", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}'


def call_with_three(body: Any) -> str:
    return '{"name": "magic_function", "arguments": {"input": 3}}'


SCRIPTS: dict[str, Callable[[Any], str]] = {
    "test_agent_loop": use_a_tool_then_answer,
    "test_unicode_tool_call_integration": call_with_the_quoted_name,
    "test_tool_calling": call_with_three,
    "test_tool_calling_async": call_with_three,
    "test_json_mode": lambda body: '{"setup": "Why do cats purr?", "punchline": "They idle."}',
}
"""What nothing but the wish of a model brings about, which no schema and no tool_choice asks for: an answer by the test's name."""


@pytest.fixture(scope="module")
def with_tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The built-in model as it is, under a template that knows tools."""
    folder = tmp_path_factory.mktemp("langchain")
    template = folder / "tools.jinja"
    template.write_text(TEMPLATE)
    with running(folder, "tiny", "--chat-template", str(template)) as server:
        yield server


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[str, ScriptedService]]:
    service = ScriptedService("", {})
    with in_process(service) as url:
        yield url, service


class TestChat(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _address(self, request: pytest.FixtureRequest, with_tools: Server, scripted: tuple[str, ScriptedService]) -> None:
        script = SCRIPTS.get(request.function.__name__)
        type(self).url = with_tools.url if script is None else scripted[0]
        scripted[1].answer = script or ""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, object]:
        """What schemas leave open comes to its end, since quotes (token 6) are likely and commas (16) are not."""
        server = {"model": "tiny", "base_url": f"{self.url}/v1", "api_key": "none"}
        return {**server, "max_tokens": 200, "temperature": 0, "stream_usage": True, "logit_bias": {6: 16, 16: -50}}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        """Of text and tools: what langchain-openai makes of them."""
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "tiny"
