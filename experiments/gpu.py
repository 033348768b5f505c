"""Registration on a GPU against the CPU of the same machine: seconds, mm between the results, memory.

python experiments/gpu.py prepare FIXED MOVING --out scans.npz
python experiments/gpu.py run --scans scans.npz --device cuda --out results

``prepare`` makes, where images can be read, the small file that ``run`` takes to another machine. ``run`` prints a
table, row by row, and writes it to gpu.md and gpu.json; each step is a process of its own, and one that fails leaves
its traceback in gpu.log and stops no other. experiments/gpu.sh does this on a bare machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import samreg
from samreg.embedding import Embedding, load_model
from samreg.engines import Request, get_engine
from samreg.matching import Calibration, features, lattice, match_points
from samreg.phantoms import phantom_pair
from samreg.registration import PairOutcome
from samreg.seeding import global_affine, make_seed
from samreg.spatial import Grid, Image, Transform, resample, resample_spacing

REPOSITORY = Path(__file__).resolve().parents[1]
DEVICE_TESTS = ("tests/test_devices.py", "tests/test_device.py")
SPACING_MM = 2.0
SHAPE = (208, 192, 192)  # (z, y, x) at 2 mm: what "default" is measured on
AIM_S = 1.0  # for "default" on that shape
ROWS, TABLE, LOG = "rows.jsonl", "gpu.md", "gpu.log"
AIR_HU = -1024
QUICK_SPACING_MM, QUICK_SIZE = 8.0, 14
# what an H100 does at most: products of bfloat16 a second, bytes a second, seconds to start a kernel
PEAK_FLOPS, PEAK_BYTES, LAUNCH_S = 9.9e14, 3.0e12, 4e-6
HEADER = ("step", "what", "CPU s", "device s", "again s", "CPU to device, mm: median / 95 % / most", "peak GPU MB")


@dataclass(frozen=True)
class Row:
    """A line of the table; None where there is nothing to tell."""

    step: str
    what: str
    cpu_s: float | None = None
    device_s: float | None = None
    again_s: float | None = None
    distance: str = ""
    peak_mb: float | None = None

    def cells(self) -> list[str]:
        seconds = ["" if s is None else f"{s:.3g}" for s in (self.cpu_s, self.device_s, self.again_s)]
        return [self.step, self.what, *seconds, self.distance, "" if self.peak_mb is None else f"{self.peak_mb:.0f}"]


@dataclass(frozen=True)
class Setting:
    """What every step is told."""

    device: str
    out: Path
    scans: Path | None
    quick: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def chests(self) -> tuple[Image, Image]:
        """The two scans; phantoms where there is no file of them, and in a quick run."""
        if self.quick or self.scans is None:
            return self.phantoms(SPACING_MM)
        with np.load(self.scans) as file:
            fixed, moving = (
                Image.from_array(
                    file[f"{name}_array"], spacing=file[f"{name}_spacing"], origin=file[f"{name}_origin"],
                    direction=file[f"{name}_direction"], name=name,
                )
                for name in ("fixed", "moving")
            )  # fmt: skip
        return fixed, moving

    def phantoms(self, spacing: float) -> tuple[Image, Image]:
        """Return two phantoms; in a quick run a small ball of mottled tissue, and the same moved."""
        if not self.quick:
            pair = phantom_pair(1, 2, spacing=spacing)
            return pair.fixed.image, pair.moving.image
        from scipy.ndimage import gaussian_filter

        mottled = 400 * gaussian_filter(np.random.default_rng(0).normal(0, 3, [QUICK_SIZE] * 3), 1.0)
        offset = np.stack(np.meshgrid(*[np.arange(QUICK_SIZE) - QUICK_SIZE / 2] * 3, indexing="ij"))
        array = np.where(np.linalg.norm(offset, axis=0) < 0.45 * QUICK_SIZE, mottled, AIR_HU).astype(np.int16)
        fixed = Image.from_array(array, spacing=QUICK_SPACING_MM, name="fixed")
        return fixed, Image.from_array(array, spacing=QUICK_SPACING_MM, origin=(6.0, 0.0, 0.0), name="moving")

    def measured(self, work: Callable[[], Any], *, again: int = 1) -> Measured:
        """Do work on the device, and ``again`` so many times, when nothing needs to warm up any more."""
        seconds, peaks = [], []
        for _ in range(1 + (0 if self.quick else again)):
            if self.on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            result = work()
            if self.on_gpu:
                torch.cuda.synchronize()
                peaks.append(torch.cuda.max_memory_allocated() / 2**20)
            seconds.append(time.perf_counter() - start)
        return Measured(result, seconds[0], min(seconds[1:], default=None), max(peaks, default=None))


@dataclass(frozen=True)
class Measured:
    """What work gave, its seconds at first and then, and the peak memory of this process on the GPU."""

    result: Any
    first_s: float
    again_s: float | None
    peak_mb: float | None


# ---------------------------------------------------------------------------------------------------------------- steps


def step_tests(setting: Setting) -> Iterator[Row]:
    """The tests that are parametrised over devices, in pytest."""
    choice = ["-k", "detector"] if setting.quick else []
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore", *choice]
    files = [file for file in DEVICE_TESTS if (REPOSITORY / file).exists()]
    start = time.perf_counter()
    done = subprocess.run([*command, *files], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    print(done.stdout, done.stderr, file=sys.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    yield Row("tests", (done.stdout.strip().splitlines() or ["pytest said nothing"])[-1].strip("= "), None, seconds)
    yield from (Row("tests", line[:200]) for line in lines)


def step_phantom(setting: Setting) -> Iterator[Row]:
    """Each stage of a registration of two phantoms."""
    yield from stages("phantom", *setting.phantoms(3.0), setting)


def step_chests(setting: Setting) -> Iterator[Row]:
    """Each stage of a registration of two people's chests."""
    yield from stages("chests", *setting.chests, setting)


