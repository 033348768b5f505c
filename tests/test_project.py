"""What stands in several files of the project stands there alike."""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch
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


def test_the_conda_recipe_needs_what_the_package_needs():
    project = (ROOT / "pyproject.toml").read_text()
    recipe = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text())
    assert recipe["context"]["version"] == samreg.__version__
    names = {"matplotlib-base": "matplotlib", "pytorch": "torch"}  # of conda-forge, and of PyPI

    def bounds(requirements):
        split = (re.match(r"([\w-]+) *([^;]*)", requirement).groups() for requirement in requirements)
        return {names.get(name, name).lower(): bound.strip() for name, bound in split}

    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.M | re.S)[1]
    wanted = bounds(re.findall(r'^ +"(.+?)",', listed, re.M))
    assert len(wanted) > 15
    given = bounds(recipe["requirements"]["run"])
    assert given.pop("python") == ">=3.10,<3.14", "ANTs has no packages for 3.14"
    assert given == wanted
    host = bounds(recipe["requirements"]["host"])
    assert f'"hatchling{host["hatchling"]}"' in project


def test_the_image_is_given_all_that_the_package_is_built_from():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*", "nothing else comes along"
    given = [rule[1:] for rule in rules if rule[0] == "!"]
    assert all((ROOT / name).exists() for name in given)
    project = (ROOT / "pyproject.toml").read_text()
    needed = {"pyproject.toml", "constraints.txt", "LICENSE", *re.findall(r'^readme = "(.+)"', project, re.M)}
    needed |= set(re.findall(r'^packages = \["(.+)"\]', project, re.M)) | set(
        re.findall(r'^"(.+)" = "samreg/', project, re.M)
    )
    assert {name for name in needed if not any(fnmatch(name, rule) for rule in given)} == set()


def test_text_is_opened_in_a_stated_encoding():
    """Without one, it is that of the machine's locale: Windows reads and writes other letters than Linux."""
    unsaid = [f"{path}:{line}" for path in (ROOT / "samreg").rglob("*.py") for line in _opened_in_any_encoding(path)]
    assert not unsaid


def test_an_encoding_that_is_not_stated_is_seen(tmp_path):
    program = """
path.read_text(); path.write_text(text); open(path); open(path, "w"); path.open(); path.open("w"); path.open(mode="a")
path.read_text(encoding="utf-8"); open(path, "rb"); path.open(mode="wb"); archive.open(name, "w"); Stored.open(folder)
"""
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    assert _opened_in_any_encoding(tmp_path / "program.py") == [2] * 7


def _opened_in_any_encoding(path):
    """Return the lines of a program on which text is read or written, once for each call that states no encoding."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return sorted(call.lineno for call in calls if _opens_text(call) and "encoding" not in _keywords(call))


def _opens_text(call):
    is_method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if is_method else getattr(call.func, "id", "")
    mode = [*call.args[0 if is_method else 1 :][:1], *filter(None, [_keywords(call).get("mode")])]
    is_text = all(isinstance(one, ast.Constant) and re.fullmatch("[rwaxt+]+", str(one.value)) for one in mode)
    return (is_method and name in ("read_text", "write_text")) or (name == "open" and is_text)


def _keywords(call):
    return {keyword.arg: keyword.value for keyword in call.keywords}


def test_no_name_that_is_loaded_on_first_use_is_that_of_its_module():
    """With lazy_loader 0.5 samreg.embed was a module once another function had imported that."""
    stubs = [*ROOT.glob("samreg/**/__init__.pyi")]
    assert len(stubs) >= 2
    for stub in stubs:
        for node in ast.walk(ast.parse(stub.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in {alias.name for alias in node.names}, f"{stub}: {node.module}"
