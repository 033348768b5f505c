"""The optimizers of a training run: AdamW, or Muon for the convolutions inside the network and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from samreg.errors import InputError
from samreg.training.config import TrainingConfig

_ENDS = ("stem", "head")  # layers that see the image or make the embedding; they stay with AdamW


@dataclass(frozen=True, eq=False)
class Optimizers:
    """Optimizers that take their steps together, at one learning rate.

    Parameters
    ----------
    parts
        The optimizers.
    matrices
        Parameters of theirs that are views of a network's weights, and these weights.
    """

    parts: tuple[torch.optim.Optimizer, ...]
    matrices: tuple[tuple[Tensor, Tensor], ...] = ()

    def step(self, learning_rate: float) -> None:
        """Change the weights by their gradients."""
        for matrix, weight in self.matrices:
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the states of all parts."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on from these states."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def optimizers_for(network: nn.Module, config: TrainingConfig) -> Optimizers:
    """Return the optimizers of a network's weights, without decay on biases and norms.

    With ``optimizer: muon`` the updates of the convolutions between the first layers and the heads are made orthogonal
    (Jordan et al., Muon, 2024), as matrices of one row per output channel, and scaled to the size of AdamW's (Liu et
    al., arXiv:2502.16982), so that one learning rate suits both.

    Parameters
    ----------
    network
        Its convolutions channels last, as on every device.
    config
        Of the run.

    Raises
    ------
    InputError
        For Muon, where torch is older than 2.9.
    """
    named = list(network.named_parameters())
    matrices = []
    if config.optimizer == "muon":
        inner = [p for name, p in named if p.ndim > 1 and not any(end in name for end in _ENDS)]
        matrices = [(nn.Parameter(_as_matrix(weight.detach())), weight) for weight in inner]
    taken = {id(weight) for _, weight in matrices}
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in named if p.ndim > 1 and id(p) not in taken]},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rest = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    if config.optimizer != "muon":
        return Optimizers((rest,))
    if not hasattr(torch.optim, "Muon"):
        raise InputError(f'optimizer "muon" needs torch 2.9 or later, not {torch.__version__}; set optimizer: adamw')
    if any(matrix.data_ptr() != weight.data_ptr() for matrix, weight in matrices):
        raise AssertionError("a convolution is not channels last: its matrix is a copy, and would not be trained")
    muon = torch.optim.Muon(
        [matrix for matrix, _ in matrices], weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return Optimizers((rest, muon), tuple(matrices))


def _as_matrix(weight: Tensor) -> Tensor:
    """Return a convolution's weights (outputs, inputs, ...) as (outputs, n): a view where they are channels last."""
    return weight.movedim(1, -1).flatten(1)