def stages(name: str, fixed: Image, moving: Image, setting: Setting) -> Iterator[Row]:
    """Yield a row a stage: the same inputs on the CPU and, twice, on the device."""
    model = load_model("ct-small")
    points = fixed_points(fixed)

    def compared(what: str, work: Callable[[str], Any], distance: Callable[[Any, Any], str]) -> tuple[Any, Row]:
        start = time.perf_counter()
        expected = work("cpu")
        cpu_s = time.perf_counter() - start
        on_device = setting.measured(lambda: work(setting.device))
        apart = distance(expected, on_device.result)
        return expected, Row(name, what, cpu_s, on_device.first_s, on_device.again_s, apart, on_device.peak_mb)

    def embedded(device: str) -> tuple[Embedding, Embedding]:
        first, second = (model.embed(image, device=device) for image in (fixed, moving))
        return first, second

    def matched(device: str) -> Any:
        f, m = (features(embedding, device=device) for embedding in embeddings)
        return global_affine(f, m, calibration=Calibration.from_mapping(embeddings[0].calibration))[1]

    def seeded(device: str) -> Transform:
        return needed(make_seed(*embeddings, grid=fixed.grid, device=device))

    def optimised(device: str) -> Transform:
        request = Request(
            fixed=fixed, moving=moving, start=seed, embeddings=embeddings, spacing=SPACING_MM, device=device
        )
        return get_engine("torch").register(request.resampled()).transform

    def registered(device: str, **options: Any) -> Transform:
        return needed(samreg.register(fixed, moving, device=device, **options))

    def apart(expected: Transform, result: Transform) -> str:
        return summary(np.linalg.norm(expected.transform_points(points) - result.transform_points(points), axis=1))

    embeddings, row = compared(f"two embeddings, {sizes(fixed, moving)}", embedded, cosines)
    yield row
    matches, row = compared("matching of a lattice, both ways", matched, lambda a, b: summary(distances(a, b)))
    yield replace(row, what=f"{row.what}, {len(matches)} points")
    seed, row = compared("seed: matching and field fit", seeded, apart)
    yield row
    yield compared("torch engine, default", optimised, apart)[1]
    yield compared("register, embedding", lambda device: registered(device, method="embedding"), apart)[1]
    yield compared("register, hybrid", lambda device: registered(device, engine="torch"), apart)[1]


