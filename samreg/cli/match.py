"""``samreg match``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from samreg.cli.common import (
    Device,
    Model,
    PixelSize,
    Quiet,
    Seed,
    Series,
    Verbose,
    load_image,
    load_points,
    require_images,
    require_suffix,
    say,
    session,
    show_outcomes,
    show_table,
)
from samreg.errors import InputError, require_choice
from samreg.spatial.files import require_not_input, require_writable

if TYPE_CHECKING:
    from samreg.embedding import Embedding
    from samreg.landmarks.match import LandmarkMatches
    from samreg.landmarks.templates import TemplateMatches
    from samreg.spatial.image import Image

_COLUMNS = {
    "templates": "templates",
    "similarity": "similarity",
    "reliability": "reliability",
    "cycle_error": "cycle mm",
    "spread": "spread mm",
    "expected_error": "at most mm",
}


def match(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[TEMPLATE POINTS] TARGET",
            help="The image on which the points lie, the points (csv, .mrk.json, .fcsv or elastix .pts), and the image "
            "to find them in; images may be embeddings (.h5). With --template-set the targets alone: images or "
            "folders of images.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Points found: .csv, .tsv, .mrk.json, .fcsv, .pts or .txt; a folder for several targets.",
        ),
    ],
    template_set: Annotated[
        Path | None,
        typer.Option(help="Folder of images and their landmarks (landmarks.csv, or a file beside each): they vote."),
    ] = None,
    search: Annotated[
        str, typer.Option(metavar="guided|global", help="Around a robust alignment, or in the whole body.")
    ] = "guided",
    model: Model = None,
    device: Device = "auto",
    seed: Seed = 0,
    subject: Annotated[str | None, typer.Option(help="Whose points to take from a csv of several subjects.")] = None,
    template_series: Series = None,
    target_series: Annotated[str | None, typer.Option(help="DICOM series of the target.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the set's embeddings.", show_default="OUT/.templates")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Targets at a time.")] = 1,
    pixel_size: PixelSize = None,
    report: Annotated[
        Path | None, typer.Option(help="Picture of the points in both images: .png, or .html with the table.")
    ] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Find points of a TEMPLATE in a TARGET image, or those of a set of templates in many.

    With --template-set and a folder as --out, every target gets a folder there; one that fails is recorded in
    summary.csv, and the same command again goes on where a run stopped.
    """
    import samreg
    from samreg.landmarks.match import SEARCHES
    from samreg.spatial.io_points import POINT_SUFFIXES

    require_choice("--search", search, SEARCHES)
    options: dict[str, Any] = {"model": model, "search": search, "device": device, "seed": seed}
    to_file = out.name.lower().endswith(POINT_SUFFIXES)
    if report is not None:
        require_suffix(report, (".png", ".html"), inputs=inputs)
        if template_set is not None or ".h5" in {path.suffix.lower() for path in inputs}:
            raise InputError("--report draws one template and its target; give the two images themselves")
    single = {"--subject": subject, "--template-series": template_series}
    if not to_file:
        single["--target-series"] = target_series
    ignored = ["--jobs"] if jobs != 1 and (to_file or template_set is None) else []
    ignored += ["--cache"] if cache is not None and template_set is None else []
    if ignored:
        raise InputError(f"{ignored[0]} is for a --template-set and many targets; leave it out")
    require_images({"--template-series": template_series}, inputs[0])
    require_images({"--target-series": target_series}, inputs[-1])
    require_images({"--pixel-size": pixel_size}, inputs[0], inputs[-1])
    _check(inputs, out, to_file=to_file, template_set=template_set, single=single)
    if template_set is not None and not to_file:
        with session(verbose=verbose, quiet=quiet) as progress:
            outcomes = samreg.match_folder(
                template_set, inputs, out, **options, cache=cache, pixel_size=pixel_size, jobs=jobs, progress=progress
            )
        show_outcomes(outcomes, out, quiet=quiet)
        return
    with session(verbose=verbose, quiet=quiet) as progress:
        target = _load(inputs[-1], target_series, pixel_size)
        matches: LandmarkMatches | TemplateMatches
        if template_set is not None:
            templates = samreg.read_templates(
                template_set, model=model, device=device, cache=cache, pixel_size=pixel_size, progress=progress
            )
            matches = samreg.match_set(templates, target, **options, progress=progress)
        else:
            template = _load(inputs[0], template_series, pixel_size)
            matches = _match_one(template, inputs[1], subject, target, options, report, progress)
        samreg.write_points(matches.to_points(), out, columns=matches.error_column())
    if not quiet:
        _show(matches, inputs[-1], out, report)


