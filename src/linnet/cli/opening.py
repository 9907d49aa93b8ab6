"""Opening a model for a command: what can be refused without it is refused first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from linnet.engine.params import SamplingParams
from linnet.errors import ChatTemplateError, InvalidRequestError
from linnet.load.hub import locate
from linnet.model_options import ModelOptions
from linnet.system_files import usable_processors

if TYPE_CHECKING:
    from linnet.llm import LLM


ModelArgument: TypeAlias = Annotated[
    str, typer.Argument(help="tiny (built in), a model folder, a .gguf file, or a hub id in the local cache", metavar="MODEL")
]


def check(model: str, load: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Raises InvalidRequestError for bad options and ModelFileError for a model that is not there; reads nothing else."""
    SamplingParams(**sampling)
    ModelOptions(**load)
    processors = usable_processors()
    for name in ("threads", "prefill_threads"):
        threads = load.get(name) or 1
        if threads > processors:
            raise InvalidRequestError(
                f"{name} is {threads} and this process may run on {processors} processors; more would wait for each other"
            )
    locate(model)


def require_chat_template(llm: LLM, model: str, load: Mapping[str, Any]) -> None:
    """Raises ChatTemplateError, which names the remedy, unless the model has a usual chat template or was given one."""
    from linnet.text.chat_template import choose

    if llm.tokenizer is None:
        raise ChatTemplateError(f"{model} has no tokenizer, which a conversation needs; give one with --tokenizer PATH")
    choose(llm.tokenizer.chat_templates, load.get("chat_template"), False, model)
