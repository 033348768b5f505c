"""Image: an array and the grid that places it in the world."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samreg.errors import InputError, require_type
from samreg.spatial.grid import FloatArray, Grid, require_unmasked

_MAX_INTEGER = 2**53  # larger integers are rounded by every interpolation, even "nearest"


@dataclass(frozen=True, eq=False)
class Image:
    """A scalar image, 2D or 3D, in the world frame LPS mm.

    Parameters
    ----------
    array
        Intensities in array order (z, y, x) or (y, x), as SimpleITK's ``GetArrayFromImage``: booleans, integers or
        floating-point numbers. The other byte order is turned to this machine's; half precision becomes float32 and
        extended precision float64, which every other package takes.
    grid
        Where the voxels lie.
    name
        What to call the image in messages and reports, such as its file path.
    spacing_known
        False where nobody said the voxel size and 1 mm stands in for it; :func:`as_image`, and with it registration
        and matching, refuse such an image.
    remarks
        What was decided in reading the image where its file leaves doubt; results made from it repeat them.

    Raises
    ------
    InputError
        When the array's shape is not the grid's, or it holds something else than real numbers, or integers beyond
        2**53.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg import Image
    >>> image = Image.from_array(np.zeros((3, 4, 5)), spacing=(0.8, 0.8, 2.5), name="scan")
    >>> image.shape, image.spacing.tolist()
    ((3, 4, 5), [0.8, 0.8, 2.5])
    """

    array: NDArray[Any]
    grid: Grid
    name: str = ""
    spacing_known: bool = True
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        array = _portable(self.array, self.label)
        if array.shape != self.grid.shape:
            raise InputError(
                f"{self.label}: array shape {array.shape} is not the grid's {self.grid.shape}; arrays are (z, y, x)"
            )
        object.__setattr__(self, "array", array)

    @classmethod
    def from_array(
        cls,
        array: ArrayLike,
        *,
        origin: ArrayLike | None = None,
        spacing: ArrayLike | None = None,
        direction: ArrayLike | None = None,
        name: str = "",
    ) -> Image:
        """Make an image from an array.

        Parameters
        ----------
        array
            (z, y, x) or (y, x). It is copied where it can be written to, so that later changes of it do not change the
            image; ``Image(array, grid)`` shares it.
        origin
            (d,) position (x, y, z) of the first voxel's centre, LPS mm; 0 unless given.
        spacing
            Voxel size, mm: one number, or (d,) along x, y(, z). Without it the image has voxels of 1 mm and
            ``spacing_known`` is False.
        direction
            (d, d) columns are the grid axes x, y, z in LPS; the identity unless given.
        name
            What to call the image in messages.

        Raises
        ------
        InputError
            When the array is neither 2D nor 3D, or one of the parts does not fit it or is impossible.

        Examples
        --------
        >>> from samreg import Image
        >>> Image.from_array([[0, 1, 2], [3, 4, 5]], spacing=0.5, origin=(10, 20)).grid.extent.tolist()
        [1.5, 1.0]
        """
        portable = _portable(array, name or "image")
        try:
            grid = Grid.make(portable.shape, origin=origin, spacing=spacing, direction=direction)
        except InputError as error:
            raise InputError(f"{name or 'image'}: {error}") from None
        if _can_change(array, portable):
            portable = portable.copy()
        return cls(portable, grid, name, spacing_known=spacing is not None)

    def __repr__(self) -> str:
        return f"Image({self.label}, {self.array.dtype}, {self.grid})"

    @property
    def label(self) -> str:
        """The name, or the word "image"."""
        return self.name or "image"

    @property
    def ndim(self) -> int:
        """Number of dimensions, 2 or 3."""
        return self.grid.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape, (z, y, x) or (y, x)."""
        return self.grid.shape

    @property
    def origin(self) -> FloatArray:
        """(d,) world position of the first voxel's centre, LPS mm."""
        return self.grid.origin

    @property
    def spacing(self) -> FloatArray:
        """(d,) voxel size along x, y, z, mm."""
        return self.grid.spacing

    @property
    def direction(self) -> FloatArray:
        """(d, d) columns are the grid axes in LPS."""
        return self.grid.direction

    def with_array(self, array: NDArray[Any]) -> Image:
        """Return an image of other intensities on the same grid."""
        return replace(self, array=array)


def require_image(value: object, name: str = "image") -> None:
    """Raise :class:`InputError` unless a value is an :class:`Image`.

    Examples
    --------
    >>> require_image("scan.nii.gz")
    Traceback (most recent call last):
    samreg.errors.InputError: image must be a samreg Image, which samreg.as_image makes of others and of files, got str
    """
    require_type(name, value, Image, "which samreg.as_image makes of others and of files")


def _can_change(given: object, array: NDArray[Any]) -> bool:
    """Tell whether whoever gave something can still change the array that was made of it."""
    if isinstance(given, (list, tuple)) or (isinstance(given, np.ndarray) and not np.may_share_memory(given, array)):
        return False
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    return False


def _portable(array: ArrayLike, label: str) -> NDArray[Any]:
    """Return an array of a type that every package takes, the same numbers in this machine's byte order."""
    require_unmasked(array, label)
    try:
        result = np.asarray(array)
    except (TypeError, ValueError) as error:  # ragged lists, tensors on a GPU
        raise InputError(f"{label}: cannot be made a numpy array ({error}); give an array of numbers") from error
    kind, size = result.dtype.kind, result.dtype.itemsize
    if kind not in "biuf":
        raise InputError(
            f"{label}: intensities must be real numbers, got dtype {result.dtype}; convert colours to grey and complex "
            "numbers to magnitudes"
        )
    if kind in "iu" and size == 8 and result.size and not -_MAX_INTEGER <= result.min() <= result.max() <= _MAX_INTEGER:
        raise InputError(f"{label}: integers beyond 2**53 cannot be resampled exactly; renumber the labels")
    if kind != "f" or size in (4, 8):
        return result.astype(result.dtype.newbyteorder("="), copy=False)
    narrow = result.astype(np.float32 if size == 2 else np.float64)
    if (np.isinf(narrow) & ~np.isinf(result)).any():
        raise InputError(f"{label}: numbers beyond the range of float64; rescale the image")
    return narrow
