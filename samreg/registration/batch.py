"""register_many(): many pairs in one run that can be stopped and gone on with."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from samreg.backends import duration_text, follow, this_process, workers
from samreg.device import MAX_THREADS, available_cpus, resolve_device
from samreg.engines.registry import engine_packages
from samreg.errors import InputError, require_choice, require_each, require_number, require_progress
from samreg.registration.call import METHODS, TRANSFORMS, chosen_atlas, chosen_engine
from samreg.registration.outcome import (
    PairOutcome,
    label_overlap,
    labels_of,
    landmarks_of,
    measured_outcome,
    outcome_of,
    read_outcome,
    write_outcomes,
)
from samreg.registration.pairs import EMBEDDINGS, SUMMARY, TEXTS, RegistrationPair, read_registration_pairs
from samreg.registration.register import register
from samreg.registration.result import RegistrationResult
from samreg.registration.result_folder import FIELD_GRIDS, LANDMARK_ERRORS, REPORT, require_formats
from samreg.spatial.files import claimed_folder, locked_folder, require_path, scratch_folder, scratch_within
from samreg.spatial.image import Image
from samreg.spatial.io_images import read_image
from samreg.steps import (
    forget_unfinished,
    is_under_way,
    recorded,
    require_folder_names,
    require_summary,
    run_step,
    write_table,
)

log = logging.getLogger(__name__)

_OPTIONS = ("method", "engine", "transform", "model", "anchors", "seed", "spacing", "engine_options")
_MEASURES = "measures.csv"
_KILLED = (
    "its process, or one beside it, was ended by the system, probably out of memory; run the same command again with "
    "fewer jobs"
)


class _Source(NamedTuple):
    """Where an image that is embedded comes from."""

    file: Path
    series: str | None
    mask: Path | None


@dataclass(frozen=True)
class _Saved:
    """How results are saved."""

    formats: tuple[str, ...] = ("h5",)
    field_grid: str = "compact"
    report: bool = False


@dataclass(frozen=True)
class _Run:
    """What all pairs of a run share, as any process can be told it."""

    out: Path
    options: Mapping[str, Any]
    identity: tuple[str, ...]  # of the models that may embed
    shared: frozenset[_Source]  # images whose embeddings several pairs need
    pixel_size: float | None
    saved: _Saved
    threads: int
    devices: tuple[str, ...]
    slots: str  # folder in which processes claim a device each, and have their temporary files
    parent: tuple[int, str] | None  # process, and its working folder, that the processes follow; None on a cluster

    @property
    def packages(self) -> tuple[str, ...]:
        engine = self.options.get("engine")
        return engine_packages(engine if isinstance(engine, str) else None)


def register_many(
    pairs: Sequence[RegistrationPair] | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    backend: str = "local",
    scheduler: str | None = None,
    pixel_size: float | None = None,
    formats: str | Sequence[str] = ("h5",),
    field_grid: str = "compact",
    report: bool = False,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> list[PairOutcome]:
    r"""Register many pairs of images.

    ``out`` receives a folder a pair (:meth:`RegistrationResult.save`, and ``landmarks.csv`` and ``dice.csv`` where
    landmarks and labels are given), ``summary.csv``, and ``embeddings``: those of images that several pairs share are
    computed once. A pair that fails is recorded, and the others go on. A run that was stopped, or killed, goes on where
    it stopped: results are kept while files, model, options and the versions of all packages stay the same.

    Parameters
    ----------
    pairs
        From :func:`read_registration_pairs` or :func:`pairs_in_folder`, or the csv's file.
    out
        Folder for the results.
    jobs
        Pairs at a time, each in a process of its own; one for each device unless given.
    threads
        CPU threads of each; all that there are, divided among the jobs, unless given, and one on a cluster.
    device
        As in :func:`register`, or several, as "cuda:0,cuda:1", over which the processes are spread evenly.
    backend, scheduler
        "local", or "dask" with the scheduler's address: on a cluster whose workers see code, images and ``out`` under
        the same paths.
    pixel_size
        Of all images, mm, where their files (PNG, JPEG) say none.
    formats, field_grid
        Of the transforms, as in :meth:`RegistrationResult.save`.
    report
        Write ``report.html`` into each folder as well.
    progress
        Called with what is being done, and about how long it will take; the log gets it, at level INFO, unless given.
    **options
        ``method``, ``engine``, ``transform``, ``model``, ``anchors``, ``seed``, ``spacing`` and ``engine_options`` as
        in :func:`register`; engine, model and atlas by name or file.

    Returns
    -------
    list of PairOutcome
        Of the pairs, in order.

    Raises
    ------
    InputError
        When an option is at fault, two pairs share a name, another run writes to ``out``, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import samreg
    >>> folder = Path(tempfile.mkdtemp())
    >>> scan = np.random.default_rng(0).normal(0, 100, (12, 12, 12)).astype(np.float32)
    >>> samreg.write_image(samreg.Image.from_array(scan, spacing=8.0), folder / "scan.nii.gz")
    >>> _ = (folder / "pairs.csv").write_text("fixed,moving\nscan.nii.gz,scan.nii.gz\nscan.nii.gz,none.nii.gz\n")
    >>> options = {"method": "registration", "engine": "torch", "transform": "rigid"}
    >>> [outcome.status for outcome in register_many(folder / "pairs.csv", folder / "out", **options)]
    ['registered', 'failed']
    """
    require_progress(progress)
    tell, out = progress or log.info, require_path("out", out)
    require_choice("field_grid", field_grid, FIELD_GRIDS)
    saved = _Saved(require_formats(formats, ndim=3), field_grid, report)
    if isinstance(pairs, (str, os.PathLike)):
        require_summary(out / SUMMARY, [pairs])
        pairs = read_registration_pairs(pairs)
    remedy = "as read_registration_pairs and pairs_in_folder return it, or the csv's file"
    pairs = require_each("pairs", pairs, RegistrationPair, remedy)
    require_folder_names([pair.name for pair in pairs])
    devices = tuple(part.strip() for part in str(device).split(","))
    if backend == "local":
        for one in devices:
            resolve_device(one)
    elif len(devices) > 1:
        raise InputError(f"device {device!r}: give one to a cluster; CUDA_VISIBLE_DEVICES chooses for each worker")
    else:  # whose workers have working folders of their own
        pairs, options = [*map(_absolute, pairs)], {key: _absolute_file(value) for key, value in options.items()}
    jobs = require_number("jobs", len(devices) if jobs is None else jobs, minimum=1, integer=True)
    if threads is None:
        threads = max(1, available_cpus() // jobs) if backend == "local" else 1
    with (
        claimed_folder(out),
        scratch_folder() as slots,
        workers(backend, jobs=jobs, scheduler=scheduler) as count,
    ):
        if isinstance(options.get("anchors"), os.PathLike):
            options["anchors"] = os.fspath(options["anchors"])
        run = _Run(
            out=out.absolute(),
            options=dict(options),
            identity=_checked(options),
            shared=_shared_images(pairs) if options.get("method") != "registration" else frozenset(),
            threads=require_number("threads", threads, minimum=1, maximum=MAX_THREADS, integer=True),
            pixel_size=pixel_size,
            saved=saved,
            devices=devices,
            slots=str(slots),
            parent=this_process() if backend == "local" else None,
        )
        for pair in pairs:
            forget_unfinished(run.out / pair.name)
        _embed_shared(pairs, run, count, tell)
        return _register_all(pairs, run, count, tell)


def _absolute(pair: RegistrationPair) -> RegistrationPair:
    """Return the pair with absolute paths."""
    paths = {field.name: getattr(pair, field.name) for field in fields(pair) if field.name not in TEXTS}
    absolute: dict[str, Any] = {key: Path(path).absolute() for key, path in paths.items() if path is not None}
    return replace(pair, **absolute)


def _absolute_file(option: Any) -> Any:
    """Return an option that names a file, as FILE.py:CLASS does too, with its absolute path; others as they are."""
    if not isinstance(option, (str, os.PathLike)):
        return option
    file, colon, name = os.fspath(option).rpartition(":") if ".py:" in str(option) else (os.fspath(option), "", "")
    return f"{Path(file).absolute()}{colon}{name}" if Path(file).is_file() else option


def _checked(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which models may embed; raise :class:`InputError` for options that no pair could be registered with."""
    from samreg.embedding.registry import default_models, load_model

    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise InputError(f"unknown option {', '.join(unknown)}; choose from {', '.join(_OPTIONS)}")
    anchors = True if options.get("anchors") is None else options["anchors"]
    if not isinstance(anchors, (bool, str, os.PathLike)):
        raise InputError("anchors must be True, False or the file of a landmark atlas, which any process can read")
    method = options.get("method", "hybrid")
    require_choice("method", method, METHODS)
    transform = options.get("transform", "deformable")
    require_choice("transform", transform, TRANSFORMS)
    if method != "embedding":
        chosen_engine(options.get("engine"), method)
    atlas = chosen_atlas(anchors, method, transform)
    if method == "registration":
        return ()
    model = options.get("model")
    named = default_models() if model is None else (model,)
    identities = tuple(load_model(source).identity for source in named)
    if not isinstance(atlas, bool) and atlas.model not in identities:
        raise InputError(
            f"{anchors}: the landmark atlas is of the model {atlas.model}, the images would be embedded by "
            f"{' or '.join(identities)}; give model=, the atlas's, or build an atlas by this model"
        )
    return identities


