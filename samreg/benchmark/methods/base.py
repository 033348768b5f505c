"""What a method is to the benchmark, and what it returns.

A method is a callable ``method(fixed, moving, *, threads, seed)`` of two :class:`samreg.Image`; what it returns is
false with a ``reason`` when it gives up, and else has ``transform`` (fixed to moving, LPS mm) and optionally
``inverse`` (moving to fixed) and ``timings`` (seconds of each stage), as :class:`Outcome` and
:class:`samreg.RegistrationResult` have.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import samreg
from samreg.benchmark.datasets.base import digest, sha256
from samreg.errors import InputError, MissingExtraError
from samreg.spatial import Image, Transform

_PACKAGE = Path(samreg.__file__).parent


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method returns.

    Parameters
    ----------
    transform
        Fixed to moving, LPS mm; None when the method gave up.
    inverse
        Moving to fixed, LPS mm; ``transform`` is inverted numerically unless given.
    timings
        Seconds of each stage.
    reason
        Why the method gave up.

    Examples
    --------
    >>> from samreg.benchmark import Outcome
    >>> from samreg.spatial import AffineTransform
    >>> bool(Outcome(AffineTransform.identity(3)))
    True
    >>> bool(Outcome(None, reason="too few matches"))
    False
    """

    transform: Transform | None
    inverse: Transform | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    def __bool__(self) -> bool:
        return self.transform is not None


@dataclass(frozen=True)
class Method:
    """A method with its options, and what its results depend on.

    Parameters
    ----------
    name
        As on the command line.
    run
        The callable.
    options
        Passed to it by keyword.
    packages
        Distributions whose versions change the results.
    code
        Files and folders of samreg whose code or weights change the results; the file of ``run`` unless given.
    embeds
        Whether ``run`` embeds the images and so takes ``model=``, a model's name or checkpoint: ``NAME:MODEL``.

    Examples
    --------
    >>> from samreg.benchmark import Method, Outcome
    >>> from samreg.spatial import AffineTransform, Image
    >>> def shift(fixed, moving, *, threads, seed):
    ...     return Outcome(AffineTransform([[1, 0], [0, 1]], moving.grid.center - fixed.grid.center))
    >>> images = [Image.from_array([[0, 1], [2, 3]], origin=origin) for origin in ((0, 0), (5, 0))]
    >>> Method("shift", shift)(*images, threads=1, seed=0).transform.translation.tolist()
    [5.0, 0.0]
    """

    name: str
    run: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    embeds: bool = False

    def with_model(self, model: str) -> Method:
        """Return the method with another model than samreg's default, ``NAME:MODEL``.

        Parameters
        ----------
        model
            A name that :func:`samreg.load_model` knows, or a checkpoint file.

        Raises
        ------
        InputError
            When the method does not embed.
        """
        if not self.embeds:
            raise InputError(f"{self.name} takes no model: it does not embed; leave :{model} out")
        return replace(self, name=f"{self.name}:{model}", options={**self.options, "model": model})

    def __call__(self, fixed: Image, moving: Image, *, threads: int, seed: int) -> Any:
        """Register ``moving`` to ``fixed``.

        Parameters
        ----------
        fixed, moving
            The images.
        threads
            CPU threads the method may use.
        seed
            Of what it draws at random.

        Returns
        -------
        Outcome
            Or what else has a ``transform``, such as :class:`samreg.RegistrationResult`.
        """
        return self.run(fixed, moving, threads=threads, seed=seed, **self.options)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of samreg and of the packages the method needs.

        Raises
        ------
        MissingExtraError
            When one is not installed.
        """
        try:
            return {name: importlib.metadata.version(name) for name in ("samreg", *self.packages)}
        except importlib.metadata.PackageNotFoundError as error:
            raise MissingExtraError(
                f'the method {self.name} needs {error.name}: pip install {error.name}, or "samreg[peers,elastix]"'
            ) from error

    @cached_property
    def fingerprint(self) -> str:
        """Hash of options, versions, and the code and weights that the method stands on.

        Raises
        ------
        InputError
            When the code of ``run`` lies in no file.
        """
        paths = [_PACKAGE / name for name in self.code or source_files(self.run)]
        files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        hashes = [sha256(file) for file in files if file.suffix in (".py", ".safetensors")]
        model = Path(str(self.options.get("model", "")))  # a checkpoint, or a name
        hashes += [sha256(model)] if model.is_file() else []
        return digest([dict(self.options), self.versions, hashes])


def source_files(run: Callable[..., Any]) -> tuple[str, ...]:
    """Return the files that define a callable and what it wraps: a function, a partial one, an object that is called.

    Raises
    ------
    InputError
        When it is compiled, and so is what it wraps.

    Examples
    --------
    >>> [Path(file).name for file in source_files(functools.partial(source_files))]
    ['base.py']
    """
    files: dict[str, None] = {}
    part: Any = run
    while part is not None:
        if isinstance(part, functools.partial):
            part = part.func
            continue
        try:
            file = inspect.getsourcefile(part if inspect.isroutine(part) or inspect.isclass(part) else type(part))
        except TypeError:  # built in, or compiled
            file = None
        files |= {file: None} if file else {}
        part = getattr(part, "__wrapped__", None)
    if not files:
        raise InputError(
            f"the code of {run!r} lies in no Python file, by which its results could be told from those of other code; "
            "call it in a function of your own"
        )
    return tuple(files)
