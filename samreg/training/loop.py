"""The training loop: resumable, on one CPU or GPU or several by torchrun."""

from __future__ import annotations

import copy
import csv
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from samreg.embedding.checkpoint import load_checkpoint, save_checkpoint
from samreg.embedding.compact import CompactNetwork
from samreg.embedding.inference import channels_last, resolve_device
from samreg.spatial.files import atomic_path
from samreg.training.config import TrainingConfig
from samreg.training.data import Pair, load_volumes
from samreg.training.step import TrainingStep, draw_sample
from samreg.training.validate import as_model, summary, synthetic_errors

logger = logging.getLogger(__name__)

_COLUMNS = (
    "step",
    "loss",
    "local",
    "global",
    "local_accuracy",
    "global_accuracy",
    "learning_rate",
    "pairs",  # 0 one person, 1 two people, 2 one person in the shape of another
    "seconds",
)

_MOST_SKIPPED = 5  # steps in a row without a finite gradient


def train(config: TrainingConfig) -> Path:
    """Train a compact network; continue where an earlier run in the same folder stopped.

    Every step draws its randomness from the seed and its own number, so a resumed run gives the losses an
    uninterrupted one would. Started by ``torchrun``, each process takes one device and other samples.

    Parameters
    ----------
    config : TrainingConfig

    Returns
    -------
    Path
        ``weights.safetensors`` in the output folder: the averaged weights, ready for `samreg.load_model`.
        Beside it ``last.pt`` (to resume from) and ``log.csv``.

    Raises
    ------
    InputError
        When the images or the initial weights cannot be read.
    """
    rank, world, device = _place(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    pools = _pools(config, device)

    torch.manual_seed(config.seed)
    network = CompactNetwork(**config.network)
    if config.initial is not None:
        network.load_state_dict(load_checkpoint(config.initial).network.state_dict())
    network = network.to(device, memory_format=channels_last(config.ndim)).train()
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = _optimizer(network, config)
    step = _resume(output / "last.pt", network, average, optimizer, device)
    _cut_log(output / "log.csv", step)

    skipped = 0
    module: nn.Module = TrainingStep(network, config)
    if world > 1:
        module = nn.parallel.DistributedDataParallel(module)
    with _Log(output, tensorboard=config.tensorboard, active=rank == 0) as log:
        while step < config.steps:
            began = time.perf_counter()
            generator = torch.Generator().manual_seed((config.seed * 1_000_003 + step) * world + rank)
            kind = int(torch.multinomial(torch.tensor([share for _, share in pools]), 1, generator=generator))
            sample = draw_sample(pools[kind][0], config, generator)
            rate = learning_rate(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            results = module(sample)
            optimizer.zero_grad(set_to_none=True)
            results["loss"].backward()
            length = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            if torch.isfinite(length):
                optimizer.step()
                skipped = 0
            elif (skipped := skipped + 1) > _MOST_SKIPPED:
                raise FloatingPointError(f"step {step}: the gradients are not finite any more; lower learning_rate")
            else:
                logger.warning("step %d: the gradient is not finite, the step is skipped", step)
            _update_average(average, network, min(config.ema, (1 + step) / (10 + step)))
            step += 1
            log.write(
                step, {k: float(v.detach()) for k, v in results.items()},
                learning_rate=rate, pairs=kind, seconds=time.perf_counter() - began,
            )  # fmt: skip
            if rank == 0 and (step % config.save_every == 0 or step == config.steps):
                _save(output, step, network, average, optimizer, config)
            if rank == 0 and config.validate_every and step % config.validate_every == 0:
                some = [pair.fixed for pair in pools[0][0][:2]]
                errors = synthetic_errors(as_model(average, config), some, views=config.views)
                logger.info("step %d: synthetic matching, mean / median / 95 %%: %s", step, summary(errors))
    if world > 1:
        dist.destroy_process_group()
    return output / "weights.safetensors"


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    progress = min(1.0, step / config.steps)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _place(config: TrainingConfig) -> tuple[int, int, torch.device]:
    """Rank, number of processes and device of this process."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = resolve_device(config.device)
    if world == 1:
        return 0, 1, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), world, device


def _pools(config: TrainingConfig, device: torch.device) -> list[tuple[list[Pair], float]]:
    """What samples are drawn from, and how often: one person, two people, one person in the shape of another."""
    volumes = load_volumes(config, device)
    own = [Pair(volume, volume) for volume in volumes]
    if config.cross_subject is None:
        return [(own, 1.0)]
    from samreg.training.cross_subject import load_pairs, reshaped

    crossed = load_pairs(config.cross_subject, volumes)
    deformed = [reshaped(pair) for pair in crossed] if config.reshaped_fraction > 0 else []
    shares = (1 - config.cross_fraction - config.reshaped_fraction, config.cross_fraction, config.reshaped_fraction)
    return list(zip((own, crossed, deformed), shares, strict=True))


def _optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW without decay on biases and norms."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in network.parameters()], 1 - decay)


def _save(
    output: Path, step: int, network: nn.Module, average: nn.Module, optimizer: Any, config: TrainingConfig
) -> None:
    state = {
        "step": step,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_path(output / "last.pt") as temporary:
        torch.save(state, temporary)
    export(average, output / "weights.safetensors", name=output.name, config=config)


def export(
    network: nn.Module,
    path: Path,
    *,
    name: str,
    config: TrainingConfig,
    calibration: dict[str, float] | None = None,
) -> None:
    """Write weights in half precision, as they are shipped."""
    half = copy.deepcopy(network).half()
    save_checkpoint(
        path, half, architecture="compact", name=name, config=config.network,
        preprocessing=config.kind.preprocessing, calibration=calibration,
    )  # fmt: skip


def _resume(path: Path, network: nn.Module, average: nn.Module, optimizer: Any, device: torch.device) -> int:
    """Load an earlier state, if there is one; returns its step."""
    if not path.is_file():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    logger.info("resuming from step %d of %s", state["step"], path)
    return state["step"]


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines after `step`, which will be written again."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
    path.write_text("".join(lines[:1] + kept), encoding="utf-8")


class _Log:
    """CSV file, progress on the logger, and TensorBoard where asked for."""

    def __init__(self, output: Path, *, tensorboard: bool, active: bool) -> None:
        self.active = active
        self.writer = None
        if not active:
            return
        path = output / "log.csv"
        new = not path.is_file()
        self.file = path.open("a", newline="", encoding="utf-8")
        self.csv = csv.DictWriter(self.file, _COLUMNS)
        if new:
            self.csv.writeheader()
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(output / "tensorboard"))

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.active:
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def write(self, step: int, results: dict[str, float], **more: float) -> None:
        if not self.active:
            return
        row = {"step": step, **results, **more}
        self.csv.writerow({key: value if key in ("step", "pairs") else f"{value:.5g}" for key, value in row.items()})
        self.file.flush()
        if self.writer is not None:
            for key, value in row.items():
                self.writer.add_scalar(key, value, step)
        if step % 20 == 0:
            logger.info("step %d: %s", step, " ".join(f"{k} {v:.3f}" for k, v in results.items()))
