"""match_folder(): the landmarks of a template folder in many targets, resumable."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from samreg.backends import each
from samreg.errors import InputError, require_choice, require_number, require_progress, require_seed
from samreg.landmarks.match import SEARCHES
from samreg.landmarks.templates import MANIFEST, Template, TemplateMatches, match_set, read_templates, template_files
from samreg.spatial.files import claimed_folder, require_path
from samreg.spatial.io_images import read_image
from samreg.spatial.io_points import write_points
from samreg.spatial.tables import read_table
from samreg.steps import Outcome, find_inputs, require_summary, run_step, write_summary, write_table

log = logging.getLogger(__name__)

_HEADER = ("subject", "landmark", "reliability", "spread_mm", "templates", "in_view")  # beside the axes
_PACKAGES = ("torch", "scipy")  # that embed and match


def match_folder(
    templates: str | os.PathLike[str],
    targets: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    model: Any = None,
    search: str = "guided",
    device: str = "auto",
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    pixel_size: float | None = None,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[Outcome]:
    r"""Find the landmarks of a template folder in many targets.

    ``out`` receives a folder a target, with ``landmarks.csv``, ``landmarks.mrk.json`` (3D), ``templates.csv``, what
    each template says alone, and ``notes.txt`` where there is something to know; ``landmarks.csv`` of all targets, in
    the form that :func:`read_templates` reads; and ``summary.csv``. A target that fails is recorded there, and the
    others go on. A run that was stopped goes on where it stopped: results are kept while target, templates, model,
    options and the version of samreg stay the same.

    Parameters
    ----------
    templates
        As :func:`read_templates` takes.
    targets
        An image, a folder of images, or several of them.
    out
        Folder for the results.
    model, search, device, seed
        As in :func:`match_set`; the model as a name or path.
    cache
        Folder that keeps the templates' embeddings; ``out/.templates`` unless given.
    pixel_size
        Of all images, mm, where their files (PNG, JPEG) say none.
    jobs
        Targets at a time.
    progress
        Called with what is being done; the log gets it, at level INFO, unless given.

    Returns
    -------
    list of Outcome
        Of the targets, in order.

    Raises
    ------
    InputError
        When the templates or options are at fault, two targets share a name, the results would replace the templates'
        landmarks or a user's own file, another run writes to ``out``, or the disk is full.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from samreg.spatial import Image, write_image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> write_image(Image.from_array(noise, spacing=(8, 8, 8)), folder / "set" / "ALICE.nii.gz")
    >>> write_image(Image.from_array(noise, spacing=(8, 8, 8)), folder / "scans" / "BOB.nii.gz")
    >>> _ = (folder / "set" / "ALICE.csv").write_text("name,x,y,z\nregion,60,60,60\n")
    >>> outcomes = match_folder(folder / "set", folder / "scans", folder / "out", model="mind", search="global")
    >>> [(outcome.name, outcome.status) for outcome in outcomes]
    [('BOB', 'done')]
    """
    require_choice("search", search, SEARCHES)
    require_progress(progress)
    seed, jobs = require_seed(seed), require_number("jobs", jobs, minimum=1, integer=True)
    out = require_path("out", out)
    images = find_inputs(out, *([targets] if isinstance(targets, (str, os.PathLike)) else targets))
    require_summary(out / "summary.csv", [*template_files(templates), *images.values()])
    _require_own_table(out, Path(templates))
    options = {"model": model, "search": search, "device": device, "seed": seed}
    with claimed_folder(out):
        outcomes = _match_all(
            templates, images, out, options, cache=cache, pixel_size=pixel_size, jobs=jobs,
            report=progress or log.info,
        )  # fmt: skip
        _write_tables(out, outcomes)
    return outcomes


def _match_all(
    templates: str | os.PathLike[str],
    images: Mapping[str, Path],
    out: Path,
    options: Mapping[str, Any],
    *,
    cache: str | os.PathLike[str] | None,
    pixel_size: float | None,
    jobs: int,
    report: Callable[[str], None],
) -> list[Outcome]:
    """Match every target, several at a time."""
    embeddings = str(out / ".templates" if cache is None else cache)
    known = read_templates(
        templates, model=options["model"], device=options["device"], cache=embeddings, pixel_size=pixel_size,
        progress=report,
    )  # fmt: skip
    inputs = {
        "templates": {t.name: [t.embedding.source, t.points.names, t.points.positions.tolist()] for t in known},
        "model": known[0].embedding.model,
        "search": options["search"],
        "seed": options["seed"],
        **({} if pixel_size is None else {"pixel_size": pixel_size}),
    }
    del known
    match_one = partial(_match_one, os.fspath(templates), embeddings, pixel_size, out, inputs, options)
    outcomes: list[Outcome] = []
    try:
        for outcome in each(match_one, images.items(), jobs=jobs):
            outcomes.append(outcome)
            report(f"{len(outcomes)} of {len(images)}, {outcome.name}: {outcome.status} {outcome.reason}")
    finally:
        _loaded.cache_clear()
    return outcomes


def _write_tables(out: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the landmarks of all targets, and how these ended."""
    tables = [read_table(out / outcome.name / MANIFEST) for outcome in outcomes if outcome]
    if tables:
        write_table(out / MANIFEST, tables[0].header, (row.cells for table in tables for row in table.rows))
    else:
        (out / MANIFEST).unlink(missing_ok=True)  # of an earlier run
    write_summary(out / "summary.csv", outcomes)


