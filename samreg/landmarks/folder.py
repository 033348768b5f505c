"""match_folder(): the landmarks of a template folder in many targets, resumable."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from samreg.errors import InputError
from samreg.landmarks.templates import MANIFEST, Template, TemplateMatches, match_set, read_templates
from samreg.spatial.files import atomic_path
from samreg.spatial.io_points import write_points
from samreg.steps import Outcome


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
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Find the landmarks of a template folder in many targets.

    ``out`` receives a folder a target, with ``landmarks.csv``, ``landmarks.mrk.json`` (3D) and ``templates.csv``, what
    each template says alone; ``landmarks.csv`` of all targets, in the form that :func:`read_templates` reads; and
    ``summary.csv``. A target that fails is recorded there, and the others go on. A run that was stopped goes on where
    it stopped: results are kept while target, templates, model and options stay the same.

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
    jobs
        Targets at a time.
    progress
        Called with what is being done.

    Returns
    -------
    list of Outcome
        Of the targets, in order.

    Raises
    ------
    InputError
        When the templates or options are at fault, two targets share a name, or the disk is full.
    """
    import joblib

    from samreg.steps import find_inputs, write_summary

    report = progress or (lambda text: None)
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    out = Path(out)
    images = find_inputs(out, *([targets] if isinstance(targets, (str, os.PathLike)) else targets))
    kept = str(out / ".templates" if cache is None else cache)
    known = read_templates(templates, model=model, device=device, cache=kept, progress=report)
    inputs = {
        "templates": {t.name: [t.embedding.source, t.points.names, t.points.positions.tolist()] for t in known},
        "model": known[0].embedding.model,
        "search": search,
        "seed": seed,
    }
    options = {"model": model, "search": search, "device": device, "seed": seed}
    del known
    tasks = (
        joblib.delayed(_match_one)(os.fspath(templates), kept, path, out / name, inputs, options)
        for name, path in images.items()
    )
    outcomes: list[Outcome] = []
    for outcome in joblib.Parallel(n_jobs=jobs, return_as="generator")(tasks):
        outcomes.append(outcome)
        report(f"{len(outcomes)} of {len(images)}, {outcome.name}: {outcome.status} {outcome.reason}")
    tables = [(out / outcome.name / MANIFEST).read_text(encoding="utf-8") for outcome in outcomes if outcome]
    with atomic_path(out / MANIFEST) as temporary:  # one table under one header
        together = "".join(table if i == 0 else table.split("\n", 1)[1] for i, table in enumerate(tables))
        temporary.write_text(together, encoding="utf-8")
    write_summary(out / "summary.csv", outcomes)
    return outcomes


def _match_one(
    templates: str, cache: str, target: Path, out: Path, inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> Outcome:
    """Match one target in whatever process; the templates are loaded there once."""
    from samreg.steps import run_step

    def work(folder: Path) -> None:
        known = _loaded(templates, options["model"], options["device"], cache, json.dumps(inputs, sort_keys=True))
        _write(match_set(known, target, **options), out.name, folder)

    return run_step(out, work, files=[target], inputs=inputs)


@functools.lru_cache(maxsize=1)
def _loaded(folder: str, model: Any, device: str, cache: str, contents: str) -> tuple[Template, ...]:
    """Return the templates; ``contents`` changes with what the folder holds."""
    return read_templates(folder, model=model, device=device, cache=cache)


def _write(found: TemplateMatches, subject: str, folder: Path) -> None:
    from samreg.steps import write_table

    axes = "xyz"[: found.points.shape[1]]
    columns = (found.names, found.points.tolist(), found.reliability, found.spread, found.templates, found.inside)
    write_table(
        folder / MANIFEST,
        ("subject", "landmark", *axes, "reliability", "spread_mm", "templates", "in_view"),
        (
            (subject, name, *position, *map(float, (reliability, spread)), count, bool(inside))
            for name, position, reliability, spread, count, inside in zip(*columns, strict=True)
        ),
    )
    write_table(
        folder / "templates.csv",
        ("template", "landmark", *axes, "similarity", "reliability", "cycle_error_mm", "spread_mm", "in_view"),
        (
            (template, name, *position, *map(float, values), bool(inside))
            for template, one in found.answers.items()
            for name, position, *values, inside in zip(
                one.names, one.points.tolist(), one.similarity, one.reliability, one.cycle_error, one.spread,
                one.inside, strict=True,
            )
        ),
    )  # fmt: skip
    if len(axes) == 3:
        write_points(found.to_points(), folder / "landmarks.mrk.json")
