"""``samreg demo``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from samreg.cli.common import Model, Quiet, Seed, Verbose, fail, say, session, show_table
from samreg.spatial.files import atomic_path, require_replaceable, require_writable

if TYPE_CHECKING:
    from samreg.phantoms.phantom import PhantomPair
    from samreg.registration.result import RegistrationResult
    from samreg.spatial.transforms import Transform

_QUICK_SPACING_MM = 5.0
_MARK = "demo.txt"  # tells the folder of a demo, whose files the next one replaces
_PAGE, _PICTURE, _RESULT = "report.html", "before_after.png", "hybrid"
_PAIR = (
    *(f"{name}{ending}" for name in ("fixed", "moving") for ending in (".nii.gz", "_labels.nii.gz", ".csv")),
    "truth.h5",
)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the phantoms, the page and the result.")] = Path(
        "samreg-demo"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Coarse phantoms: faster, and less exact.")] = False,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Write the phantoms, their labels, landmarks and the truth, and stop.")
    ] = False,
    model: Model = None,
    seed: Seed = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Register two phantom chests in three ways, and compare each with the known truth. Downloads nothing."""
    from samreg.engines import available_engines
    from samreg.phantoms.phantom import phantom_pair
    from samreg.registration.result_folder import require_folder

    require_writable(out)
    require_replaceable(out, (*_PAIR, *(() if data_only else (_PAGE, _PICTURE))), mark=_MARK)
    if not data_only:
        require_folder(out / _RESULT)
    start = time.perf_counter()
    with session(verbose=verbose, quiet=quiet) as progress:
        progress("making two phantom chests")
        pair = phantom_pair(spacing=_QUICK_SPACING_MM if quick else None, seed=seed)
        if data_only:
            progress("writing")
            _write_pair(pair, out)
            if not quiet:
                _show_pair(out)
            return
        alone = None  # ANTs comes with samreg, but on Pythons for which it has no wheels
        if "ants" in available_engines():
            alone = _register(pair, "ANTs alone", seed, progress, method="registration", engine="ants")
        hybrid = _register(pair, "hybrid", seed, progress, model=model)
        progress("writing")
        _write(pair, hybrid, out)
    if not quiet:
        _show(pair, alone, hybrid)
        say(f"{out / _PAGE}: the page to look at; {out / _RESULT}: the result; the same from the shell:")
        images, points = (
            " ".join(str(out / f"{name}{end}") for name in ("fixed", "moving")) for end in (".nii.gz", ".csv")
        )
        say(f"samreg register {images} -o {out / 'again'} --landmarks {points} --report")
        say("and two scans of yours: samreg register fixed.nii.gz moving.nii.gz -o out/ --report")
        say(f"{time.perf_counter() - start:.0f} s in all")
    for result in (alone, hybrid):
        if result is not None and not result:
            fail(f"not registered: {result.reason}", 1)


def _register(
    pair: PhantomPair, name: str, seed: int, progress: Callable[[str], None], **options: Any
) -> RegistrationResult:
    import samreg

    return samreg.register(
        pair.fixed.image, pair.moving.image, seed=seed, progress=lambda stage: progress(f"{name}: {stage}"), **options
    )


def _write_pair(pair: PhantomPair, out: Path) -> None:
    """Write what there is to try samreg on: images, labels and landmarks of both, and the true map."""
    import samreg

    with atomic_path(out / _MARK) as path:  # first, so that a demo that is stopped can be done again
        path.write_text(
            "Written by `samreg demo`, which replaces its files here when it runs again.\n", encoding="utf-8"
        )
    for phantom, landmarks, name in (
        (pair.fixed, pair.fixed_landmarks, "fixed"),
        (pair.moving, pair.moving_landmarks, "moving"),
    ):
        samreg.write_image(phantom.image, out / f"{name}.nii.gz")
        samreg.write_image(phantom.labels, out / f"{name}_labels.nii.gz")
        samreg.write_points(landmarks, out / f"{name}.csv")
    samreg.write_transform(pair.transform, out / "truth.h5", grid=pair.fixed.image.grid)


def _write(pair: PhantomPair, hybrid: RegistrationResult, out: Path) -> None:
    from samreg.report import write_preview

    _write_pair(pair, out)
    hybrid.save(out / _RESULT)
    if hybrid:
        errors = hybrid.landmark_errors(pair.fixed_landmarks, pair.moving_landmarks)
        hybrid.report(out / _PAGE, landmarks=errors)
    write_preview(hybrid, out / _PICTURE)


def _show_pair(out: Path) -> None:
    say(f"written to {out}: two phantom chests, their labels and landmarks, and truth.h5, fixed to moving. To try:")
    images, points = (
        " ".join(str(out / f"{name}{end}") for name in ("fixed", "moving")) for end in (".nii.gz", ".csv")
    )
    say(f"samreg register {images} -o {out / 'result'} --landmarks {points} --report")
    labels = out / "moving_labels.nii.gz"
    say(f"samreg apply {out / 'result'} {labels} -o {out / 'labels_on_fixed.seg.nrrd'}")


def _show(pair: PhantomPair, alone: RegistrationResult | None, hybrid: RegistrationResult) -> None:
    from samreg.registration.quality import initial_alignment

    before, how = initial_alignment(hybrid)
    engine = hybrid.timings.get("registration", 0.0) + hybrid.timings.get("composition", 0.0)
    total = sum(hybrid.timings.values())
    assert hybrid.seed is not None
    seed = hybrid.seed.transform  # what method="embedding" returns
    rows = [
        (f"before, {how}", *_errors(pair, before), ""),
        ("embedding alone", *_errors(pair, seed), f"{total - engine:.0f} s"),
        *_alone(pair, alone),
        ("hybrid: torch from the embedding", *_errors(pair, hybrid.transform), f"{total:.0f} s"),
    ]
    say("Two phantoms: chests painted from formulas, each with its own anatomy, pose, breathing and field of view,")
    say("and the true correspondence known. They show that samreg works here; of its accuracy in patients they say")
    say("little.")
    header = (f"error, mm, at {len(pair.fixed_landmarks)} landmarks", "mean", "median", "largest", "body, mean", "time")
    show_table("", header, rows)


def _alone(pair: PhantomPair, alone: RegistrationResult | None) -> list[tuple[float | str, ...]]:
    """Return the row of ANTs; none where it is not installed."""
    if alone is None:
        return []
    return [("ANTs alone", *_errors(pair, alone.transform), f"{sum(alone.timings.values()):.0f} s")]


def _errors(pair: PhantomPair, transform: Transform | None) -> tuple[float | str, ...]:
    """Return mean, median and largest landmark error, and the mean error over the body both scans show, mm."""
    if transform is None:
        return ("failed", "", "", "")
    from samreg.quality import target_registration_error

    landmarks = target_registration_error(transform, pair.fixed_landmarks, pair.moving_landmarks)
    inside = pair.fixed.image.grid.world_points()[pair.fixed.labels.array > 0][::97]
    counterparts = pair.transform.transform_points(inside)
    shared = pair.moving.image.grid.contains(counterparts)
    body = target_registration_error(transform, inside[shared], counterparts[shared])
    return float(landmarks.mean()), float(np.median(landmarks)), float(landmarks.max()), float(body.mean())