def _require_own_table(out: Path, templates: Path) -> None:
    """Raise :class:`InputError` where the table of all landmarks would become, or replace, one that a user made."""
    if out.resolve() in (templates.resolve(), (templates / "images").resolve()):
        raise InputError(
            f"{out / MANIFEST} would be taken for the landmarks of the templates, which lie in {out}; choose another "
            "folder for the results"
        )
    table = out / MANIFEST
    if table.is_file() and not {*_HEADER} <= {*read_table(table).header}:
        raise InputError(
            f"{table} would be replaced by the landmarks found, and samreg did not write it; move it, or choose "
            "another folder"
        )


def _match_one(
    templates: str,
    cache: str,
    pixel_size: float | None,
    out: Path,
    inputs: Mapping[str, Any],
    options: Mapping[str, Any],
    named: tuple[str, Path],
) -> Outcome:
    """Match one target, its name and its file, in whatever process; the templates are loaded there once."""
    name, target = named

    def work(folder: Path) -> None:
        contents = json.dumps(inputs, sort_keys=True)
        known = _loaded(templates, options["model"], options["device"], cache, pixel_size, contents)
        image = target if pixel_size is None else read_image(target, spacing=pixel_size)
        _write(match_set(known, image, **options), name, folder)

    return run_step(out / name, work, files=[target], inputs=inputs, packages=_PACKAGES)


@functools.lru_cache(maxsize=1)
def _loaded(
    folder: str, model: Any, device: str, cache: str, pixel_size: float | None, contents: str
) -> tuple[Template, ...]:
    """Return the templates, read once in a process; ``contents`` changes with what the folder holds."""
    return read_templates(folder, model=model, device=device, cache=cache, pixel_size=pixel_size)


def _write(matches: TemplateMatches, subject: str, folder: Path) -> None:
    for note in matches.notes:
        log.warning("%s: %s", subject, note)
    if matches.notes:
        (folder / "notes.txt").write_text("".join(f"{note}\n" for note in matches.notes), encoding="utf-8")
    axes = "xyz"[: matches.points.shape[1]]
    errors = matches.error_column()
    columns = (
        matches.names,
        matches.points.tolist(),
        matches.reliability.tolist(),
        matches.spread.tolist(),
        matches.templates.tolist(),
        matches.inside.tolist(),
        *(values.tolist() for values in errors.values()),
    )
    write_table(
        folder / MANIFEST,
        (*_HEADER[:2], *axes, *_HEADER[2:], *errors),
        ((subject, name, *position, *values) for name, position, *values in zip(*columns, strict=True)),
    )
    has_error = {key for answer in matches.answers.values() for key in answer.error_column()}  # its column, or none
    write_table(
        folder / "templates.csv",
        (
            "template", "landmark", *axes, "similarity", "reliability", "cycle_error_mm", "spread_mm", *has_error,
            "in_view",
        ),
        (
            (template, name, *position, *map(float, values), bool(inside))
            for template, answer in matches.answers.items()
            for name, position, *values, inside in zip(
                answer.names, answer.points.tolist(), answer.similarity, answer.reliability, answer.cycle_error,
                answer.spread, *(answer.expected_error for _ in has_error), answer.inside, strict=True,
            )
        ),
    )  # fmt: skip
    if len(axes) == 3:
        write_points(matches.to_points(), folder / "landmarks.mrk.json")
