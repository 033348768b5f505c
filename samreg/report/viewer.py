"""The slices that the report's viewer shows: strips of small pictures, and maps of the deformation."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.quality.deformation import determinants
from samreg.registration.confidence import at_points
from samreg.registration.quality import body_on, initial_alignment, working_grid
from samreg.report.views import View, focus, grey, views_of, window
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.resample import resample
from samreg.spatial.standard import oriented
from samreg.spatial.transforms import AffineTransform, Transform, components

if TYPE_CHECKING:
    from samreg.registration.result import RegistrationResult

_MAX_PIXELS = 320  # along the longest side
_MARGIN_MM = 10.0  # shown around the body
# slices a plane and quality of their compression, tried in this order until the strips are small enough
_SLICES_AND_QUALITY = ((36, 75), (36, 50), (24, 40), (12, 30), (6, 20))
_MAX_BYTES = 2_800_000
_MAX_ERROR_MM = 40.0  # at the end of the colours
_MAX_LOG = float(np.log(2.5))  # log det J at the ends of the colours
_OUTSIDE_CODE, _FOLD_CODE = 0, 255  # codes of a map's pixels; 1 to 254 run along its colours


def viewer_data(result: RegistrationResult) -> dict[str, Any]:
    """Return what the page's viewer needs, ready for JSON.

    Parameters
    ----------
    result
        A registration; one that failed shows the images before alone.

    Returns
    -------
    dict
        ``before``, how the images lay, in words; ``planes``, each with its name, size in pixels, positions of its
        slices in mm, and layers: data addresses of strips in which the slices lie below each other; ``maps``, for
        each map of the deformation its title, colours and ticks.
    """
    fixed = oriented(result.fixed)
    before, how = initial_alignment(result)
    box = _body_box(result, fixed.grid)
    sources: dict[str, tuple[Image, Transform | None]] = {"fixed": (fixed, None), "before": (result.moving, before)}
    if result.transform is not None:
        sources["after"] = result.moving, result.transform
    limits = {name: window(image) for name, (image, _) in sources.items()}
    planes = []
    for view in views_of(fixed.ndim):
        strip = _strip(
            box, view, _SLICES_AND_QUALITY[0][0], max(box.extent.max() / _MAX_PIXELS, fixed.spacing.min() / 2)
        )
        strips = {
            name: _pictures(view, resample(image, strip, transform=transform).array, limits[name])
            for name, (image, transform) in sources.items()
        }
        planes.append((view, strip, strips))
    maps = _maps(result, fixed) if result and min(fixed.shape) > 1 else {}
    for count, quality in _SLICES_AND_QUALITY:
        chosen = [_plane(*plane, count, quality, maps, focus(result)) for plane in planes]
        if sum(len(address) for plane in chosen for address in plane["layers"].values()) <= _MAX_BYTES:
            break
    legends = {name: legend for name, (_, legend) in maps.items()}
    return {"before": how, "planes": chosen, "maps": legends}


def _plane(
    view: View,
    strip: Grid,
    strips: Mapping[str, NDArray[np.uint8]],
    count: int,
    quality: int,
    maps: Mapping[str, tuple[Image, Any]],
    middle: NDArray[np.float64],
) -> dict[str, Any]:
    """Return at most ``count`` of the slices of one view."""
    height, width = next(iter(strips.values())).shape[1:]
    stored = len(next(iter(strips.values())))
    chosen = np.unique(np.linspace(0, stored - 1, min(count, stored)).round().astype(int))
    layers = {name: _webp(slices[chosen], quality) for name, slices in strips.items()}
    index = np.repeat((np.asarray(strip.size) - 1)[None] / 2, len(chosen), axis=0)
    positions = np.zeros(len(chosen))
    if view.through is not None:
        index[:, view.through] = chosen
        positions = strip.index_to_world(index)[:, view.through]
    coarse = strip.spacing.copy()
    for name, (codes, _) in maps.items():
        for axis in (view.across, view.down):
            coarse[axis] = max(strip.spacing[axis], codes.spacing[axis])
        slices = resample(codes, strip.with_spacing(coarse), interpolation="nearest").array
        layers[name] = _png(_slices(view, slices)[chosen])
    start = 0 if view.through is None else int(np.abs(positions - middle[view.through]).argmin())
    return {
        "name": view.name,
        "labels": view.labels,
        "axis": "" if view.through is None else "xyz"[view.through],
        "width": width,
        "height": height,
        "positions": np.round(positions, 1).tolist(),
        "start": start,
        "layers": layers,
    }


def _maps(result: RegistrationResult, fixed: Image) -> dict[str, tuple[Image, dict[str, Any]]]:
    """Return each map of the deformation as codes on a coarse grid, with its legend."""
    transform = result.transform
    assert transform is not None
    grid = working_grid(fixed)
    body = body_on(result, grid)
    affine = [part for part in components(transform) if isinstance(part, AffineTransform)]
    lone = len(affine) == len(components(transform))
    linear = initial_alignment(result)[0] if lone else affine[-1] if affine else AffineTransform.identity(grid.ndim)
    points = grid.world_points()[body]
    length = np.linalg.norm(transform.transform_points(points) - linear.transform_points(points), axis=1)
    longest = max(1.0, float(np.percentile(length, 99)))
    det = determinants(transform, grid, body, step=float(fixed.spacing.max()))
    change = np.where(det > 0, np.log(np.maximum(det, 1e-9)), -_MAX_LOG)
    codes = np.full(grid.shape, _OUTSIDE_CODE, dtype=np.uint8)

    def coded(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
        return (1 + np.rint(253 * np.clip((values - low) / (high - low), 0, 1))).astype(np.uint8)

    maps = {}
    beyond = "how the images lay before" if lone else "the affine part"
    codes[body] = coded(length, 0, longest)
    maps["displacement"] = (
        Image(codes.copy(), grid),
        {
            "title": f"Length of the displacement beyond {beyond}, mm",
            "colours": _colours("magma"),
            "ticks": [f"{t:.1f}" for t in np.linspace(0, longest, 5)],
            "folds": False,
        },
    )
    if result.error_map is not None:
        codes[body] = coded(at_points(result.error_map, points), 0, _MAX_ERROR_MM)
        maps["error"] = (
            Image(codes.copy(), grid),
            {
                "title": "Expected error, mm: in four of five places it is at most this",
                "colours": _colours("inferno"),
                "ticks": [f"{t:.0f}" for t in np.linspace(0, _MAX_ERROR_MM, 5)[:-1]]
                + [f"{_MAX_ERROR_MM:.0f} and more"],
                "folds": False,
            },
        )
    codes[body] = np.where(det > 0, coded(change, -_MAX_LOG, _MAX_LOG), _FOLD_CODE)
    maps["jacobian"] = (
        Image(codes, grid),
        {
            "title": "ln det J, the change of volume from the fixed to the moving image",
            "colours": _colours("RdBu_r"),
            "ticks": [f"{t:.2f} (× {np.exp(t):.2g})".replace("-", "−") for t in np.linspace(-1, 1, 5) * _MAX_LOG],
            "folds": bool((det <= 0).any()),
        },
    )
    return maps


def _colours(name: str) -> list[str]:
    """Return 17 colours along a colour map of matplotlib, which the page interpolates."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps[name](np.linspace(0, 1, 17))]


