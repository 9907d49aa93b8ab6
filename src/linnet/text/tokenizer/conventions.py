"""What some publishers' tokenizers do in their own Python code, and their files do not say.

Sources: tokenization_chatglm.py of https://huggingface.co/THUDM/chatglm-6b, chatglm2-6b, chatglm3-6b and glm-4-9b-chat,
tokenization_baichuan.py and tokenization_internlm2.py of those models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from linnet.errors import UnsupportedModelError
from linnet.text.tokenizer.config import TokenizerConfig


@dataclass(frozen=True)
class Convention:
    """
    appended: control tokens whose ids follow those of the file. beginning, ending: the tokens that a text to continue has before
    and after it, where that is more than a beginning token. ends: tokens that end an answer besides the end token.
    spelled: texts that pieces stand for, by the piece's own text. apart: whether a text after a control token is cut as if it
    stood alone, with a space in front.
    """

    appended: tuple[str, ...] = ()
    beginning: tuple[str, ...] = ()
    ending: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    spelled: Mapping[str, str] = field(default_factory=dict)
    apart: bool = False

    def spell(self, text: str) -> str:
        """The text with pieces in place of what they stand for; of several, the longest."""
        if not self.spelled:
            return text
        pieces = {meant: piece for piece, meant in self.spelled.items()}
        longest_first = sorted(pieces, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)), lambda match: pieces[match[0]], text)


ICE_TEXT = "ice_text.model"
"""The name of ChatGLM-6B's tokenizer file."""
_CHATGLM_6B = Convention(
    ending=("[gMASK]", "<sop>"),
    spelled={"<n>": "\n", "<|tab|>": "\t", **{f"<|blank_{count}|>": " " * count for count in range(2, 81)}},
    apart=True,
)
_CHATGLM_2_3 = Convention(
    appended=("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    beginning=("[gMASK]", "sop"),
    ends=("<|user|>", "<|observation|>"),
    apart=True,
)
_BY_CLASS = {"ChatGLMTokenizer": _CHATGLM_2_3, **dict.fromkeys(("BaichuanTokenizer", "InternLM2Tokenizer"), Convention(apart=True))}


def convention_of(path: Path, config: TokenizerConfig) -> Convention:
    """The convention for the SentencePiece file at `path`. Raises UnsupportedModelError for settings that are not built."""
    if path.name != ICE_TEXT:
        return _BY_CLASS.get(str(config.settings.get("tokenizer_class")), Convention(apart=config.flag("legacy") is True))
    images = config.settings.get("num_image_tokens", 20_000 if config.settings else 0)
    if images != 0:
        raise UnsupportedModelError(f"{config.path}: num_image_tokens is {str(images)[:20]}; only a vocabulary without images is read")
    for name in ("remove_space", "do_lower_case"):
        if config.settings.get(name):
            raise UnsupportedModelError(f"{config.path}: {name} is {str(config.settings[name])[:20]}; only false is built")
    return _CHATGLM_6B
