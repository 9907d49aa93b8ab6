"""Files of `torch.save`: opened by PyTorch with `weights_only=True`, mapped, after a look at what their pickles name.

PyTorch is an extra (`pip install "linnet[torch]"`), imported when such a file is opened. Knows no architecture.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from linnet.errors import MissingDependencyError, ModelFileError, UnsupportedModelError
from linnet.load.files import MappedFile
from linnet.load.memory import MemorySource
from linnet.load.pickles import Global, read_pickle
from linnet.load.safetensors import read_weight_map
from linnet.tensors import F32, RawTensor, TensorType

log = logging.getLogger("linnet.load")

OLDEST_TORCH = (2, 6)
"""weights_only could be led to run code before (CVE-2025-32434)."""
MAX_PICKLE_BYTES = 64 * 2**20
"""Longest description of tensors that is read; a tensor takes some 300 bytes."""
INDEX = "pytorch_model.bin.index.json"

_STORAGES = {
    **dict.fromkeys("Char Byte Bool".split(), 1),
    **dict.fromkeys("Half BFloat16 Short".split(), 2),
    **dict.fromkeys("Float Int".split(), 4),
    **dict.fromkeys("Double Long ComplexFloat".split(), 8),
    "ComplexDouble": 16,
}
"""Bytes of an entry of each type of storage."""
_DTYPES = (
    "float32 float16 bfloat16 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64 complex128 "
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
).split()
TENSOR_GLOBALS = frozenset(
    [
        "collections.OrderedDict",
        "_codecs.encode",  # bytes, in the protocol that torch.save uses
        "torch.Size",
        "torch.device",
        "torch.storage.UntypedStorage",
        *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
        *(f"torch.{name}Storage" for name in _STORAGES),
        *(f"torch.{name}" for name in _DTYPES),
    ]
)
"""All that a pickle of tensors and plain values names."""
_WHAT = "tensors and plain values"


class TorchSource(MemorySource):
    """Tensors of a file of torch.save, by their names without what torch.compile and DistributedDataParallel put before them.

    float64 is read as float32; other types than floats are listed, and whoever would compute with one refuses it.
    """

    def __init__(self, tensors: Any, where: str, *files: Path) -> None:
        super().__init__(tensors, where)
        self.files = files
        self._tensors = self._renamed(self._tensors)
        self._types = self._renamed(self._types)
        for name, tensor in self._tensors.items():
            claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
            if claimed > held:  # a row repeated by a stride of 0: made whole, it may take any amount of memory
                raise ModelFileError(f"{where}: tensor {name!r} of shape {list(tensor.shape)} has {held} bytes, not {claimed}")
        doubles = [name for name, tensor in self._tensors.items() if str(tensor.dtype) == "torch.float64"]
        if doubles:
            log.warning("%s: %d tensors are float64 (%s ...); read as float32", where, len(doubles), doubles[0])

    def read(self, name: str) -> RawTensor:
        if self.type(name) == F32:
            self._tensors[name] = self._tensors[name].float()
        return super().read(name)

    def same_data(self, name: str, other: str) -> bool:
        """Whether two names stand for one tensor, as tied weights do."""
        a, b = self._tensor(name), self._tensor(other)
        return bool(a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())

    def _other_type(self, name: str, dtype: str, value: Any) -> TensorType:
        return F32 if dtype == "float64" else TensorType(dtype, -1, 1, value.element_size())

    def _renamed(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        renamed = {_plain_name(name): tensor for name, tensor in tensors.items()}
        if len(renamed) < len(tensors):
            raise ModelFileError(f"{self.where}: two tensors have one name, but for the prefixes module. and _orig_mod.")
        return renamed


def _plain_name(name: str) -> str:
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def load_torch_file(path: Path) -> Any:
    """What torch.save was given: tensors, read where the file is mapped, in lists and dicts with plain values.

    Raises ModelFileError for a file that is none, is damaged, or names anything else (which it says), UnsupportedModelError for
    TorchScript, and MissingDependencyError without PyTorch.
    """
    torch = _torch(path)
    zipped = _check_pickles(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a protocol that it may not read: where it cannot, an error says so
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # whatever its readers meet in a damaged file
        reason = str(error).partition("\n")[0]
        raise ModelFileError(f"{path}: PyTorch cannot read it ({type(error).__name__}: {reason[:200]}); download it again") from None


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(f'{path} is a file of PyTorch; to read it: pip install "linnet[torch]"') from None
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise MissingDependencyError(f"PyTorch {torch.__version__} is not safe with files of others: pip install -U 'torch>={oldest}'")
    return torch


def _check_pickles(path: Path) -> bool:
    """Proves that a file names tensors and plain values alone; gives whether it is a zip archive, which can be mapped."""
    file = MappedFile(path)
    try:
        if file.map[:4] == b"PK\x03\x04":
            _check_archive(path, file.size)
            return True
        if not file.map[:2] == b"\x80\x02":
            raise ModelFileError(f"{path}: not a file of torch.save (neither a zip archive nor a pickle); download it again")
        file.map.seek(0)
        for _ in range(5):  # PyTorch before 1.6: a magic number, a version, sizes, the value, names of what follows
            read_pickle(file.map, str(path), TENSOR_GLOBALS, _WHAT)  # type: ignore[arg-type]
        return False
    finally:
        file.close()


def _check_archive(path: Path, size: int) -> None:
    """Proves the same of the pickle in a zip archive, and that each storage that it names has a part as long as it says: PyTorch maps
    the archive, and would read on into the next part."""
    name, pickle, sizes = _archived_pickle(path, size)
    storages: list[Any] = []
    read_pickle(BytesIO(pickle), str(path), TENSOR_GLOBALS, _WHAT, storages)
    for storage in storages:
        kind, key, count = _storage(path, storage)
        part = name.removesuffix("data.pkl") + f"data/{key}"
        if part not in sizes:
            raise ModelFileError(f"{path}: the storage {part[:200]!r} is missing; download it again")
        if sizes[part] != count * kind:
            raise ModelFileError(f"{path}: the storage {part[:200]!r} has {sizes[part]} bytes, not {count * kind}; download it again")


def _storage(path: Path, id: Any) -> tuple[int, str, int]:
    """Bytes of an entry, key and number of entries of ("storage", type, key, device, entries)."""
    if isinstance(id, tuple) and len(id) == 5 and isinstance(id[1], Global) and isinstance(id[2], str) and type(id[4]) is int:
        return _STORAGES.get(id[1].name.removeprefix("torch.").removesuffix("Storage"), 1), id[2], id[4]
    raise ModelFileError(f"{path}: not a pickle of torch.save (a storage without type, key and size); download it again")


def _archived_pickle(path: Path, size: int) -> tuple[str, bytes, dict[str, int]]:
    """Name and bytes of the pickle inside a zip archive of torch.save, and the sizes of all its parts, none of which may be compressed
    or end past the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.filename.endswith("/constants.pkl") for part in parts):
                raise UnsupportedModelError(f"{path}: a TorchScript archive, which holds code; save the model's state_dict() instead")
            pickles = [part for part in parts if part.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ModelFileError(f"{path}: a zip archive, but not of torch.save (no data.pkl)")
            if any(part.compress_type != zipfile.ZIP_STORED or part.header_offset + part.file_size > size for part in parts):
                raise ModelFileError(f"{path}: a zip archive with compressed or oversized parts, which torch.save never writes")
            if pickles[0].file_size > MAX_PICKLE_BYTES:
                raise ModelFileError(f"{path}: {pickles[0].file_size} bytes of pickle; at most {MAX_PICKLE_BYTES} are read")
            return pickles[0].filename, archive.read(pickles[0]), {part.filename: part.file_size for part in parts}
    except (ModelFileError, MemoryError):
        raise
    except Exception as error:  # zipfile has many
        raise ModelFileError(f"{path}: not a whole zip archive ({str(error)[:100]}); download it again") from None


def read_torch_weights(folder: Path) -> TorchSource | None:
    """The weights of a Hugging Face folder that has them as pytorch_model.bin or in the shards of its index; None where it has
    neither."""
    single, index = folder / "pytorch_model.bin", folder / INDEX
    if single.is_file():
        return TorchSource(load_torch_file(single), str(single), single)
    if not index.is_file():
        return None
    weight_map = read_weight_map(index)
    tensors: dict[str, Any] = {}
    files = [index.parent / file for file in sorted(set(weight_map.values()))]
    for file in files:
        shard = load_torch_file(file)
        if not isinstance(shard, Mapping):
            raise ModelFileError(f"{file}: a {type(shard).__name__}; a mapping from names to tensors was expected")
        for name in shard:
            if weight_map.get(name) != file.relative_to(index.parent).as_posix():
                raise ModelFileError(f"{index}: says that tensor {str(name)[:200]!r} is in {weight_map.get(name)}, not in {file.name}")
        tensors.update(shard)
    if lacking := weight_map.keys() - tensors.keys():
        raise ModelFileError(f"{index}: says that tensor {min(lacking)!r} is in {weight_map[min(lacking)]}, but it is not")
    return TorchSource(tensors, str(index), *files)