def _shared_images(pairs: Sequence[RegistrationPair]) -> frozenset[_Source]:
    counts = Counter(key for pair in pairs for key in _embedded(pair))
    return frozenset(key for key, count in counts.items() if count > 1)


def _embedded(pair: RegistrationPair) -> list[_Source]:
    """Return where both images, with their masks, come from."""
    return [
        _Source(pair.fixed, pair.fixed_series, pair.fixed_mask),
        _Source(pair.moving, pair.moving_series, pair.moving_mask),
    ]


def _read(source: _Source, run: _Run) -> Image:
    """Read an image without its mask."""
    return read_image(source.file, series=source.series, spacing=run.pixel_size)


def _read_mask(path: Path | None, run: _Run) -> Image | None:
    return None if path is None else read_image(path, spacing=run.pixel_size)


def _embed_shared(pairs: Sequence[RegistrationPair], run: _Run, count: int, report: Callable[[str], None]) -> None:
    """Embed what several pairs need, before two processes do it at a time."""
    import joblib

    waiting = [pair for pair in pairs if recorded(run.out / pair.name) is None]
    keys = list(dict.fromkeys(key for pair in waiting for key in _embedded(pair) if key in run.shared))
    tasks = (joblib.delayed(_embed_one)(key, run) for key in keys)
    try:
        for number, _ in enumerate(joblib.Parallel(n_jobs=count, return_as="generator_unordered")(tasks), start=1):
            report(f"embedded {number} of {len(keys)} images that several pairs share")
    except BrokenProcessPool:
        report("a process that embedded an image was ended by the system; its pairs embed it themselves")