def _match_one(
    template: Image | Embedding,
    file: Path,
    subject: str | None,
    target: Image | Embedding,
    options: dict[str, Any],
    report: Path | None,
    progress: Callable[[str], None],
) -> LandmarkMatches:
    """Find a file's points of one template, and draw them where a report is wanted."""
    import samreg

    points = load_points(file, template, subject)
    matches = samreg.match(template, points, target, **options, progress=progress)
    if report is not None:
        from samreg.report import write_landmark_report

        progress("drawing")
        assert isinstance(template, samreg.Image)
        assert isinstance(target, samreg.Image)
        write_landmark_report(template, points, target, matches, report)
    return matches


def _check(inputs: list[Path], out: Path, *, to_file: bool, template_set: Path | None, single: dict[str, Any]) -> None:
    """Refuse what would fail after the work, or replace what is read."""
    from samreg.landmarks.templates import MANIFEST, template_files
    from samreg.spatial.io_points import POINT_SUFFIXES

    is_set = template_set is not None
    if not is_set and len(inputs) != 3:
        raise InputError(f"give TEMPLATE POINTS TARGET, or --template-set and targets; got {len(inputs)} paths")
    if is_set and (given := [option for option, value in single.items() if value is not None]):
        raise InputError(f"{', '.join(given)} cannot be given for all the images of a set; leave it out")
    if is_set and to_file and len(inputs) != 1:
        raise InputError(f"{out} holds the points of one target, but {len(inputs)} are given; name a folder")
    if is_set and not to_file:
        require_writable(out)
    else:
        require_suffix(out, POINT_SUFFIXES, inputs=inputs)
        if template_set is not None:
            require_not_input(out, template_files(template_set))
            if out.name == MANIFEST and out.parent.resolve() == template_set.resolve():
                raise InputError(f"{out} would be taken for the landmarks of the templates; choose another name")


def _load(path: Path, series: str | None, pixel_size: float | None) -> Image | Embedding:
    if path.suffix.lower() == ".h5":
        from samreg.embedding import Embedding

        return Embedding.load(path)
    return load_image(path, series, pixel_size)


def _show(matches: LandmarkMatches | TemplateMatches, target: Path, out: Path, report: Path | None) -> None:
    from samreg.landmarks.find import MIN_RELIABILITY

    columns = [key for key in _COLUMNS if hasattr(matches, key) and not np.isnan(getattr(matches, key)).all()]
    axes = [f"{axis} mm" for axis in "xyz"[: matches.points.shape[1]]]
    measures = (getattr(matches, key).tolist() for key in columns)
    rows = [
        (name, *position, *values, "yes" if inside else "no")
        for name, position, *values, inside in zip(
            matches.names, matches.points.tolist(), *measures, matches.inside, strict=True
        )
    ]
    show_table(f"found in {target}, LPS", ("name", *axes, *(_COLUMNS[key] for key in columns), "in view"), rows)
    doubtful = [
        name for name, sure in zip(matches.names, matches.reliability >= MIN_RELIABILITY, strict=True) if not sure
    ]
    if doubtful:
        say(
            f"check: {len(doubtful)} of {len(rows)} have a reliability below {MIN_RELIABILITY:g}: {', '.join(doubtful)}"
        )
    for note in matches.notes:
        say(f"check: {note}")
    say(f"written to {out}" + ("" if report is None else f"; {report} shows them"))
