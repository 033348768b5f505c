"""``samreg landmarks``: a detector for landmarks of which some images are labelled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from samreg.cli.common import (
    Device,
    Model,
    PixelSize,
    Quiet,
    Seed,
    Verbose,
    exit_codes,
    load_image,
    load_points,
    require_suffix,
    say,
    session,
    show_table,
)
from samreg.errors import InputError

log = logging.getLogger(__name__)

landmarks = typer.Typer(help="Train a landmark detector on a few labelled images, and use it.", no_args_is_help=True)


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

    require_suffix(out, (".safetensors",))
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
    out: Annotated[Path, typer.Option("--out", "-o", help="Points found: .csv, .mrk.json, .fcsv, .pts or .txt.")],
    pixel_size: PixelSize = None,
    device: Device = "auto",
    series: Annotated[str | None, typer.Option(help="DICOM series: number, UID or description.")] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find a DETECTOR's landmarks in an IMAGE."""
    import samreg
    from samreg.landmarks.detector import LandmarkDetector
    from samreg.spatial.io_points import WRITABLE_SUFFIXES

    require_suffix(out, WRITABLE_SUFFIXES)
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
