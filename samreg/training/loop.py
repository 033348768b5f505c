"""The training loop: resumable, on one CPU or GPU or several by torchrun."""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from samreg.device import resolve_device
from samreg.embedding.checkpoint import load_checkpoint, save_checkpoint
from samreg.embedding.compact import CompactNetwork
from samreg.embedding.inference import on_device
from samreg.errors import InputError, MissingExtraError
from samreg.spatial.files import atomic_path, claimed_folder, reading
from samreg.training.config import TrainingConfig
from samreg.training.data import Pair, Volume, load_volumes
from samreg.training.optimizer import Optimizers, optimizers_for
from samreg.training.prepared import file_digest, is_prepared
from samreg.training.step import TrainingStep, draw_sample

logger = logging.getLogger(__name__)

_COLUMNS = (
    "step",
    "loss",
    "local",
    "global",
    "local_accuracy",
    "global_accuracy",
    "learning_rate",
    "pairs",  # 0 one person, 1 two people, 2 one person in the shape of another, 3 two people by landmarks
    "seconds",
)

_MOST_RESHAPED = 40  # volumes of some 40 MB each
_MOST_NAMED = 3  # volumes, in a message
_MOST_SKIPPED = 5  # steps in a row without a finite gradient
# settings that may change when a run goes on
_FREE = {"output", "steps", "threads", "device", "save_every", "validate_every", "tensorboard"}


def train(config: TrainingConfig) -> Path:
    """Train a compact network; continue where an earlier run in the same folder stopped.

    Every step draws its randomness from the seed and its own number, so a resumed run gives the losses an
    uninterrupted one would. Started by ``torchrun``, each process takes one device and other samples.

    Parameters
    ----------
    config
        The run.

    Returns
    -------
    Path
        ``weights.safetensors`` in the output folder: the averaged weights, ready for ``samreg.load_model``.
        Beside it ``last.pt`` (to resume from) and ``log.csv``.

    Raises
    ------
    InputError
        When the images or the initial weights cannot be read, the output folder cannot be written or another run writes
        to it, an earlier run in it had other settings, or the gradients are not finite any more.
    """
    before = torch.get_num_threads()
    try:
        if config.threads:
            torch.set_num_threads(config.threads)
        return _trained(config)
    finally:
        torch.set_num_threads(before)


def _trained(config: TrainingConfig) -> Path:
    """Train as :func:`train` says, on the threads that torch has."""
    rank, world, device = _place(config)
    with claimed_folder(config.output) if rank == 0 else nullcontext():
        return _trained_in(Path(config.output), config, rank, world, device)


def _trained_in(output: Path, config: TrainingConfig, rank: int, world: int, device: torch.device) -> Path:
    """Train in the output folder, as one of the processes."""
    pools = _pools(config, device)
    settings = {**_settings(config), "volumes": sorted(pair.fixed.name for pair in pools[0][0])}

    torch.manual_seed(config.seed)
    network = CompactNetwork(**config.network)
    if config.initial is not None:
        with reading(config.initial, "give weights of a network with the same settings"):
            network.load_state_dict(load_checkpoint(config.initial).network.state_dict())
    network = on_device(network, device, config.ndim).train()
    average = AveragedModel(network, avg_fn=_moving_average(config.ema)).requires_grad_(False)
    optimizers = optimizers_for(network, config)
    step = _resume(output / "last.pt", network, average, optimizers, device, settings)
    if rank == 0:
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
            results = module(sample)
            network.zero_grad(set_to_none=True)
            results["loss"].backward()
            length = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            rate = learning_rate(step, config)
            if torch.isfinite(length):
                optimizers.step(rate)
                skipped = 0
            elif (skipped := skipped + 1) > _MOST_SKIPPED:
                raise InputError(f"step {step}: the gradients are not finite any more; lower learning_rate")
            else:
                logger.warning("step %d: the gradient is not finite, the step is skipped", step)
            average.update_parameters(network)
            step += 1
            log.write(
                step, {k: float(v.detach()) for k, v in results.items()},
                learning_rate=rate, pairs=kind, seconds=time.perf_counter() - began,
            )  # fmt: skip
            if rank == 0 and (step % config.save_every == 0 or step == config.steps):
                _save(output, step, network, average, optimizers, config, settings)
                told = step, config.steps, float(results["loss"].detach()), time.perf_counter() - began
                logger.info("step %d of %d: loss %.3f, %.2f s a step", *told)
            if rank == 0 and config.validate_every and step % config.validate_every == 0:
                _validate(step, _network(average), [pair.fixed for pair in pools[0][0][:2]], config)
    if world > 1:
        dist.destroy_process_group()
    return output / "weights.safetensors"


