"""How byte-level BPE vocabularies cut a text into words, by the name a GGUF file gives under `tokenizer.ggml.pre`.

The names are those of llama.cpp; the patterns are those of the models' own tokenizer.json wherever known, in Oniguruma's
syntax. Patterns apply in order: each cuts the pieces that the one before left, matches and gaps both staying pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from linnet.errors import UnsupportedModelError


@dataclass(frozen=True)
class PreTokenizer:
    """patterns: applied in order. ignore_merges: a word that is a token stays whole in spite of the merges. add_bos: the default if a file
    does not say."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


# The parts that the patterns of many models are made of.
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_HAN_KANA = r"[一-龥぀-ゟ゠-ヿ]+"
_CJK = r"[一-龥ࠀ-一가-퟿]+"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"


def llama3_pattern(digits: str) -> str:
    """Llama 3's, and with other `digits` Qwen's."""
    return f"{SUFFIX}|{_WORD}|{digits}|{_SIGNS}|{_SPACE}"


def cased_pattern(digits: str, suffix: str = "") -> str:
    """GPT-4o's and its like: words are cut where capitals follow small letters; letters without case belong to both."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    lead = r"[^\r\n\p{L}\p{N}]?"
    words = f"{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"


# Letters of scripts that have capitals, as the tokenizer.json of DeepSeek LLM lists them.
# Escaped where Unicode normalization of this file would change them.
_DEEPSEEK_LETTERS = (
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿ\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚ"
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}"
    r"\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}"
    r"\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}ℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿ"
    r"ﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_DEEPSEEK3 = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACE

_default = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_gpt2 = PreTokenizer((_GPT2,))
_digits_gpt2 = PreTokenizer((r"\p{N}", _GPT2))
_llama3_groups = PreTokenizer((llama3_pattern(r"\p{N}{1,3}"),))
_llama_bpe = replace(_llama3_groups, ignore_merges=True, add_bos=True)
_qwen2 = PreTokenizer((llama3_pattern(r"\p{N}"),))
_qwen35 = PreTokenizer((rf"{SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}",))
_deepseek_llm = PreTokenizer(
    (r"[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _CJK, r"\p{N}+"),
)
_deepseek_coder = PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"))
_deepseek3 = PreTokenizer((r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK3))
_falcon = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))
_bloom = PreTokenizer((_BLOOM,))
_tekken = PreTokenizer((cased_pattern(r"\p{N}"),), ignore_merges=True, add_bos=True)
_gpt4o = PreTokenizer((cased_pattern(r"\p{N}{1,3}", rf"{SUFFIX}?"),))
_tiny_aya = replace(_gpt4o, patterns=(r"\d{1,3}(?=(?:\d{3})*\b)", *_gpt4o.patterns))
_bailing = PreTokenizer(
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",),
)
_seed_coder = PreTokenizer((rf"{SUFFIX}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACE}",))
_jais2_space = "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)) + r"|\s{1,2}(?!\S)|\s{1}"
_jais2 = PreTokenizer((rf"{SUFFIX}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s*[\r\n]+" + _jais2_space,))
_exaone_moe = PreTokenizer(
    (SUFFIX + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",),
)
_minicpm5 = PreTokenizer((r"\p{N}{1,3}", llama3_pattern(r"\p{N}+")), ignore_merges=True)
_chameleon = PreTokenizer(
    ("<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", _GPT2),
    add_bos=True,
)
_youtu = PreTokenizer(
    ("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+", cased_pattern(r"\p{N}", rf"{SUFFIX}?")), ignore_merges=True
)

_NAMES: tuple[tuple[PreTokenizer, str], ...] = (
    (_default, "default"),
    (_llama_bpe, "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano"),
    (_llama3_groups, "dbrx smaug-bpe glm4 chatglm-bpe"),
    (_gpt2, "gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat exaone4 mellum a.x-4.0 modern-bert"),
    (_gpt2, "jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe"),
    (_digits_gpt2, "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2"),
    (_qwen2, "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2"),
    (_qwen35, "qwen35"),
    (_deepseek_llm, "deepseek-llm"),
    (_deepseek_coder, "deepseek-coder"),
    (_deepseek3, "deepseek-v3 hunyuan-dense joyai-llm hy_v4"),
    (_falcon, "falcon"),
    (_bloom, "bloom poro-chat gpt3-finnish"),
    (replace(_bloom, patterns=(_BLOOM, r"\p{N}")), "viking"),
    (_tekken, "tekken"),
    (_gpt4o, "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (replace(_gpt4o, ignore_merges=True), "granite-embed-multi-97m"),
    (_tiny_aya, "tiny_aya"),
    (_bailing, "bailingmoe bailingmoe2 llada-moe"),
    (_seed_coder, "seed-coder"),
    (_jais2, "jais-2"),
    (_exaone_moe, "exaone-moe"),
    (_minicpm5, "minicpm5"),
    (_chameleon, "chameleon"),
    (_youtu, "youtu"),
)
PRE_TOKENIZERS = {name: pre for pre, names in _NAMES for name in names.split()}


def pre_tokenizer(name: str, source: str) -> PreTokenizer:
    """The pre-tokenizer of that name; raises UnsupportedModelError for one that this version does not know."""
    found = PRE_TOKENIZERS.get(name)
    if found is None:
        raise UnsupportedModelError(
            f"{source}: unknown pre-tokenizer {name!r} (tokenizer.ggml.pre); pass tokenizer= a folder with this model's tokenizer.json"
        )
    return found
