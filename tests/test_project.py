"""What stands in several files of the project stands there alike."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

import samreg

ROOT = Path(__file__).parents[1]


def test_the_version_is_one():
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert samreg.__version__ == declared
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == declared
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert newest == declared


def test_workflows_and_templates_are_yaml_and_run_what_is_there():
    files = [*ROOT.glob(".github/**/*.yml")]
    assert len(files) >= 3
    for file in files:
        content = yaml.safe_load(file.read_text())
        for job in content.get("jobs", {}).values():
            programs = [step["run"] for step in job["steps"] if "run" in step]
            assert programs
            assert all((ROOT / program).is_file() for program in programs)
