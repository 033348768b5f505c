"""Named tensors and text in one file: the safetensors format, written and read with torch alone.

Eight bytes, little endian, say how long the header is, JSON that names each tensor's type, shape and place; then come
the tensors' bytes. See https://github.com/huggingface/safetensors#format. Nothing in such a file can run code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_METADATA = "__metadata__"
_ALIGNMENT = 8  # bytes, of the first tensor
_MAX_HEADER_BYTES = 100_000_000  # as in the reference implementation
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors on the CPU to a safetensors file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "weights.safetensors")
    >>> write_tensors(path, {"bias": torch.ones(2)}, {"name": "tiny"})
    >>> read_tensors(path)
    ({'bias': tensor([1., 1.])}, {'name': 'tiny'})
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    # widest types first, so that each tensor lies at a multiple of its type's size
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def is_tensor_file(path: Path) -> bool:
    """Tell whether a file begins as a safetensors file does, with the length of its header and the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises
    ------
    ValueError
        When the file is cut or damaged.
    """
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if not 0 < length <= min(_MAX_HEADER_BYTES, len(data) - 8):
        raise ValueError(f"its header should have {length} bytes")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop(_METADATA, {})
    body = memoryview(bytearray(data[8 + length :]))
    return {name: _tensor(name, entry, body) for name, entry in header.items()}, metadata


def _tensor(name: str, entry: Any, body: memoryview) -> Tensor:
    try:
        dtype, shape, (start, end) = _TYPES[entry["dtype"]], [int(n) for n in entry["shape"]], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its header does not describe {name!r}: {error!r}") from error
    expected = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    if not 0 <= start <= end <= len(body) or end - start != expected:
        raise ValueError(f"{name!r} should have {expected} bytes, at {start} to {end} of {len(body)}")
    if not expected:
        return torch.empty(shape, dtype=dtype)
    # a copy lies where its type needs it to
    return torch.frombuffer(bytearray(body[start:end]), dtype=dtype).reshape(shape)
