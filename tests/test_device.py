"""Devices, and how many threads compute: limits hold within a block, and are gone after it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
import SimpleITK as sitk
import torch
from threadpoolctl import threadpool_info

from samreg.device import available_cpus, cpu_threads, inference_dtype, resolve_device, run_in_threads
from samreg.errors import InputError


def counts() -> tuple[int, int]:
    return torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def two_threads(monkeypatch):
    """Let torch and SimpleITK have two threads, whatever the machine has."""
    monkeypatch.setattr("samreg.device.available_cpus", lambda: 2)
    before = counts()
    torch.set_num_threads(2)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    yield
    torch.set_num_threads(before[0])
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])


def test_blocks_limit_all_pools_and_set_them_as_they_were(two_threads) -> None:
    blas = blas_threads()
    with cpu_threads(1):
        assert counts() == (1, 1)
        assert blas_threads() == {1}
        with cpu_threads(3):
            assert counts() == (3, 3)
        assert counts() == (1, 1)
    assert counts() == (2, 2)
    assert blas_threads() == blas


def test_blocks_that_overlap_in_two_threads_leave_nothing_behind(two_threads) -> None:
    """The one that was entered first and left first once restored what the other had set."""
    blas, entered, leave = blas_threads(), threading.Event(), threading.Event()

    def other() -> None:
        with cpu_threads(1):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with cpu_threads(3):
        thread.start()
        assert entered.wait(10)
    leave.set()
    thread.join()
    assert counts()[1] == 2
    assert blas_threads() == blas


def test_a_failure_in_a_block_sets_the_pools_as_they_were(two_threads) -> None:
    with pytest.raises(RuntimeError, match="within"), cpu_threads(1):
        raise RuntimeError("within")
    assert counts() == (2, 2)


def test_pools_that_cannot_be_set_are_as_they_were(monkeypatch, two_threads) -> None:
    """The block that could not be entered counted as one that was never left: its number held for good."""
    with monkeypatch.context() as patch:
        patch.setattr("samreg.device.usable_threads", lambda count: 2**31)  # too large for torch
        with pytest.raises(ValueError, match="verflow"), cpu_threads(1):
            pass
    with cpu_threads(3):
        assert counts() == (3, 3)
    assert counts() == (2, 2)


def test_no_more_threads_than_the_process_may_use(monkeypatch, two_threads) -> None:
    monkeypatch.setattr("samreg.device.available_cpus", lambda: 1)
    with cpu_threads():
        assert counts() == (1, 1)
    assert available_cpus() >= 1


def test_tasks_side_by_side_share_the_threads(monkeypatch, two_threads) -> None:
    monkeypatch.setattr("samreg.device.available_cpus", lambda: 4)
    meeting = threading.Barrier(2, timeout=10)  # passed only by two at once

    def task(number: int) -> tuple[int, int]:
        meeting.wait()
        return number, torch.get_num_threads()

    with cpu_threads(4):
        assert run_in_threads([lambda: task(0), lambda: task(1)]) == [(0, 2), (1, 2)]
        assert counts() == (4, 4)
    assert counts() == (2, 2)


def test_tasks_within_tasks_use_as_many_threads(two_threads) -> None:
    meeting = threading.Barrier(2, timeout=10)
    with cpu_threads(2):
        found = run_in_threads([lambda: run_in_threads([meeting.wait, meeting.wait]), torch.get_num_threads])
    assert (sorted(found[0]), found[1]) == ([0, 1], 1)


def test_tasks_run_one_after_another_where_one_thread_is_allowed(two_threads) -> None:
    with cpu_threads(1):
        assert run_in_threads([threading.get_ident] * 3) == [threading.get_ident()] * 3


def test_a_task_that_fails_is_raised_when_the_others_have_ended(two_threads) -> None:
    ended = []

    def slow() -> None:
        with cpu_threads(1):
            time.sleep(0.3)
            ended.append(True)

    with pytest.raises(ZeroDivisionError):
        run_in_threads([lambda: 1 // 0, slow])
    assert ended == [True]
    assert counts() == (2, 2)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "all", True, 10_000, 2**31])
def test_threads_must_be_a_positive_whole_number(threads) -> None:
    with pytest.raises(InputError, match="threads must be"), cpu_threads(threads):
        pass


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5, True, None])
def test_devices_that_are_not_there_are_refused_with_those_that_are(device) -> None:
    with pytest.raises(InputError, match=r"cpu|CUDA devices"):
        resolve_device(device)


def test_half_precision_only_where_the_processor_computes_in_it(monkeypatch) -> None:
    for has_it, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has_it=has_it: {"avx512_bf16": has_it}, raising=False)
        assert inference_dtype(torch.device("cpu")) == dtype
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert inference_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)
    assert inference_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [("", {}, "1000"), ("", {"OMP_WAIT_POLICY": "active"}, "None"), ("import torch; ", {}, "None")],
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(before, given, expected) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {key: value for key, value in os.environ.items() if key not in names} | given
    program = f"{before}import os, samreg; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
