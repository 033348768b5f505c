"""``samreg view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samreg.cli.report import Fixed, Moving


def view(
    folder: Annotated[Path, typer.Argument(help="Folder that `samreg register` wrote.")],
    fixed: Fixed = None,
    moving: Moving = None,
) -> None:
    """Look at a registration that was saved to FOLDER in napari: fixed, warped, matches."""
    import samreg

    samreg.RegistrationResult.load(folder, fixed=fixed, moving=moving).view()
    import napari

    napari.run()
