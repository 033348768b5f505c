"""The ``samreg`` command: one thin module per command on the public API.

Exit codes: 0 done; 1 the images could not be registered, and the reason is printed; 2 the call is at fault;
3 an engine or samreg failed, or what was to be printed on stdout is lost; 130 interrupted, by Ctrl-C,
SIGTERM or SIGHUP, with nothing half-written.
"""

from __future__ import annotations

import re
import sys
import traceback
from typing import Annotated, Any

import typer
import typer.core

from samreg.cli.apply import apply
from samreg.cli.atlas import atlas
from samreg.cli.batch import batch
from samreg.cli.benchmark import benchmark
from samreg.cli.common import exit_codes, fail, heed_termination, lost_output, restart_in_utf8, tolerate_any_terminal
from samreg.cli.demo import demo
from samreg.cli.dicom import dicom
from samreg.cli.embed import embed
from samreg.cli.info import info
from samreg.cli.landmarks import landmarks
from samreg.cli.match import match
from samreg.cli.register import register
from samreg.cli.report import report
from samreg.cli.track import track
from samreg.cli.train import train
from samreg.cli.view import view


class _Group(typer.core.TyperGroup):
    """The command, which refuses empty arguments: ``-o ""``, of an unset variable, would be the working folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for before, argument in zip([self.name, *args], args, strict=False):
            if not argument or re.fullmatch(r"--[\w-]+=", argument):
                after = f"{argument[:-1] or before} is followed by"
                fail(f"{after} an empty argument; is a variable of the shell unset? Give a value, or leave it out", 2)
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="samreg",
    cls=_Group,
    help="Registration of body scans by self-supervised anatomical embeddings.",
    epilog="Exit codes: 0 done, 1 images that cannot be registered, 2 a fault of the call, 3 a failed engine, "
    "130 interrupted. World coordinates are LPS mm throughout.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command, example in (
    (register, "fixed.nii.gz moving.nii.gz -o out/"),
    (batch, "pairs.csv -o out/ --jobs 2"),
    (match, "template.nii.gz points.csv target.nii.gz -o found.csv"),
    (track, "baseline.nii.gz followup.nii.gz lesions.csv -o out/"),
    (atlas, "scans/ -o atlas/ --jobs 2"),
    (apply, "out/ moving_labels.nii.gz -o warped_labels.nii.gz --interpolation nearest"),
    (dicom, "out/ --fixed fixed-folder --moving moving-folder -o registration.dcm"),
    (report, "out/"),
    (view, "out/"),
    (embed, "template.nii.gz -o template.h5"),
    (train, "pipelines/training/ct-small.yaml"),
    (benchmark, "phantom:4 --methods identity,hybrid-torch -o results/"),
    (info, "fixed.nii.gz"),
    (demo, "--quick"),
):
    app.command(epilog=f"Example: samreg {command.__name__} {example}")(exit_codes(command))
app.add_typer(landmarks, name="landmarks")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"samreg {version('samreg')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the ``samreg`` command."""
    restart_in_utf8()
    tolerate_any_terminal()
    heed_termination()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as end:  # as typer ends every command
        if not end.code and (lost := lost_output()):
            print(f"samreg: cannot print all: {lost}; files written with -o are whole", file=sys.stderr)
            sys.exit(3)
        raise
    except Exception:  # a fault of ours or of a library; 1 is kept for images that cannot be registered
        traceback.print_exc()
        sys.exit(3)
