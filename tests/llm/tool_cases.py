"""A model that calls tools: the built-in one, whose tokens are forced, with a chat template of each format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from linnet import LLM, SamplingParams

# What published templates have in common, in the built-in model's own turns.
TEMPLATE = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}{% endfor %}OPENING{% endif %}"
    "{% for m in messages %}<|{{ 'user' if m.role == 'tool' else m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|end|>{% endfor %}<|assistant|>"
)
OPENINGS = {"hermes": "<tool_call>", "llama3": "<|python_tag|>", "mistral": "[TOOL_CALLS]"}
TEMPLATES = {name: TEMPLATE.replace("OPENING", opening) for name, opening in OPENINGS.items()}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
USER = [{"role": "user", "content": "Weather?"}]
CALL = '{"name": "get_weather", "arguments": {"city": "Bern"}}'
ANSWERS = {
    "hermes": f"Let me see. <tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>",
    "llama3": CALL.replace("arguments", "parameters") + ";" + CALL,
    "mistral": f"[TOOL_CALLS][{CALL}, {CALL}]",
}


def forced(llm: LLM, answer: str, **options: Any) -> SamplingParams:
    """Parameters under which the model answers with a given text."""
    tokenizer = llm.tokenizer
    assert tokenizer is not None
    script = iter([*tokenizer.encode(answer, bos=False), *[tokenizer.eos_id] * 9])
    choose: Callable[[Any], int] = lambda logits: next(script)  # noqa: E731
    return replace(SamplingParams(max_tokens=400), choose=choose, **options)
