from __future__ import annotations

from samreg.benchmark import available_methods


def test_benchmark_compares_prints_and_resumes(run, tmp_path):
    arguments = ("benchmark", "phantom:1:12", "--methods", "identity,ants-affine:mind", "-o", tmp_path / "out")
    done = run(*arguments)
    assert done.exit_code == 2
    assert "ants-affine takes no model" in done.output
    arguments = ("benchmark", "phantom:2:12", "--methods", "identity", "--pairs", "1", "-o", tmp_path / "out")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "1/1 identity phantom-000 <- phantom-001" in done.output
    for words in ("identity", "mean", "p95", "report.html"):
        assert words in done.output
    assert (tmp_path / "out" / "report.html").exists()
    assert "1/1" not in run(*arguments).output  # nothing was left to do


def test_benchmark_lists_methods_and_checks_its_arguments(run, tmp_path):
    assert set(run("benchmark", "--methods", "list").output.split()) == set(available_methods())
    for arguments, words in (
        (("--pairs", "few"), "must be all, or a number"),
        (("--methods", " , "), "name at least one method"),
        (("nowhere",), "no such folder"),
        (("--backend", "dask"), "needs the address of its scheduler"),
    ):
        done = run("benchmark", *arguments, "-o", tmp_path / "out", *(() if "nowhere" in arguments else ("--quiet",)))
        assert done.exit_code == 2, done.output
        assert words in done.output


def test_a_run_of_failures_ends_with_1(run, tmp_path):
    (tmp_path / "bad.py").write_text("def bad(fixed, moving, *, threads, seed):\n    raise ValueError('no')\n")
    done = run("benchmark", "phantom:1:12", "--methods", f"{tmp_path / 'bad.py'}:bad", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "every registration failed, the first: ValueError: no" in done.output
