"""Read PyTorch checkpoints into numpy arrays without PyTorch and without running what they contain.

A checkpoint is a pickle, and unpickling runs code of the file's choosing. This reader resolves only the
handful of names that a plain state dict needs and refuses every other one. Both container formats are
read: zip (`archive/data.pkl` beside `archive/data/KEY`) and the older concatenated pickles.
Format source: the layout written by `torch.save` (torch/serialization.py).
"""

import collections
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

STORAGE_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
}


class CheckpointError(ValueError):
    """A checkpoint that isn't a plain state dict, or is cut short."""


class _Storage:
    """A flat typed buffer that tensors view; its numbers arrive after the pickle in the legacy format."""

    def __init__(self, dtype, n_values):
        self.dtype = dtype
        self.n_values = n_values
        self.values = None


class _Tensor:
    """A strided view of a storage, resolved once every storage has been read."""

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def to_numpy(self):
        values = self.storage.values
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides))
        if min(self.shape, default=1) == 0:
            return np.zeros(self.shape, self.storage.dtype)
        if self.offset < 0 or min(self.strides, default=0) < 0 or last >= len(values):
            raise CheckpointError(f"tensor reaches value {last} of a storage of {len(values)}")
        byte_strides = [step * values.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, byte_strides)
        return np.array(view)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, shape, strides)


class _StateDictUnpickler(pickle.Unpickler):
    """Resolves `OrderedDict`, tensor rebuilding and storage types, and nothing else."""

    def __init__(self, stream, storages):
        super().__init__(stream)
        self.storages = storages

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise CheckpointError(f"checkpoint asks for {module}.{name}, which a state dict does not need")

    def persistent_load(self, saved_id):
        kind, dtype, key, _location, n_values, *_ = saved_id
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise CheckpointError(f"unknown persistent id {saved_id!r}")
        return self.storages.setdefault(key, _Storage(dtype, n_values))


def _take(stream, n_bytes):
    chunk = stream.read(n_bytes)
    if len(chunk) != n_bytes:
        raise CheckpointError(f"checkpoint cut short: expected {n_bytes} more bytes, found {len(chunk)}")
    return chunk


def _read_legacy(raw):
    stream, storages = io.BytesIO(raw), {}
    if _StateDictUnpickler(stream, storages).load() != LEGACY_MAGIC:
        raise CheckpointError("not a PyTorch checkpoint: wrong magic number")
    for _protocol_version_and_system in range(2):
        _StateDictUnpickler(stream, storages).load()
    state = _StateDictUnpickler(stream, storages).load()
    for key in _StateDictUnpickler(stream, storages).load():
        storage = storages[key]
        n_values = int.from_bytes(_take(stream, 8), "little")
        if n_values != storage.n_values:
            raise CheckpointError(f"storage {key}: expected {storage.n_values} values, found {n_values}")
        storage.values = np.frombuffer(_take(stream, n_values * storage.dtype.itemsize), storage.dtype)
    return state


def _read_zip(raw):
    storages = {}
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(f"expected one data.pkl, found {len(pickles)}")
        folder = pickles[0].removesuffix("data.pkl")
        state = _StateDictUnpickler(io.BytesIO(archive.read(pickles[0])), storages).load()
        for key, storage in storages.items():
            stored = archive.read(f"{folder}data/{key}")
            storage.values = np.frombuffer(stored, storage.dtype)
    return state


def read_checkpoint(path):
    """Return `{name: array}` of the state dict in a .pt/.pth file, in the file's order.

    Raises `CheckpointError` when the file is no plain state dict.
    """
    raw = Path(path).read_bytes()
    try:
        state = _read_zip(raw) if zipfile.is_zipfile(io.BytesIO(raw)) else _read_legacy(raw)
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return {name: tensor.to_numpy() for name, tensor in state.items() if isinstance(tensor, _Tensor)}