def _embed_one(source: _Source, run: _Run) -> None:
    device = _own_device(run)
    try:
        with scratch_within(None if run.parent is None else Path(run.slots)):
            image, mask = _read(source, run), _read_mask(source.mask, run)
        _keeping_model([image], run).embed(image, mask=mask, device=device)
    except Exception as error:  # the pairs of this image meet it again, and record it
        log.info("%s: not embedded in advance: %s", source.file, error)


def _register_all(
    pairs: Sequence[RegistrationPair], run: _Run, count: int, report: Callable[[str], None]
) -> list[PairOutcome]:
    outcomes: dict[str, PairOutcome] = {}
    count_done, elapsed_s = 0, 0.0  # without the pairs that were kept
    start = time.monotonic()
    for pair, outcome, was_kept in _outcomes(pairs, run, count):
        outcomes[pair.name] = outcome
        if not was_kept:
            count_done, elapsed_s = count_done + 1, time.monotonic() - start
        left = len(pairs) - len(outcomes)
        estimate = f"; {duration_text(left * elapsed_s / count_done)} left" if left and count_done else ""
        kept = " (kept)" if was_kept else ""
        reason = f": {outcome.reason}" if outcome.reason else ""
        report(f"{len(outcomes)} of {len(pairs)}, {pair.name}: {outcome.status}{kept}{reason}{estimate}")
        ended = [outcomes[pair.name] for pair in pairs if pair.name in outcomes]
        write_outcomes(run.out / SUMMARY, ended)
    return [outcomes[pair.name] for pair in pairs]


def _outcomes(
    pairs: Sequence[RegistrationPair], run: _Run, count: int
) -> Iterator[tuple[RegistrationPair, PairOutcome, bool]]:
    """Yield each pair's outcome as it ends, and whether an earlier run's was kept.

    When the system ends a process, joblib gives up: the pairs then under way have failed, and the others go on.
    """
    import joblib

    todo = {pair.name: pair for pair in pairs}
    while todo:
        tasks = (joblib.delayed(_register_one)(pair, run) for pair in [*todo.values()])
        # pairs take long, so none may wait for another in a batch
        work = joblib.Parallel(n_jobs=count, batch_size=1, return_as="generator_unordered")
        try:
            for outcome, was_kept in work(tasks):
                yield todo.pop(outcome.name), outcome, was_kept
        except BrokenProcessPool:
            under_way = [pair for pair in todo.values() if is_under_way(run.out / pair.name)]
            for pair in under_way or [*todo.values()][:count]:
                forget_unfinished(run.out / pair.name)
                yield todo.pop(pair.name), outcome_of(pair, "failed", reason=_KILLED), False


