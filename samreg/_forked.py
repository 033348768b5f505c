"""Processes forked after torch was loaded: its threads are not there, and waiting for them would never end.

A fork copies a process but not its threads. The OpenMP runtime of torch hands the child's work to the threads of the
parent, and the child hangs. With one thread it never asks for others, so that is what a forked child is given. CUDA
cannot be used in the child at all once the parent has used it.
"""

from __future__ import annotations

import logging
import os
import sys

log = logging.getLogger(__name__)

_installed = False
_forked = False  # from a process that had loaded torch
_cuda_in_use = False  # when the process last forked
_cuda_lost = False  # forked from a process that had used CUDA
_warned = False


def usable_threads(threads: int) -> int:
    """Return how many of so many threads torch may use: one in a process forked from one that had loaded torch."""
    global _warned
    if threads == 1 or not _forked:
        return threads
    if not _warned:
        _warned = True
        log.warning(
            "process %d was forked from one that had loaded torch: it computes on one thread, as more would hang; "
            'start processes with "spawn", or give threads=1',
            os.getpid(),
        )
    return 1


def cuda_is_lost() -> bool:
    """Tell whether the process was forked from one that had used CUDA, which cannot be used here then."""
    return _cuda_lost


def install() -> None:
    """Let processes that are forked from this one compute on one thread; once is enough."""
    global _installed
    if hasattr(os, "register_at_fork") and not _installed:
        os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
        _installed = True


def _before_fork() -> None:
    global _cuda_in_use
    torch = sys.modules.get("torch")
    _cuda_in_use = hasattr(torch, "cuda") and torch.cuda.is_initialized()  # type: ignore[union-attr]


def _after_fork_in_child() -> None:
    global _forked, _cuda_lost
    _cuda_lost = _cuda_lost or _cuda_in_use
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        _forked = True
        torch.set_num_threads(1)
