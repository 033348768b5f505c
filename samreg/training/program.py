"""How the programs of training end where what they were given is at fault: with a line, not a traceback."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from samreg.errors import SamregError


@contextmanager
def faults_said(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the program with the usage, the fault and exit code 2 where samreg refuses what it was given."""
    try:
        yield
    except SamregError as error:
        parser.error(str(error))
