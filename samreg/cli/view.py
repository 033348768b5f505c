"""``samreg view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samreg.cli.common import load_result
from samreg.cli.report import Fixed, FixedSeries, Moving, MovingSeries


def view(
    folder: Annotated[Path, typer.Argument(help="Folder that `samreg register` wrote.")],
    fixed: Fixed = None,
    moving: Moving = None,
    fixed_series: FixedSeries = None,
    moving_series: MovingSeries = None,
) -> None:
    """Look at a registration that was saved to FOLDER in napari: fixed, warped, matches."""
    load_result(folder, fixed, moving, fixed_series, moving_series).view()
    import napari

    napari.run()
