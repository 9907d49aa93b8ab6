"""One safetensors file: tensors as they come, after a header that says where they will be. The inverse of `linnet.load.safetensors`.

Follows https://github.com/huggingface/safetensors#format. Knows no model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

from linnet.quantize.gguf_writer import Entry
from linnet.tensors import BF16, F16, F32

_NAMES = {F32: "F32", F16: "F16", BF16: "BF16"}
_ALIGNMENT = 8


class SafetensorsWriter:
    """A file that is being written: its tensors follow in the order of `entries`, whole, in pieces of any size."""

    def __init__(self, file: BinaryIO, entries: Sequence[Entry]) -> None:
        self.file = file
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for entry in entries:
            header[entry.name] = {
                "dtype": _NAMES[entry.type],
                "shape": list(entry.shape),
                "data_offsets": [offset, offset + entry.nbytes],
            }
            offset += entry.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % _ALIGNMENT)
        file.write(len(text).to_bytes(8, "little") + text)

    def write(self, data: Any) -> None:
        self.file.write(data)

    def end_tensor(self, entry: Entry) -> None:
        """Nothing: tensors lie side by side."""
