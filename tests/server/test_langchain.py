"""langchain's own tests of chat models, through langchain-openai."""

from __future__ import annotations

import pytest
from server_process import Server

pytest.importorskip("langchain_tests")

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestChat(ChatModelIntegrationTests):
    """Of what the built-in model can do: it knows no tools and sees no images."""

    @pytest.fixture(autouse=True)
    def _address(self, server: Server) -> None:
        type(self).url = server.url

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, object]:
        return {"model": "tiny", "base_url": f"{self.url}/v1", "api_key": "none", "max_tokens": 16, "temperature": 0, "stream_usage": True}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False