def _validate(step: int, network: CompactNetwork, volumes: list[Volume], config: TrainingConfig) -> None:
    from samreg.training.validate import as_model, summary, synthetic_errors

    errors = synthetic_errors(as_model(network, config), volumes, views=config.views)
    logger.info("step %d: synthetic matching, mean / median / 95 %%: %s", step, summary(errors))


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    progress = min(1.0, step / config.steps)
    return config.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _place(config: TrainingConfig) -> tuple[int, int, torch.device]:
    """Rank, number of processes and device of this process; several processes may share a GPU."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = resolve_device(config.device)
    if world == 1:
        return 0, 1, device
    backend = "gloo"
    if device.type == "cuda":
        count = torch.cuda.device_count()
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % count)
        torch.cuda.set_device(device)
        if int(os.environ["LOCAL_WORLD_SIZE"]) <= count:  # NCCL refuses two processes on one GPU
            backend = "nccl"
    dist.init_process_group(backend)
    return dist.get_rank(), world, device


def _pools(config: TrainingConfig, device: torch.device) -> list[tuple[list[Pair], float]]:
    """What samples are drawn from, and how often, in the order of the log's column ``pairs``."""
    from samreg.training.cross_subject import load_pairs, reshaped
    from samreg.training.landmark_pairs import landmark_pairs, read_landmarks, with_shoulders

    volumes = load_volumes(config, device)
    crossed: list[Pair] = []
    marked: list[Pair] = []
    if config.landmarks is not None:
        landmarks = read_landmarks(config.landmarks, leave_out=config.left_out_landmarks)
        volumes = [with_shoulders(volume, landmarks.get(volume.name)) for volume in volumes]
        marked = landmark_pairs(volumes, landmarks, slack=(config.landmark_slack, config.landmark_doubt))
    if config.cross_subject is not None:
        crossed = load_pairs(config.cross_subject, volumes, slack=(config.cross_slack, config.cross_doubt))
    deformed = [reshaped(pair) for pair in _some(crossed or marked)] if config.reshaped_fraction > 0 else []
    pools = {
        "cross": (crossed, config.cross_fraction),
        "reshaped": (deformed, config.reshaped_fraction),
        "landmarks": (marked, config.landmark_fraction),
    }
    used = {kind: share if pairs else 0.0 for kind, (pairs, share) in pools.items()}
    own = [Pair(volume, volume) for volume in volumes]
    return [(own, 1 - sum(used.values())), *((pools[kind][0], share) for kind, share in used.items())]


def _some(pairs: list[Pair]) -> list[Pair]:
    """Evenly chosen pairs, as many deformed volumes as are kept in memory."""
    return pairs[:: -(-len(pairs) // _MOST_RESHAPED) or 1]


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential moving average that forgets the first, untrained weights faster."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        return torch.lerp(averaged, current, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return average


def _network(average: AveragedModel) -> CompactNetwork:
    assert isinstance(average.module, CompactNetwork)
    return average.module


def _save(
    output: Path,
    step: int,
    network: nn.Module,
    average: AveragedModel,
    optimizers: Optimizers,
    config: TrainingConfig,
    settings: dict[str, Any],
) -> None:
    # last.pt comes last: a run that it says is finished has its weights
    export(_network(average), output / "weights.safetensors", name=output.name, config=config)
    state = {
        "step": step,
        "settings": settings,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizers": optimizers.state_dict(),
    }
    with atomic_path(output / "last.pt") as temporary:
        torch.save(state, temporary)


def export(
    network: CompactNetwork,
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


def _settings(config: TrainingConfig) -> dict[str, Any]:
    """What must stay the same when a run goes on, as JSON values."""
    values = asdict(config)
    values |= {f"views.{key}": value for key, value in values.pop("views").items()}
    for key in ("images", "cross_subject", "landmarks", "initial"):
        if path := values[key]:  # a prepared file may lie elsewhere on the next machine
            values[key] = f"prepared {file_digest(path)}" if is_prepared(path) else os.path.realpath(path)
    settings: dict[str, Any] = json.loads(json.dumps({key: values[key] for key in values if key not in _FREE}))
    return settings


def _resume(
    path: Path,
    network: nn.Module,
    average: nn.Module,
    optimizers: Optimizers,
    device: torch.device,
    settings: dict[str, Any],
) -> int:
    """Load an earlier state, if there is one that had the same settings and volumes; returns its step."""
    if not path.is_file():
        return 0
    remedy = "give another output folder, or take back the change"
    with reading(path, remedy):
        state = torch.load(path, map_location=device, weights_only=True)
        then = state.get("settings", {})  # older states hold none
        if changed := [key for key in then if key in settings and then[key] != settings[key]]:
            told = "; ".join(_change(key, then[key], settings[key]) for key in changed)
            raise InputError(f"{path}: an earlier run had other settings ({told}); {remedy}")
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        # earlier versions had one
        optimizers.load_state_dict(state["optimizers"] if "optimizers" in state else [state["optimizer"]])
    logger.info("resuming from step %d of %s", state["step"], path)
    return int(state["step"])


def _change(key: str, then: Any, now: Any) -> str:
    if key != "volumes":
        return f"{key} was {then!r}, is {now!r}"
    gone, new = (sorted({*a} - {*b})[:_MOST_NAMED] for a, b in ((then, now), (now, then)))
    return f"{len(then)} volumes were read, now {len(now)}; gone: {', '.join(gone)}; new: {', '.join(new)}"


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines after ``step``, which will be written again."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",", 1)[0]) <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines[:1] + kept), encoding="utf-8")


class _Log:
    """CSV file, progress on the logger, and TensorBoard where asked for."""

    def __init__(self, output: Path, *, tensorboard: bool, active: bool) -> None:
        self.active = active
        self.writer = None
        if not active:
            return
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError(
                    "tensorboard: true needs the package tensorboard; pip install tensorboard, or leave it out"
                ) from error
            self.writer = SummaryWriter(str(output / "tensorboard"))
        self.file = (output / "log.csv").open("a", newline="", encoding="utf-8")
        self.csv = csv.DictWriter(self.file, _COLUMNS)
        if self.file.tell() == 0:
            self.csv.writeheader()

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
