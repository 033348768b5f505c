"""``samreg landmarks``: named landmarks of a scan, by an atlas; atlases and detectors from labelled images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
import typer.core

from samreg.cli.common import (
    Device,
    Model,
    PixelSize,
    Quiet,
    Seed,
    Series,
    Verbose,
    exit_codes,
    load_image,
    load_points,
    require_images,
    require_suffix,
    say,
    session,
    show_table,
)
from samreg.errors import InputError
from samreg.spatial.grid import FloatArray

if TYPE_CHECKING:
    from samreg.landmarks import LandmarkAtlas

log = logging.getLogger(__name__)


class _FindUnlessNamed(typer.core.TyperGroup):
    """``samreg landmarks SCAN`` is ``samreg landmarks find SCAN``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._named(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, self._named(args))

    def _named(self, args: list[str]) -> list[str]:
        return ["find", *args] if args and args[0] not in (*self.commands, "--help", "-h") else args


landmarks = typer.Typer(
    cls=_FindUnlessNamed,
    help="Name the landmarks of a scan: samreg landmarks SCAN -o points.csv. Or make your own atlas or detector.",
    no_args_is_help=True,
)


@landmarks.command(epilog="Example: samreg landmarks chest.nii.gz -o points.csv --report points.png")
@exit_codes
def find(
    image: Annotated[
        Path, typer.Argument(help="CT of the trunk, or whatever the atlas covers; or its embedding (.h5).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Points found: .csv, .tsv, .mrk.json, .fcsv, .pts or .txt.")],
    atlas: Annotated[
        Path | None, typer.Option(help="Landmark atlas (.h5) by `samreg landmarks build`; samreg's own unless given.")
    ] = None,
    unsure: Annotated[
        bool, typer.Option("--unsure", help="Also write the landmarks in the image whose reliability is below 0.5.")
    ] = False,
    model: Model = None,
    device: Device = "auto",
    series: Series = None,
    pixel_size: PixelSize = None,
    report: Annotated[
        Path | None, typer.Option(help="Picture of the landmarks: .png, or .html with the table.")
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find the landmarks of an atlas in an IMAGE; the same as `samreg landmarks IMAGE`."""
    import samreg
    from samreg.spatial.io_points import POINT_SUFFIXES

    require_suffix(out, POINT_SUFFIXES, inputs=[image])
    require_images({"--series": series, "--pixel-size": pixel_size}, image)
    is_embedding = image.suffix.lower() == ".h5"
    if report is not None:
        require_suffix(report, (".png", ".html"), inputs=[image])
        if is_embedding:
            raise InputError("--report draws the image; give the image itself and not its embedding")
    with session(verbose=verbose, quiet=quiet) as progress:
        loaded = samreg.Embedding.load(image) if is_embedding else load_image(image, series, pixel_size)
        found = samreg.find_landmarks(loaded, atlas=atlas, model=model, device=device, progress=progress)
        samreg.write_points(found.to_points(unsure=unsure), out)
        if report is not None:
            from samreg.report import write_found_landmarks

            progress("drawing")
            assert isinstance(loaded, samreg.Image)
            write_found_landmarks(loaded, found, report)
    if not quiet:
        axes = [f"{axis} mm" for axis in "xyz"[: found.points.shape[1]]]
        shown = found.inside if unsure else found.sure
        rows = [
            (name, *map(float, position), float(reliability), "" if np.isnan(spread) else float(spread))
            for name, position, reliability, spread, wanted in zip(
                found.names, found.points, found.reliability, found.spread, shown, strict=True
            )
            if wanted
        ]
        show_table(f"found in {image}, LPS", ("name", *axes, "reliability", "spread mm"), rows)
        for note in found.notes:
            say(note)
        say(f"written to {out}" + ("" if report is None else f"; {report} shows them"))


@landmarks.command(epilog="Example: samreg landmarks build annotated/ -o my-atlas.h5")
@exit_codes
def build(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Annotated images, in images/ or directly, and landmarks.csv (subject, landmark, x, y(, z) in LPS "
            "mm) or a points file beside each image."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Landmark atlas, .h5.")],
    model: Model = None,
    device: Device = "auto",
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the images' embeddings.")] = None,
    test_on: Annotated[
        str | None,
        typer.Option(help="Comma-separated names of the images to test on: those the model was not trained on."),
    ] = None,
    pixel_size: PixelSize = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Make a landmark atlas from the annotated images of a FOLDER, and test it on each by the others."""
    import samreg

    require_suffix(out, (".h5",))
    with session(verbose=verbose, quiet=quiet) as progress:
        atlas = samreg.build_landmark_atlas(
            folder, model=model, device=device, cache=cache, pixel_size=pixel_size, progress=progress,
            test_on=None if test_on is None else test_on.split(","),
        )  # fmt: skip
        atlas.save(out)
    if not quiet:
        show_atlas_errors(atlas)
        say(f"{len(atlas.names)} landmarks of {len(atlas.people)} people; written to {out}")


def show_atlas_errors(atlas: LandmarkAtlas) -> None:
    """Print the errors of an atlas's landmarks, each person searched by the others; nothing where it was not tested."""
    if atlas.errors is None:
        return
    rows = [
        (name, int((~np.isnan(errors)).sum()), *_summary(errors))
        for name, errors in [*zip(atlas.names, atlas.errors.T, strict=True), ("all", atlas.errors.ravel())]
    ]
    show_table("each person by the others, errors in mm", ("name", "people", "mean", "median", "p95"), rows)


def _summary(errors: FloatArray) -> tuple[float, float, float]:
    """Return mean, median and 95th percentile of what is known; NaN where nothing is."""
    known = errors[~np.isnan(errors)]
    if not len(known):
        return (np.nan, np.nan, np.nan)
    return float(known.mean()), float(np.median(known)), float(np.percentile(known, 95))


@landmarks.command(
    epilog="Example: samreg landmarks train images/ landmarks.csv -o detector.safetensors --pixel-size 0.1"
)
@exit_codes
def train(
    images: Annotated[Path, typer.Argument(help="Folder of images, or a text file that lists them, a path a line.")],
    points: Annotated[
        Path,
        typer.Argument(
            help="csv with columns subject (the image's name), name, x, y(, z), mm, or a folder of points files by the "
            "images' names."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Detector file, .safetensors.")],
    model: Model = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 600,
    learning_rate: Annotated[float, typer.Option(help="Of the network; the head's is ten times as high.")] = 2e-4,
    random_start: Annotated[
        bool, typer.Option("--random-start", help="Start from random weights, to see what pretraining is worth.")
    ] = False,
    pixel_size: PixelSize = None,
    device: Device = "auto",
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune an embedding model on IMAGES with POINTS; every labelled image is used."""
    import samreg
    from samreg.embedding import default_model, load_model
    from samreg.embedding.backbone import reinitialise
    from samreg.embedding.models import NetworkModel
    from samreg.spatial import find_points
    from samreg.training.data import named_images
    from samreg.training.landmarks import train_detector

    require_suffix(out, (".safetensors",), inputs=[None if model is None else Path(model)])
    with session(verbose=verbose, quiet=quiet) as progress:
        paths = named_images(images)
        files = find_points(points, paths)
        names = [name for name in paths if name in files]
        if not names:
            raise InputError(f"{points}: its subjects are none of the {len(paths)} images in {images}")
        if left_out := sorted(set(files) - set(names)):
            log.warning("%s: no image of %s in %s", points, ", ".join(left_out), images)
        loaded = [samreg.read_image(paths[name], spacing=pixel_size) for name in names]
        labels = [
            load_points(file, image, subject)
            for image, (file, subject) in zip(loaded, (files[name] for name in names), strict=True)
        ]
        network = load_model(default_model(loaded[0].ndim) if model is None else model)
        if not isinstance(network, NetworkModel):
            raise InputError(f"the model {network.name} has no weights to train; choose another, as xray-ceph")
        if random_start:
            reinitialise(network.network, seed=seed)
        progress(f"training on {len(names)} images")
        detector = train_detector(
            network, loaded, labels, steps=steps, learning_rate=learning_rate, device=device, seed=seed
        )
        detector.save(out)
    if not quiet:
        say(f"{len(detector.names)} landmarks, trained on {len(names)} images; written to {out}")


@landmarks.command(
    epilog="Example: samreg landmarks predict detector.safetensors image.png -o found.csv --pixel-size 0.1"
)
@exit_codes
def predict(
    detector: Annotated[Path, typer.Argument(help="Detector that `samreg landmarks train` wrote.")],
    image: Annotated[Path, typer.Argument(help="Image to find the landmarks in.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Points found: .csv, .tsv, .mrk.json, .fcsv, .pts or .txt.")],
    pixel_size: PixelSize = None,
    device: Device = "auto",
    series: Series = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find a DETECTOR's landmarks in an IMAGE."""
    import samreg
    from samreg.landmarks.detector import LandmarkDetector
    from samreg.spatial.io_points import POINT_SUFFIXES

    require_suffix(out, POINT_SUFFIXES)
    with session(verbose=verbose, quiet=quiet) as progress:
        loaded = LandmarkDetector.load(detector)
        progress("finding landmarks")
        predicted = loaded(load_image(image, series, pixel_size), device=device)
        samreg.write_points(predicted, out)
    if not quiet:
        axes = [f"{axis} mm" for axis in "xyz"[: predicted.ndim]]
        assert predicted.scores is not None
        columns = zip(predicted.names, predicted.positions, predicted.scores, strict=True)
        rows = [(name, *map(float, position), float(score)) for name, position, score in columns]
        show_table(f"found in {image}, LPS", ("name", *axes, "similarity"), rows)
        say(f"written to {out}")
