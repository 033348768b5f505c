"""``samreg benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samreg.cli.common import Quiet, Seed, Verbose, fail, say, session, show_table
from samreg.errors import InputError
from samreg.spatial.files import require_writable

if TYPE_CHECKING:
    from samreg.benchmark.runner import Progress

_METHODS = "identity,embedding-deformable,ants-syn,hybrid-torch"


def benchmark(
    data: Annotated[
        str,
        typer.Argument(
            help="phantom, phantom:PAIRS, or a folder: samreg's own form, Learn2Reg, DIR-Lab, elastix lung."
        ),
    ] = "phantom",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for records and report; resumed when it exists.")
    ] = Path("samreg-benchmark"),
    methods: Annotated[
        str,
        typer.Option(help="Comma-separated; `list` shows them. NAME:MODEL takes a model, FILE.py:FUNCTION your own."),
    ] = _METHODS,
    pairs: Annotated[str, typer.Option(metavar="all|N", help="How many pairs, from the first.")] = "all",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Registrations at a time.", show_default="CPUs / threads")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each; ANTs repeats bit for bit on 1.")] = 1,
    seed: Seed = 0,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed pairs again.")] = False,
    backend: Annotated[str, typer.Option(metavar="local|dask", help="Where the jobs run.")] = "local",
    scheduler: Annotated[str | None, typer.Option(help="Address of the Dask scheduler.")] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Compare registration methods on landmarks and labels, and write a report.

    Each result is stored as soon as it is there: run the same command again to go on where it stopped.
    """
    from samreg.backends import duration_text
    from samreg.benchmark.datasets import load_dataset
    from samreg.benchmark.methods.registry import available_methods
    from samreg.benchmark.report.page import write_report
    from samreg.benchmark.report.tables import leaderboard, show
    from samreg.benchmark.runner import plan, run_jobs
    from samreg.device import available_cpus

    if methods == "list":
        say("\n".join(available_methods()))
        return
    count = _count(pairs)
    require_writable(out)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    with session(verbose=verbose, quiet=quiet) as progress:
        progress("reading the data set")
        dataset = load_dataset(data)
        todo = plan(dataset, names, out, pairs=count, threads=threads, seed=seed)

        def tell(now: Progress) -> None:
            progress(f"{now.done} of {now.total} registrations, about {duration_text(now.remaining_s)} left")
            if not quiet:
                typer.echo(
                    f"{now.done}/{now.total} {_line(now.record)}; {duration_text(now.remaining_s)} left", err=True
                )

        parallel = jobs or max(1, available_cpus() // threads)
        progress(f"{len(todo)} registrations")
        records = run_jobs(
            todo, parallel=parallel, backend=backend, scheduler=scheduler, retry_failed=retry_failed, progress=tell
        )
        progress("writing the report")
        report = write_report(dataset, records, out)
    if not quiet:
        rows = leaderboard(records)
        known = ("method", "pairs", "failed", "mean", "median", "p95", "Dice", "folding, %", "seconds", "memory, GB")
        columns = tuple(column for column in known if any(column in row for row in rows))
        show_table(
            f"{dataset.name}: landmark error, mm", columns, [[show(row.get(c)) for c in columns] for row in rows]
        )
        say(f"report: {report}")
    if records and not any(record["ok"] for record in records):
        fail(f"every registration failed, the first: {records[0]['reason']}", 1)


def _count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"--pairs {text!r} must be all, or a number of at least 1")
    return int(text)


def _line(record: dict[str, Any]) -> str:
    name = f"{record['method']} {record['fixed']} <- {record['moving']}"
    if not record["ok"]:
        return f"{name}: failed: {record['reason'].splitlines()[0]}"
    error = record["metrics"].get("tre_mean")
    return f"{name}: " + (f"{error:.1f} mm, " if error is not None else "") + f"{record['seconds']:.0f} s"
