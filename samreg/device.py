"""Where arithmetic runs: the torch device, its floating-point type, and the number of CPU threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from samreg._forked import cuda_is_lost, usable_threads
from samreg.errors import InputError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the torch device to run on; "auto" takes cuda, mps, cpu, the first that is there.

    Raises
    ------
    InputError
        When the device is unknown or not present.
    """
    import torch

    if cuda_is_lost() and not str(device).startswith("cpu"):
        raise InputError(
            f"device {str(device)[:40]!r}: this process was forked from one that had used CUDA, which cannot be used "
            'here; start processes with "spawn", or give device="cpu"'
        )
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if isinstance(device, str) and device == "auto":
        return torch.device(next(name for name, there in present.items() if there))
    choices = "auto, " + ", ".join(name for name, there in present.items() if there)
    try:
        if isinstance(device, bool):  # for torch a number
            raise TypeError
        resolved = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise InputError(f"unknown device {str(device)[:40]!r}; choose one of {choices}") from None
    if not present.get(resolved.type, False):
        raise InputError(f"device {device!r} is not available here; choose one of {choices}")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r}: only {torch.cuda.device_count()} CUDA devices here; choose cuda:0")
    return resolved


def inference_dtype(device: torch.device) -> torch.dtype:
    """Return the fastest safe floating-point type: half precision where the hardware computes in it."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if device.type == "cpu" and native() else torch.float32


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Let torch and SimpleITK use this many threads within the block; as many as before for None.

    Raises
    ------
    InputError
        When `threads` is not positive.
    """
    if threads is None:
        yield
        return
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    import SimpleITK as sitk
    import torch

    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    torch.set_num_threads(usable_threads(threads))
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before[1])
