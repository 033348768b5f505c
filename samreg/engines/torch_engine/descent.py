"""Adam for one tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam


class Descent:
    """Steps of Adam (Kingma and Ba, ICLR 2015) on one tensor that requires a gradient.

    torch's function does the work. Its class would first load torch's compiler, which takes a second: a tenth of a
    fast registration.
    """

    def __init__(self, value: Tensor, *, betas: tuple[float, float]) -> None:
        self.value = value
        self.betas = betas
        self.averages = torch.zeros_like(value), torch.zeros_like(value)
        self.count = torch.zeros(())

    def step(self, rate: float) -> None:
        """Move the tensor along its gradient, which is then cleared."""
        assert self.value.grad is not None
        with torch.no_grad():
            adam(
                [self.value], [self.value.grad], [self.averages[0]], [self.averages[1]], [], [self.count],
                foreach=False, amsgrad=False, maximize=False,
                beta1=self.betas[0], beta2=self.betas[1], lr=rate, weight_decay=0.0, eps=1e-8,
            )  # fmt: skip
        self.value.grad = None
