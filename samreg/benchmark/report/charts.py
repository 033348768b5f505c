"""The charts of a benchmark. They take records that hold landmark errors, the methods in the order to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.benchmark.report.tables import Record, by_method, pair_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MIN_ERROR_MM, _MAX_ERROR_MM = 1.0, 100.0
_READER_LABEL = "reader distance"


def landmark_errors(records: Sequence[Record]) -> dict[str, NDArray[np.float64]]:
    """Return all landmark errors of each method, mm."""
    return {
        method: np.concatenate([record["landmarks"]["error_mm"] for record in group])
        for method, group in by_method(records).items()
    }


def reader_distance(records: Sequence[Record]) -> float | None:
    """Return the mean distance between two readings of a landmark, mm; None where nobody read twice."""
    distances = [reader for record in records for reader in record["landmarks"]["reader_mm"] if reader is not None]
    return float(np.mean(distances)) if distances else None


def draw_distribution(records: Sequence[Record]) -> Figure:
    """Draw how many landmarks are nearer than a distance, and boxes."""
    errors, floor = landmark_errors(records), reader_distance(records)
    figure = _canvas(11, max(4.0, 1.5 + 0.28 * len(errors)))
    left, right = figure.subplots(1, 2)
    for (method, values), colour in zip(errors.items(), _colours(), strict=False):
        share = 100 * np.arange(1, len(values) + 1) / len(values)
        left.step(np.sort(values), share, label=method, color=colour, linewidth=1.3)
    if floor is not None:
        left.axvline(floor, color="#59626b", linestyle=":", label=_READER_LABEL)
    left.set(
        xscale="log", xlim=(_MIN_ERROR_MM, _MAX_ERROR_MM), ylim=(0, 100), xlabel="error, mm", ylabel="landmarks, %"
    )
    left.legend(fontsize=7, loc="lower right")
    boxes = right.boxplot(
        [*errors.values()], orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True, showmeans=True,
        meanprops={"marker": "D", "markerfacecolor": "black", "markeredgecolor": "black", "markersize": 3},
        medianprops={"color": "black"},
    )  # fmt: skip
    for box, colour in zip(boxes["boxes"], _colours(), strict=False):
        box.set_facecolor(colour)
    right.set_yticks(range(1, len(errors) + 1), [*errors], fontsize=8)
    right.invert_yaxis()
    right.set(xscale="log", xlabel="error, mm")
    for ax in (left, right):
        _plain_ticks(ax, ax.xaxis)
    return figure


def draw_time(records: Sequence[Record]) -> Figure:
    """Draw the mean error of each method against its mean wall time; numbers, as names would lie on each other."""
    figure = _canvas(9, 4.5)
    ax = figure.subplots()
    groups = by_method(records)
    methods = zip(landmark_errors(records).items(), _colours(), strict=False)
    for number, ((method, errors), colour) in enumerate(methods, start=1):
        place = np.mean([record["seconds"] for record in groups[method]]), errors.mean()
        ax.scatter(*place, color=colour, s=36, zorder=3, label=f"{number}  {method}")
        ax.annotate(str(number), place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", yscale="log", xlabel="wall time of a pair, s", ylabel="mean error, mm")
    _plain_ticks(ax, ax.xaxis, ax.yaxis)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def draw_landmarks(records: Sequence[Record]) -> Figure:
    """Draw the median error of each method at each landmark, and of the readers."""
    cells: dict[tuple[str, str], list[float]] = {}
    readers: dict[tuple[str, str], list[float]] = {}
    for record in records:
        for name, error, _, reader in zip(*record["landmarks"].values(), strict=True):
            cells.setdefault((record["method"], name), []).append(error)
            if reader is not None:
                readers.setdefault((_READER_LABEL, name), []).append(reader)
    return _heat_map({key: float(np.median(values)) for key, values in (cells | readers).items()})


def draw_pairs(records: Sequence[Record]) -> Figure:
    """Draw the mean error of each method on each pair."""
    return _heat_map({(record["method"], pair_of(record)): record["metrics"]["tre_mean"] for record in records})


def _heat_map(cells: Mapping[tuple[str, str], float]) -> Figure:
    """Draw values by (row, column); missing ones are blank."""
    from matplotlib.colors import LogNorm

    rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in range(2))
    values = np.array([[cells.get((row, column), np.nan) for column in columns] for row in rows])
    figure = _canvas(max(6.0, 2.2 + 0.45 * len(columns)), max(2.8, 1.9 + 0.26 * len(rows)))
    ax = figure.subplots()
    picture = ax.imshow(values, cmap="YlOrRd", norm=LogNorm(2, 60, clip=True), aspect="auto")
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    names = [column.replace("_", " ") for column in columns]
    ax.set_xticks(range(len(columns)), names, rotation=40, ha="right", fontsize=8, rotation_mode="anchor")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 25 else "black"
            ax.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(picture, ax=ax, label="mm", ticks=[2, 5, 10, 20, 40, 60], format="%g", pad=0.01)
    bar.ax.minorticks_off()
    return figure


def _canvas(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, facecolor="white", layout="constrained")


def _plain_ticks(ax: Any, *axes: Any) -> None:
    """Label logarithmic axes with 1, 2, 5, 10, ... instead of powers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    ax.grid(alpha=0.3, which="both")


def _colours() -> Any:
    """Return colours without end."""
    from itertools import cycle

    from matplotlib import colormaps

    return cycle(colormaps["tab20"](range(20)))