def step_default(setting: Setting) -> Iterator[Row]:
    """Registration with the defaults on 192 x 192 x 208, by stages, against the arithmetic floor."""
    fixed, moving = (padded(image, SHAPE) for image in setting.chests) if not setting.quick else setting.chests
    what = f"default, {sizes(fixed, moving)}"

    def registered() -> samreg.RegistrationResult:
        result = samreg.register(fixed, moving, engine="torch", device=setting.device)
        needed(result)
        return result

    run = setting.measured(registered, again=2)
    yield Row("default", f"{what}; aim {AIM_S:g} s", None, run.first_s, run.again_s, "", run.peak_mb)
    yield from (Row("default", f"of which {stage}", again_s=s) for stage, s in run.result.timings.items())
    with Work() as work:
        registered()
    floor = work.flops / PEAK_FLOPS + work.bytes / PEAK_BYTES
    yield Row(
        "default",
        f"floor of an H100: {work.flops / 1e12:.3g} Tflop, {work.bytes / 1e9:.3g} GB, {work.kernels} kernels",
        None, floor, floor + work.kernels * LAUNCH_S, "again: with the start of each kernel",
    )  # fmt: skip


def step_points(setting: Setting) -> Iterator[Row]:
    """Matching of many points, everywhere in the body and back."""
    model = load_model("ct-small")
    embeddings = [model.embed(image, device=setting.device) for image in setting.chests]
    counts = (100,) if setting.quick else (10_000, 100_000)
    body = features(embeddings[0])
    every = lattice(body, 4.0 * body.scale)
    rng = np.random.default_rng(0)
    for count in counts:
        points = every[rng.integers(len(every), size=count)] + rng.uniform(-2, 2, (count, 3))

        def matched(device: str, points: Any = points) -> Any:
            f, m = (features(embedding, device=device) for embedding in embeddings)
            return match_points(f, points, m, coarse=True)

        what, cpu_s, apart = f"{count:,} points, everywhere and back", None, ""
        run = setting.measured(lambda: matched(setting.device))
        if count == counts[0]:
            start = time.perf_counter()
            expected = matched("cpu")
            cpu_s, apart = time.perf_counter() - start, summary(distances(expected, run.result))
        yield Row("points", what, cpu_s, run.first_s, run.again_s, apart, run.peak_mb)


def step_batch(setting: Setting) -> Iterator[Row]:
    """Eight pairs on one device: one after the other, and several processes that share it."""
    count = 1 if setting.quick else 8
    rng = np.random.default_rng(0)

    def noisy(image: Image, number: int) -> Image:  # images of their own, so that none is embedded once for several
        noise = rng.integers(-5, 6, image.shape, dtype=np.int16)
        return Image((image.array + noise).astype(np.int16), image.grid, f"{image.name}{number}")

    pairs = [tuple(noisy(image, number) for image in setting.chests) for number in range(count)]

    def one_by_one() -> None:
        for fixed, moving in pairs:
            needed(samreg.register(fixed, moving, engine="torch", device=setting.device))

    with Watch(setting) as watch:
        run = setting.measured(one_by_one, again=0)
    yield Row("batch", f"{count} pairs in memory, one after the other", device_s=run.first_s, peak_mb=watch.peak_mb)
    with tempfile.TemporaryDirectory() as folder:
        for number, pair in enumerate(pairs):
            for side, image in zip(("fixed", "moving"), pair, strict=True):
                samreg.write_image(image, Path(folder, f"{side}{number}.nii"))
        lines = [f"fixed{number}.nii,moving{number}.nii" for number in range(count)]
        Path(folder, "pairs.csv").write_text("\n".join(["fixed,moving", *lines]) + "\n", encoding="utf-8")
        for jobs in (1,) if setting.quick else (1, 4, 8):

            def many(jobs: int = jobs) -> list[PairOutcome]:
                out = Path(folder, f"out{jobs}")
                return samreg.register_many(
                    Path(folder, "pairs.csv"), out, jobs=jobs, device=setting.device, engine="torch"
                )

            with Watch(setting) as watch:
                run = setting.measured(many, again=0)
            for outcome in run.result:
                if not outcome:
                    raise RuntimeError(f"{outcome.name}: {outcome.status}, {outcome.reason}")
            what = f"{count} pairs by register_many, files and reports included, jobs={jobs}"
            yield Row("batch", what, device_s=run.first_s, peak_mb=watch.peak_mb)


