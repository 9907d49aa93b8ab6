"""`Config`: a checkpoint's configuration, read key by key, typed, bounded, with account kept of what was not understood.

Keys are those of Hugging Face's config.json, also where the values come from GGUF (`gguf_config.py` translates).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from linnet.arch.spec import Activation
from linnet.errors import ModelFileError, UnsupportedModelError

_REQUIRED: Any = object()

# Keys that cannot change what the model computes: training, bookkeeping, generation defaults, token ids (read elsewhere).
_HARMLESS = """
architectures auto_map model_type torch_dtype dtype transformers_version transformers.js_config use_cache tokenizer_class
initializer_range initializer_factor attention_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop dropout classifier_dropout
bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id cls_token_id decoder_start_token_id forced_bos_token_id
forced_eos_token_id suppress_tokens begin_suppress_tokens bad_words_ids id2label label2id num_labels task_specific_params
max_length min_length max_new_tokens max_sequence_length model_max_length tokenizer_model_max_length do_sample temperature top_k
top_p typical_p num_beams num_beam_groups num_return_sequences length_penalty repetition_penalty diversity_penalty
no_repeat_ngram_size encoder_no_repeat_ngram_size early_stopping renormalize_logits return_dict return_dict_in_generate
output_attentions output_hidden_states output_scores chunk_size_feed_forward use_flash_attention use_flash_attn
residual_dropout embedding_dropout
_attn_implementation_autoset unsloth_fixed is_llama_config pretraining_tp bos_token eos_token tf_legacy_loss gradient_checkpointing
remove_invalid_values is_decoder rope_finetuned finetuned _from_model_config
"""
HARMLESS = frozenset(_HARMLESS.split())

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu_squared",
}

Format = Literal["hf", "gguf", "torch"]


class Config:
    """Typed access to a configuration.

    Every getter treats null as absent, gives `default` for an absent key (ModelFileError without one), and raises ModelFileError,
    naming key and file, for a value of the wrong type or outside its bounds. `finish` then raises UnsupportedModelError for keys
    that nobody asked for and that could change the computation.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        where: str,
        format: Format = "hf",
        names: Mapping[str, str] | None = None,
        tensors: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """`names`: what the file calls a key, where that differs. `tensors`: the shapes of the tensors of a GGUF file or a plain
        PyTorch checkpoint, of which some tell what its configuration does not."""
        self.where, self.format, self.tensors = where, format, tensors or {}
        self._values = dict(values)
        self._names = dict(names or {})
        self._prefix = ""
        self._read: set[str] = set()
        self._groups: dict[str, Config] = {}

    def assume(self, **defaults: Any) -> None:
        """What absent keys mean in a family."""
        for key, value in defaults.items():
            if self._values.get(key) is None:
                self._values[key] = value

    def called(self, **names: str) -> None:
        """What a family's files call a key that is read under its usual name; a file may use either."""
        for key, name in names.items():
            value = self._values.pop(name, None)
            if value is None:
                if self._values.get(key) is None:
                    self._names.setdefault(self._prefix + key, self._prefix + name)
                continue
            if self._values.get(key, value) not in (None, value):
                raise self.error(key, f"{value!r}, as {name} says,")
            self._values[key] = value
            self._names[self._prefix + key] = self._prefix + name

    def settle(self, key: str) -> None:
        """Takes a list that has the same value for every layer as that value."""
        value = self._values.get(key)
        if isinstance(value, (list, tuple)) and value and all(type(one) is int and one == value[0] for one in value):
            self._values[key] = value[0]

    def integer(self, key: str, default: Any = _REQUIRED, low: int = 1, high: int = 2**31 - 1) -> int:
        value = self._get(key, default)
        if value is not default and (type(value) is not int or not low <= value <= high):
            raise self.error(key, f"an integer from {low} to {high}")
        return cast(int, value)

    def optional_integer(self, key: str, default: int | None = None, low: int = 1) -> int | None:
        """Like `integer`, but null means None, and `default` stands only for a key that is not there."""
        if self._values.get(key, default) is None:
            self._read.add(key)
            return None
        return self.integer(key, default, low)

    def number(self, key: str, default: Any = _REQUIRED, low: float = 0.0, high: float = 1e12) -> float:
        """A finite number above `low` and at most `high`."""
        value = self._get(key, default)
        if value is default:
            return cast(float, value)
        if type(value) not in (int, float) or not low < value <= high:  # NaN is neither
            raise self.error(key, f"a number above {low:g} and at most {high:g}")
        return float(value)

    def optional_number(self, key: str, default: float | None = None, low: float = 0.0) -> float | None:
        """Like `number`, but null means None, and `default` stands only for a key that is not there."""
        if self._values.get(key, default) is None:
            self._read.add(key)
            return None
        return self.number(key, default, low)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        value = self._get(key, default)
        if value is not default and type(value) is not str:
            raise self.error(key, "a text")
        return cast(str, value)

    def items(self, key: str) -> list[Any] | None:
        """A list, or None."""
        value = self._get(key, None)
        if value is not None and type(value) not in (list, tuple):
            raise self.error(key, "a list")
        return None if value is None else list(value)

    def group(self, key: str) -> Config | None:
        """A nested object, read and accounted for in the same way, the same one at each call; None where it is absent or empty."""
        value = self._get(key, None)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "an object")
        if not value:
            return None
        if key not in self._groups:
            inner = self._groups[key] = Config(value, self.where, self.format, self._names)
            inner._prefix = f"{self._prefix}{key}."
        return self._groups[key]

    def activation(self, key: str = "hidden_act") -> Activation:
        name = self.text(key, "silu")
        if name not in _ACTIVATIONS:
            raise UnsupportedModelError(f"{self.where}: {self.name(key)} is {name!r}; known are {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[name]

    def name(self, key: str) -> str:
        """What the file calls this key."""
        return self._names.get(self._prefix + key, self._prefix + key)

    def error(self, key: str, expected: str) -> ModelFileError:
        value = self._values.get(key)
        return ModelFileError(f"{self.where}: {self.name(key)} is {str(value)[:60]!r}; {expected} was expected")

    def ignore(self, keys: Iterable[str]) -> None:
        """Counts keys as read: they are known and cannot matter here."""
        self._read.update(keys)

    def finish(self) -> None:
        """Raises UnsupportedModelError for what was not read, is not harmless, and says anything.

        null, false, zero and empty values switch nothing on; texts are notes. The rest (numbers, true, lists, objects)
        may be a feature that this version would silently leave out.
        """
        left = self.leftovers()
        if left:
            others = "; backend='transformers' (--backend transformers) may run it" if self.format == "hf" else ""
            message = f"{self.where}: not understood: {', '.join(left)}; the model may need a feature that is not built{others}"
            raise UnsupportedModelError(message)

    def leftovers(self) -> list[str]:
        """The keys that `finish` objects to, each with its value."""
        own = [
            f"{self.name(key)} = {str(value)[:60]}"
            for key, value in self._values.items()
            if key not in self._read and key not in HARMLESS and not isinstance(value, str) and _says_something(value)
        ]
        return own + [entry for group in self._groups.values() for entry in group.leftovers()]

    def _get(self, key: str, default: Any) -> Any:
        self._read.add(key)
        value = self._values.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise ModelFileError(f"{self.where}: {self.name(key)} is missing")
        return default


def _says_something(value: Any) -> bool:
    return bool(value.size) if hasattr(value, "size") else bool(value)
