"""Images of labels, told from those of intensities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.image import Image

_FEW_VALUES = 32  # no image of a body has as few
_MIN_EQUAL_SHARE = 0.8  # of neighbours along the rows; of a picture of as few grey values far fewer are equal
_MIN_EQUAL_INSIDE = 0.6  # of neighbours that are not background: bone alone, in a window of grey values, has 0.1


def is_label_image(image: Image) -> bool:
    """Tell whether an image holds labels: whole numbers of any type, in areas of one value, however many there are.

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
    planes = array[:: max(1, len(array) // 16)]  # enough to tell most others at once
    return _are_whole(planes) and _in_areas(planes) and _are_whole(array)


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
    array = image.array
    if not _are_whole(array):
        raise InputError(
            f"{image.label}: labels must be whole numbers, and it holds others; threshold a map of probabilities, and "
            "warp labels with interpolation='nearest'"
        )
    return array.astype(np.int64) if array.dtype.kind == "f" else array


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


def _are_whole(values: NDArray[Any]) -> bool:
    """Tell whether all numbers are whole; NaN and infinity are not."""
    if values.dtype.kind != "f":
        return True
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return bool((values - np.rint(values) == 0).all())
