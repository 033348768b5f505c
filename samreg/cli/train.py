"""``samreg train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samreg.cli.common import Quiet, Verbose, say, session


def train(
    config: Annotated[
        Path, typer.Argument(help="Configuration, .yaml, .toml or .json; pipelines/training has examples.")
    ],
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train an embedding network without labels, as CONFIG says; a stopped run resumes where it was saved."""
    from samreg.training import TrainingConfig
    from samreg.training import train as run

    settings = TrainingConfig.from_file(config)
    with session(verbose=verbose or not quiet, quiet=quiet) as progress:  # hours without a word are too long
        progress(f"training, {settings.steps} steps; losses are in {settings.output}/log.csv")
        weights = run(settings)
    if not quiet:
        say(f"written to {weights}")
