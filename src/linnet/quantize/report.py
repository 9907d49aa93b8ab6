"""What a run of `linnet.quantize` came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.errors import ContextLengthError
from linnet.llm import LLM
from linnet.load.checkpoint import Checkpoint
from linnet.quantize.evaluate import WINDOW, Comparison, compare, windows
from linnet.quantize.file_types import Choice
from linnet.quantize.progress import counter
from linnet.quantize.stream import Written
from linnet.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from linnet.quantize.run import Job


@dataclass(frozen=True)
class QuantizeReport:
    """A new file.

    nbytes, source_bytes: of all tensors. bits_per_weight: of the new tensors, scales included. types: how many tensors have each.
    notes: what a user should know, in words. evaluation: against the source; None where there was no text. seconds: until the file was
    there.
    """

    model: str
    out: str
    type: str
    parameters: int
    source_bytes: int
    nbytes: int
    bits_per_weight: float
    types: dict[str, int]
    tensors: list[Written]
    notes: list[str]
    seconds: float
    evaluation: Comparison | None = None

    def worst(self, count: int = 5) -> list[Written]:
        """The tensors with the largest relative errors."""
        lossy = [tensor for tensor in self.tensors if tensor.relative_error > 0]
        return sorted(lossy, key=lambda tensor: -tensor.relative_error)[:count]

    def record(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {**asdict(self), "worst_tensors": [tensor.name for tensor in self.worst()]}


def report_of(
    checkpoint: Checkpoint, out: Path, choice: Choice, tensors: Sequence[Written], notes: list[str], seconds: float
) -> QuantizeReport:
    source, values = checkpoint.source, sum(prod(tensor.shape) for tensor in tensors)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return QuantizeReport(
        model=checkpoint.name,
        out=str(out),
        type=f"{choice.file_type.name}{' (pure)' if choice.pure else ''}",
        parameters=values,
        source_bytes=sum(source.type(name).nbytes(source.shape(name)) for name in source.names()),
        nbytes=nbytes,
        bits_per_weight=8 * nbytes / values,
        types=dict(Counter(tensor.type for tensor in tensors).most_common()),
        tensors=list(tensors),
        notes=notes,
        seconds=seconds,
    )


def evaluated(checkpoint: Checkpoint, out: Path, tokenizer: Tokenizer, text: tuple[str, bool], job: Job) -> Comparison:
    """The new file beside its source. Closes the checkpoint."""
    token_ids = tokenizer.encode(text[0], bos=False, special=text[1])
    if len(token_ids) < 2:
        raise ContextLengthError(f"eval_text has {len(token_ids)} tokens; at least 2 are needed")
    length = min(WINDOW, checkpoint.spec.context)
    texts = windows(token_ids, length, tokenizer.vocabulary.beginning, job.evaluation_length)
    advance = counter(job.progress, "comparing", sum(map(len, texts)))
    options: dict[str, Any] = {
        "ops": "native",
        "weights": "stored",
        "context": length,
        "kv_dtype": "f32",
        "max_batch": 1,
        "prefix_cache": False,
        "threads": job.threads,
    }
    with LLM.from_checkpoint(checkpoint, tokenizer=tokenizer, **options) as source, LLM(out, tokenizer=tokenizer, **options) as new:
        return compare(source, new, texts, advance)