# each with the seconds after which it is stopped
STEPS: dict[str, tuple[Callable[[Setting], Iterator[Row]], int]] = {
    "chests": (step_chests, 100),
    "default": (step_default, 50),
    "tests": (step_tests, 75),
    "phantom": (step_phantom, 60),
    "points": (step_points, 50),
    "batch": (step_batch, 150),
}

# ------------------------------------------------------------------------------------------------------------- measures


class Work(TorchDispatchMode):
    """Counts what eager torch does: operations, bytes read and written, and kernels, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.kernels = 0, 0

    @property
    def flops(self) -> int:
        return int(self._counter.get_total_flops())

    def __enter__(self) -> Any:
        from torch.utils.flop_counter import FlopCounterMode

        self._counter = FlopCounterMode(display=False)
        self._counter.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._counter.__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.kernels += 1
            tensors = [*flat(args), *flat(result)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def flat(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from flat(part)


@dataclass
class Watch:
    """Looks, within its block, how much memory of the GPU is taken, by whatever process."""

    setting: Setting
    peak_mb: float | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while self.setting.on_gpu and not self._ended.wait(0.05):
            free, total = torch.cuda.mem_get_info()
            self.peak_mb = max(self.peak_mb or 0.0, (total - free) / 2**20)


def needed(outcome: Any) -> Transform:
    """Return the transform of a seed or a result, or say why there is none."""
    if not outcome:
        raise RuntimeError(outcome.reason)
    return outcome.transform


def fixed_points(image: Image) -> np.ndarray:
    """Return points (N, 3) all over the body, LPS mm."""
    points = image.grid.world_points()[image.array > -500]
    return points[:: max(1, len(points) // 4000)]


def distances(expected: Any, result: Any) -> np.ndarray:
    """Return how far apart the same points are matched, mm."""
    return np.linalg.norm(expected.moving - result.moving, axis=1)


def summary(values: np.ndarray) -> str:
    return f"{np.median(values):.3g} / {np.percentile(values, 95):.3g} / {values.max():.3g}"


def cosines(expected: Sequence[Embedding], result: Sequence[Embedding]) -> str:
    """Return how far the vectors are apart: one minus their dot product."""
    apart = [
        1 - (a.local.float().cpu() * b.local.float().cpu()).sum(dim=0)[torch.from_numpy(a.body)]
        for a, b in zip(expected, result, strict=True)
    ]
    return "1 - cos: " + summary(torch.cat(apart).numpy())


def sizes(*images: Image) -> str:
    return " and ".join("x".join(map(str, image.grid.size)) for image in images)


def padded(image: Image, shape: tuple[int, ...]) -> Image:
    """Return the image in a box of so many of its voxels, cut off or with air around it."""
    first = image.grid.index_to_world((np.array(image.grid.size) - shape[::-1])[None] // 2)[0]
    grid = Grid.make(shape, origin=first, spacing=image.spacing, direction=image.direction)
    return Image(resample(image, grid, fill=AIR_HU).array.astype(np.int16), grid, image.name)


# ------------------------------------------------------------------------------------------------------------- commands


def prepare(fixed: str, moving: str, out: Path) -> None:
    """Write two scans at 2 mm, cut to at most 192 x 192 x 208 voxels around the body."""
    arrays = {}
    for name, path in (("fixed", fixed), ("moving", moving)):
        image = resample_spacing(samreg.read_image(path), SPACING_MM)
        body = np.argwhere(image.array > -300)
        middle = (np.percentile(body, 2, axis=0) + np.percentile(body, 98, axis=0)) / 2
        first = np.clip(np.round(middle - np.array(SHAPE) / 2), 0, np.maximum(np.array(image.shape) - SHAPE, 0)).astype(
            int
        )
        part = image.array[tuple(slice(a, a + n) for a, n in zip(first, SHAPE, strict=True))]
        arrays[f"{name}_array"] = np.clip(np.round(part), AIR_HU, 2000).astype(np.int16)
        arrays[f"{name}_origin"] = image.grid.index_to_world(first[::-1][None])[0]
        arrays[f"{name}_spacing"], arrays[f"{name}_direction"] = image.spacing, image.direction
        print(f"{name}: {part.shape[::-1]} voxels of {SPACING_MM:g} mm")
    np.savez_compressed(out, **arrays)
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MB")


def run(setting: Setting, chosen: Sequence[str], limit_s: float, *, in_process: bool) -> None:
    """Do the steps and write the table."""
    setting.out.mkdir(parents=True, exist_ok=True)
    rows_file = setting.out / ROWS
    rows_file.write_text("", encoding="utf-8")
    (setting.out / LOG).write_text("", encoding="utf-8")
    machine = environment(setting)
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    print(line(HEADER) + "\n" + line(["---"] * len(HEADER)), flush=True)
    end = time.monotonic() + limit_s
    for name in chosen:
        start = time.monotonic()
        seconds = min(STEPS[name][1], end - start)
        if seconds < 5:
            record(setting, Row(name, "left out: the time is up"))
        elif in_process:
            do_step(name, setting)
        else:
            do_step_apart(name, setting, seconds)
        print(f"({name}: {time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
    rows = [json.loads(text) for text in rows_file.read_text(encoding="utf-8").splitlines()]
    rows_file.unlink()
    (setting.out / "gpu.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), encoding="utf-8")
    table = [line(HEADER), line(["---"] * len(HEADER)), *(line(Row(**row).cells()) for row in rows)]
    about = [f"* {name}: {value}" for name, value in machine.items()]
    (setting.out / TABLE).write_text("\n".join([*about, "", *table]) + "\n", encoding="utf-8")


def do_step(name: str, setting: Setting) -> None:
    """Do one step here; a failure is a row, and its traceback goes to the log."""
    try:
        for row in STEPS[name][0](setting):
            record(setting, row)
    except Exception as error:
        with (setting.out / LOG).open("a", encoding="utf-8") as log:
            log.write(f"\n--- {name}\n{traceback.format_exc()}")
        record(setting, Row(name, f"FAILED: {type(error).__name__}: {' '.join(str(error).split())}"[:200]))


def do_step_apart(name: str, setting: Setting, limit_s: float) -> None:
    """Do one step in a process of its own, which cannot spoil the next one's GPU, nor take its time."""
    command = [sys.executable, __file__, "step", name, "--device", setting.device, "--out", str(setting.out)]
    command += ["--scans", str(setting.scans)] if setting.scans else []
    command += ["--quick"] if setting.quick else []
    with (setting.out / LOG).open("a", encoding="utf-8") as log:
        log.write(f"\n=== {name}\n")
        log.flush()
        try:
            done = subprocess.run(command, stderr=log, check=False, timeout=limit_s)
        except subprocess.TimeoutExpired:
            record(setting, Row(name, f"FAILED: stopped after {limit_s:.0f} s"))
            return
    if done.returncode:
        record(setting, Row(name, f"FAILED: its process ended with {done.returncode}"))