def _body_box(result: RegistrationResult, grid: Grid) -> Grid:
    """Return the part of a grid along LPS that holds the fixed body."""
    coarse = working_grid(result.fixed)
    points = grid.world_to_index(coarse.world_points()[body_on(result, coarse)])
    margin = (coarse.spacing.max() / 2 + _MARGIN_MM) / grid.spacing
    first = np.clip(np.floor(points.min(axis=0) - margin), 0, None).astype(int)
    last = np.minimum(np.ceil(points.max(axis=0) + margin).astype(int), np.asarray(grid.size) - 1)
    return grid.between(first, last)


def _strip(box: Grid, view: View, count: int, pixel: float) -> Grid:
    """Return the grid of ``count`` slices of a view, square pixels, over a box."""
    spacing = np.full(box.ndim, pixel)
    if view.through is not None:
        spacing[view.through] = box.extent[view.through] / min(count, box.size[view.through])
    return box.with_spacing(spacing)


def _slices(view: View, array: NDArray[Any]) -> NDArray[Any]:
    """Return the slices (n, rows, columns) of a view of an array whose axes run along LPS."""
    count = 1 if view.through is None else array.shape[2 - view.through]
    return np.stack([view.picture(array, i) for i in range(count)])


def _pictures(view: View, array: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
    return np.rint(255 * grey(_slices(view, array), limits)).astype(np.uint8)


def _webp(slices: NDArray[np.uint8], quality: int) -> str:
    return _address(slices, "webp", quality=quality, method=3)


def _png(slices: NDArray[np.uint8]) -> str:
    return _address(slices, "png", optimize=True)


def _address(slices: NDArray[np.uint8], kind: str, **options: Any) -> str:
    """Return the slices below each other as a data address."""
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(slices.reshape(-1, slices.shape[-1])).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
