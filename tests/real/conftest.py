"""Tests on real images that the project does not ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images: environment variable SAMREG_DATA, else ../shared/data beside the repository.

    Without it the tests are skipped, which fails under CI=true.
    """
    folder = Path(os.environ.get("SAMREG_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if (folder / "ct").is_dir():
        return folder
    pytest.skip(f"no test data in {folder}; set SAMREG_DATA to the folder that holds ct/ and xray/")