def record(setting: Setting, row: Row) -> None:
    print(line(row.cells()), flush=True)
    with (setting.out / ROWS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def environment(setting: Setting) -> dict[str, str]:
    gpu = torch.cuda.get_device_name(setting.device) if setting.on_gpu else "none"
    return {
        "GPU": gpu,
        "CPU": f"{os.cpu_count()} processors, {torch.get_num_threads()} threads",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "python": platform.python_version(),
        "scans": "phantoms" if setting.scans is None or setting.quick else sizes(*setting.chests),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("prepare", help="write two scans into a small file")
    making.add_argument("fixed")
    making.add_argument("moving")
    making.add_argument("--out", type=Path, default=Path("scans.npz"))
    running = commands.add_parser("run", help="measure, and write the table")
    running.add_argument("--steps", nargs="+", choices=STEPS, default=[*STEPS])
    running.add_argument("--limit", type=float, default=345.0, help="seconds for all steps")
    running.add_argument("--in-process", action="store_true", help="no process for each step")
    stepping = commands.add_parser("step", help="one step of a run")
    stepping.add_argument("name", choices=STEPS)
    for command in (running, stepping):
        command.add_argument("--scans", type=Path, help="made by prepare; phantoms unless given")
        command.add_argument("--device", default="cuda")
        command.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-results")))
        command.add_argument("--quick", action="store_true", help="small phantoms, to try the program")
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(arguments.fixed, arguments.moving, arguments.out)
        return
    setting = Setting(arguments.device, arguments.out, arguments.scans, arguments.quick)
    if arguments.command == "step":
        do_step(arguments.name, setting)
    else:
        run(setting, arguments.steps, arguments.limit, in_process=arguments.in_process)


if __name__ == "__main__":
    main()
