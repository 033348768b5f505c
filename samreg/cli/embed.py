"""``samreg embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samreg.cli.common import Device, Model, PixelSize, Quiet, Series, Verbose, load_image, require_suffix, say, session


def embed(
    image: Annotated[Path, typer.Argument(help="Image: NIfTI, NRRD, MetaImage or a DICOM folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Embedding file, .h5.")],
    model: Model = None,
    mask: Annotated[Path | None, typer.Option(help="Where matches may lie, non-zero voxels.")] = None,
    device: Device = "auto",
    series: Series = None,
    pixel_size: PixelSize = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Embed an IMAGE once, to match it many times."""
    import samreg

    require_suffix(out, (".h5",), inputs=(image, mask))
    with session(verbose=verbose, quiet=quiet) as progress:
        source = load_image(image, series, pixel_size)
        within = None if mask is None else load_image(mask, None, pixel_size)
        progress("embedding")
        embedding = samreg.embed(source, model=model, mask=within, device=device)
        embedding.save(out)
    if not quiet:
        channels = embedding.local.shape[0] + (0 if embedding.global_ is None else embedding.global_.shape[0])
        say(f"{embedding.model}: {channels} channels on {embedding.local_grid}; written to {out}")
