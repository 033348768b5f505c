"""The order in which the steps of an atlas are taken, and how each subject fares."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial

from samreg.atlas.frame import common_frame, common_grid
from samreg.atlas.result import Convergence
from samreg.atlas.steps import (
    Frame,
    Subjects,
    average_subjects,
    finish_subject,
    medoid,
    read_subject,
    register_subject,
    start_subject,
)
from samreg.atlas.store import (
    IMAGES,
    read_labels,
    read_landmarks,
    remove_earlier,
    write_labels,
    write_landmarks,
)
from samreg.backends import each
from samreg.errors import InputError, require_choice
from samreg.spatial.io_images import read_image, write_image
from samreg.spatial.io_transforms import read_transform
from samreg.spatial.transforms import AffineTransform
from samreg.steps import Outcome, write_summary, write_table

_MIN_SUBJECTS = 2


@dataclass
class Run:
    """One run.

    Parameters
    ----------
    subjects
        What the steps share.
    jobs
        Subjects at a time.
    report
        Called with what is being done.
    outcomes
        Of the subjects so far.
    """

    subjects: Subjects
    jobs: int
    report: Callable[[str], None]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def start(self, reference: str | None) -> Frame:
        """Return the frame in the middle of the subjects, found by affines from a reference."""
        subjects = self.subjects
        if reference is not None:
            require_choice("reference", reference, subjects.images)
        names = self._each("reading", list(subjects.images), partial(read_subject, subjects))
        if reference is not None and reference not in names:
            raise InputError(f"the reference {reference} cannot be used: {self.outcomes[reference].reason}")
        first = reference or (medoid(subjects, names) if subjects.options.embeds else names[0])
        names = self._each("affine start", names, partial(start_subject, subjects, first))
        affines = {name: read_transform(subjects.folder.affine(name)) for name in names}
        frame = common_frame({name: a for name, a in affines.items() if isinstance(a, AffineTransform)})
        views = {name: read_image(subjects.images[name]).grid for name in frame}
        return Frame(frame, views, common_grid(views, frame, subjects.options.spacing))

    def check_annotations(self, frame: Frame) -> None:
        """Read labels and landmarks once, before the hours and not after."""
        for name in frame.affines:
            if name in self.subjects.labels:
                read_labels(self.subjects.labels[name])
            if name in self.subjects.landmarks:
                read_landmarks(*self.subjects.landmarks[name], frame.views[name], name)

    def iterate(self, frame: Frame, iterations: int) -> tuple[list[str], list[Convergence]]:
        """Register and average the subjects again and again; return those that are left, and what changed."""
        names = list(frame.affines)
        convergence = [self._average(frame, 0, names)]
        for number in range(1, iterations + 1):
            names = self._each(f"iteration {number}", names, partial(register_subject, self.subjects, number))
            convergence.append(self._average(frame, number, names))
        return names, convergence

    def finish(self, frame: Frame, names: Sequence[str], convergence: Sequence[Convergence]) -> None:
        """Write what the whole run gave; a subject that fails now is in the template, and has no results of its own."""
        subjects, folder, last = self.subjects, self.subjects.folder, len(convergence) - 1
        done = self._each("results", names, partial(finish_subject, subjects, frame, last))
        for name in IMAGES:
            write_image(read_image(folder.average(last) / f"{name}.nii.gz"), folder.image(name))
        remove_earlier(folder, done)
        write_landmarks(folder, [name for name in done if name in subjects.landmarks])
        write_labels(folder, [name for name in done if name in subjects.labels])
        columns = [column.name for column in fields(Convergence)]
        rows = (list(asdict(iteration).values()) for iteration in convergence)
        write_table(folder.root / "convergence.csv", columns, rows)
        write_summary(folder.root / "summary.csv", self.outcomes.values())

    def _average(self, frame: Frame, number: int, names: Sequence[str]) -> Convergence:
        self.report(f"iteration {number}: averaging {len(names)} subjects")
        outcome = average_subjects(self.subjects, frame, number, names)
        if not outcome:
            raise InputError(f"iteration {number}: {outcome.reason}")
        path = self.subjects.folder.average(number) / "convergence.json"
        return Convergence(**json.loads(path.read_text(encoding="utf-8")))

    def _each(self, what: str, names: Sequence[str], step: Callable[[str], Outcome]) -> list[str]:
        """Take a step for every subject, several at a time; return those it was taken for."""
        done = []
        for outcome in each(step, names, jobs=self.jobs):
            earlier = self.outcomes.get(outcome.name)
            if earlier is None or earlier:
                seconds = outcome.seconds + (earlier.seconds if earlier else 0)
                self.outcomes[outcome.name] = outcome._replace(seconds=seconds)
            if outcome:
                done.append(outcome.name)
            self.report(f"{what}: {outcome.name} {outcome.status} {outcome.reason}")
        if len(done) < _MIN_SUBJECTS:
            failed = "; ".join(f"{o.name}: {o.reason}" for o in self.outcomes.values() if not o)
            raise InputError(
                f"{what}: {len(done)} of {len(names)} subjects are left, at least {_MIN_SUBJECTS} are needed ({failed})"
            )
        return done
