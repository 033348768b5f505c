"""Steps that are computed again for their gradient, instead of keeping in memory what lies between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]


def recomputed(step: Step, volume: Tensor) -> Tensor:
    """Return step(volume), differentiable with respect to ``volume`` alone.

    torch.utils.checkpoint does the same for any arguments, but loads torch's compiler, which takes a second.
    """
    result: Tensor = _Recomputed.apply(step, volume)  # type: ignore[no-untyped-call]
    return result


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, volume: Tensor) -> Tensor:
        ctx.step = step
        ctx.save_for_backward(volume)
        return step(volume)  # autograd records nothing within

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        with torch.enable_grad():
            volume = ctx.saved_tensors[0].detach().requires_grad_(True)
            return None, torch.autograd.grad(ctx.step(volume), volume, gradient)[0]
