"""A short ``repr()`` for what holds arrays: their shapes in place of their numbers."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any

_SHOWN = 3  # of a tuple, a list or the keys of a mapping; and the longest array whose numbers are shown


class _Brief(reprlib.Repr):
    """Shows arrays and tensors by type and shape, mappings by their keys, and the first of many."""

    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = _SHOWN
        self.maxstring = self.maxother = 200

    def repr_ndarray(self, array: Any, level: int) -> str:
        """Return type and shape; of one position or voxel size its numbers."""
        if array.ndim == 1 and 0 < array.size <= _SHOWN and array.dtype.kind == "f":
            return repr(array.round(4).tolist())
        return f"<{array.dtype} {array.shape}>"

    def repr_Tensor(self, tensor: Any, level: int) -> str:  # noqa: N802  # reprlib looks for the name of the type
        """Return type and shape."""
        return f"<{tensor.dtype} {tuple(tensor.shape)}>"

    def repr_dict(self, mapping: Mapping[Any, Any], level: int) -> str:
        """Return the first keys."""
        keys = [f"{key!r}: ..." for key in list(mapping)[:_SHOWN]]
        return f"{{{', '.join(keys + ['...'] * (len(mapping) > _SHOWN))}}}"

    repr_mappingproxy = repr_dict


_BRIEF = _Brief()


def brief_repr(value: Any) -> str:
    """Return the ``repr()`` of a dataclass, in which arrays are shown by type and shape, and long parts cut.

    To be the ``__repr__`` of dataclasses that hold arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg import Points
    >>> Points(np.zeros((5, 3)), tuple("abcde"))
    Points(positions=<float64 (5, 3)>, names=('a', 'b', 'c', ...), scores=None)
    """
    shown = (field.name for field in dataclasses.fields(value) if field.repr)
    parts = (f"{name}={_BRIEF.repr(getattr(value, name))}" for name in shown)
    return f"{type(value).__name__}({', '.join(parts)})"
