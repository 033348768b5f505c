"""Images of labels, told from those of intensities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.image import Image

_MAX_INTEGER = 2.0**53  # beyond which floating-point numbers are no longer all whole numbers
_FEW_VALUES = 32  # no image of a body has as few
_MIN_EQUAL_SHARE = 0.8  # of neighbours along the rows; of a picture of as few grey values far fewer are equal
_ROUNDED, _ROUNDED_SHARE = 1e-3, 1e-6  # how far rounded labels lie from whole numbers, and more by share of their size
_MIN_EQUAL_INSIDE = 0.6  # of neighbours that are not background: bone alone, in a window of grey values, has 0.1


def is_label_image(image: Image) -> bool:
    """Tell whether an image holds labels: whole numbers of any type, in areas of one value, however many there are.

    Numbers that are whole but for what arithmetic or a file has rounded, such as 1.9999999, count as whole.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.spatial import Image
    >>> labels = np.zeros((20, 20), np.uint8)
    >>> labels[5:15, 5:15] = 3
    >>> is_label_image(Image.from_array(labels)), is_label_image(Image.from_array(labels.astype(float)))
    (True, True)
    >>> is_label_image(Image.from_array(labels / 2))
    False
    """
    array = image.array
    if array.dtype.kind == "b":
        return True
    if array.dtype.kind not in "iuf" or array.size < 2:
        return False
    planes = as_whole(array[:: max(1, len(array) // 16)])  # enough to tell most others at once
    return planes is not None and _in_areas(planes) and as_whole(array) is not None


def as_whole(values: NDArray[Any]) -> NDArray[Any] | None:
    """Return numbers as booleans or integers where all are whole, but for rounding; None where one is not.

    Labels come to lie beside whole numbers where they were scaled, by a program or by the slope of a file. NaN and
    infinity are not whole; nor are numbers whole that would all become 0, as a map of small values.

    Examples
    --------
    >>> as_whole(np.array([0.0, 1.9999999])), as_whole(np.array([0.0, 1.9])), as_whole(np.array([0.0, 1e-9]))
    (array([0, 2]), None, None)
    """
    if values.dtype.kind != "f":
        return values
    if values.dtype.itemsize < 4:  # to which the largest integer is infinity
        values = values.astype(np.float32)
    whole: NDArray[Any] = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        near = np.abs(values - whole) <= _ROUNDED + _ROUNDED_SHARE * np.abs(whole)
    if not (near & (np.abs(whole) < _MAX_INTEGER)).all() or (values.any() and not whole.any()):
        return None
    labels: NDArray[Any] = whole.astype(np.int64)
    return labels


def whole_numbers(image: Image) -> NDArray[Any]:
    """Return the voxels of labels as booleans or integers; many programs store labels in floating-point files.

    Raises
    ------
    InputError
        When a value is no whole number.

    Examples
    --------
    >>> from samreg.spatial import Image
    >>> whole_numbers(Image.from_array([[0.0, 2.0]]))
    array([[0, 2]])
    """
    whole = as_whole(image.array)
    if whole is None:
        raise InputError(
            f"{image.label}: labels must be whole numbers, and it holds others; threshold a map of probabilities, and "
            "warp labels with interpolation='nearest'"
        )
    return whole


def _in_areas(planes: NDArray[Any]) -> bool:
    """Tell whether neighbours have one value, and not in the background alone, unless there are few values."""
    left, right = planes[..., :-1], planes[..., 1:]
    equal = left == right
    if equal.mean() < _MIN_EQUAL_SHARE:
        return False
    values, counts = np.unique(planes, return_counts=True)
    if len(values) <= _FEW_VALUES:
        return True
    background = values[counts.argmax()]
    inside = equal[(left != background) & (right != background)]
    return not inside.size or float(inside.mean()) >= _MIN_EQUAL_INSIDE