def _register_one(pair: RegistrationPair, run: _Run) -> tuple[PairOutcome, bool]:
    """Register one pair in whatever process; return how it ended, and whether an earlier run's result was kept."""
    device = _own_device(run)

    def work(folder: Path) -> None:
        _register_into(folder, pair, run, device)

    engine = str(run.options.get("engine") or "")
    read = [engine.rpartition(":")[0]] if ".py:" in engine else []
    read += [anchors] if isinstance(anchors := run.options.get("anchors"), str) else []
    series = {key: value for key in ("fixed_series", "moving_series") if (value := getattr(pair, key)) is not None}
    size = {} if run.pixel_size is None else {"pixel_size": run.pixel_size}
    saved = {} if run.saved == _Saved() else {"saved": astuple(run.saved)}
    inputs = {**run.options, "model": run.identity, **series, **size, **saved}
    with scratch_within(None if run.parent is None else Path(run.slots)):  # which a cluster's workers do not see
        step = run_step(run.out / pair.name, work, files=[*pair.files, *read], inputs=inputs, packages=run.packages)
    if not step:
        return outcome_of(pair, "failed", seconds=step.seconds, reason=step.reason), False
    return read_outcome(run.out / pair.name / _MEASURES, pair, seconds=step.seconds), step.status == "kept"


def _register_into(folder: Path, pair: RegistrationPair, run: _Run, device: str) -> None:
    """Register a pair, save and measure the result."""
    fixed, moving = (_read(source, run) for source in _embedded(pair))
    images = fixed, moving
    landmarks = landmarks_of(pair, images)
    require_formats(run.saved.formats, fixed.ndim)
    labels = labels_of(pair, pixel_size=run.pixel_size)
    shared = [image for image, key in zip(images, _embedded(pair), strict=True) if key in run.shared]
    given = run.options.get("model")
    result = register(
        *images,
        **{
            **run.options,
            "model": _keeping_model(shared, run) if shared else given,
            "fixed_mask": _read_mask(pair.fixed_mask, run),
            "moving_mask": _read_mask(pair.moving_mask, run),
            "threads": run.threads,
            "device": device,
        },
    )
    if shared:
        result = _as_if_called_with(given, result)
    errors = result.landmark_errors(*landmarks) if result and landmarks is not None else None
    result.save(folder, formats=run.saved.formats, field_grid=run.saved.field_grid, landmarks=errors)
    if errors is not None:
        errors.write(folder / LANDMARK_ERRORS)
    if run.saved.report:
        result.report(folder / REPORT, landmarks=errors)
    overlap = label_overlap(result, *labels) if result and labels is not None else {}
    if overlap:
        write_table(
            folder / "dice.csv", ("label", "dice"), [(label, f"{share:.4f}") for label, share in overlap.items()]
        )
    write_outcomes(folder / _MEASURES, [measured_outcome(pair, result, errors, overlap)])


def _keeping_model(images: Sequence[Image], run: _Run) -> Any:
    from samreg.embedding.kept import KeepingModel
    from samreg.embedding.registry import model_for

    return KeepingModel(model_for(run.options.get("model"), *images), run.out / EMBEDDINGS, images)


def _as_if_called_with(model: Any, result: RegistrationResult) -> RegistrationResult:
    """Return the result with the model's name or file as the user gave it, and what its choice gives to note."""
    from samreg.embedding.registry import default_notes

    if model is None:
        return replace(result, notes=(*result.notes, *default_notes(result.fixed, result.moving)))
    return replace(result, options={**result.options, "model": os.fspath(model)})


def _own_device(run: _Run) -> str:
    """Return the device on which this process computes, as long as it lives."""
    if run.parent is not None:
        follow(*run.parent)
    return run.devices[0] if len(run.devices) == 1 else run.devices[_slot(run.slots) % len(run.devices)]


@functools.cache
def _slot(folder: str) -> int:
    """Return the first number that no living process of a run has claimed, and claim it until this process ends."""
    number = 0
    while True:
        slot = Path(folder, str(number))
        slot.mkdir(exist_ok=True)
        try:
            _claims.enter_context(locked_folder(slot))
        except InputError:  # another process's
            number += 1
        else:
            return number


_claims = ExitStack()
