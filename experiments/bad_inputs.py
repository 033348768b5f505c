"""Damage files of every format at random, and count what reading them does.

python experiments/bad_inputs.py --files 250

The whole files are those of the tests. An error is clear when it names the file and says what to do.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from samreg import read_image
from samreg.errors import InputError

TESTS = Path(__file__).resolve().parents[1] / "tests" / "spatial"
OUTCOMES = ("clear error", "unclear error", "traceback", "read, the same", "read, not finite", "read, other values")
Read = Callable[[Path], list[np.ndarray]]


def load(name: str) -> ModuleType:
    """Return a module of the tests."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcome(path: Path, read: Read, expected: list[np.ndarray]) -> str:
    """Read a damaged file, and say what came of it."""
    try:
        result = read(path)
    except InputError as error:
        return OUTCOMES[0] if str(path) in str(error) and "; " in str(error) else OUTCOMES[1]
    except Exception:  # what is counted
        logging.getLogger(__name__).exception("%s", path)
        return OUTCOMES[2]
    if len(result) == len(expected) and all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True)):
        return OUTCOMES[3]
    return OUTCOMES[5] if all(np.isfinite(part).all() for part in result) else OUTCOMES[4]


def flipped(data: bytes, first: int, random: np.random.Generator) -> bytes:
    """Flip one bit."""
    damaged = bytearray(data)
    damaged[int(random.integers(first, len(data)))] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def overwritten(data: bytes, random: np.random.Generator) -> bytes:
    """Set a few bytes of a DICOM file, and cut some files short."""
    damaged = bytearray(data)
    for _ in range(random.integers(1, 5)):
        damaged[random.integers(132, len(damaged))] = random.integers(256)
    if random.random() < 0.2:
        del damaged[random.integers(132, len(damaged)) :]
    return bytes(damaged)


def dicom_files(folder: Path) -> dict[str, bytes]:
    """Return an enhanced CT, a CT slice, and frames compressed in three ways."""
    test = load("test_io_dicom")
    values = test.hu(3, 16, 20)
    stored = test.stored_ct(values)
    frames = test.enhanced(folder / "enhanced.dcm", stored, test.ct_frames(test.HEIGHTS[:3]))
    slice_ = test.dataset(values[0].astype(np.int16), **test.axial(0), **test.RESCALED)
    paths = {"enhanced.dcm": frames, "slice.dcm": test.save(slice_, folder / "slice.dcm")}
    for coding in ("RLE", "JPEG", "JPEG2000"):
        item = test.dataset(stored, sop=test.MULTI, SpacingBetweenSlices=3.0, **test.PLACE, **test.RESCALED)
        if coding == "RLE":
            item.compress(test.RLELossless)
        else:
            test.compress_by_gdcm(item, stored, coding, folder)
        paths[f"{coding}.dcm"] = test.save(item, folder / f"{coding}.dcm")
    return {name: path.read_bytes() for name, path in paths.items()}


def voxels(path: Path) -> list[np.ndarray]:
    image = read_image(path)
    return [image.array, image.grid.corners()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100, help="damaged files of each format and kind of damage")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("samreg").setLevel(logging.ERROR)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    counts: dict[str, Counter[str]] = {"one bit": Counter(), "bytes": Counter(), "DICOM": Counter()}
    random, damage = np.random.default_rng(arguments.seed), load("test_damage")

    def count(kind: str, path: Path, whole: bytes, read: Read, change: Callable[[bytes], bytes]) -> None:
        path.write_bytes(whole)
        expected = read(path)
        for _ in range(arguments.files):
            path.write_bytes(change(whole))
            result = outcome(path, read, expected)
            counts[kind][result] += 1
            if result in OUTCOMES[1:3] or (kind == "one bit" and result in OUTCOMES[4:]):
                print(f"{kind}: {result}: {path.name}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, (write, read, first) in damage.KINDS.items():
            write(folder, file)
            whole = (folder / file).read_bytes()
            count("one bit", folder / file, whole, read, lambda data, first=first: flipped(data, first, random))
            count("bytes", folder / file, whole, read, lambda data: damage._mangled(data, random))
        for file, whole in dicom_files(folder).items():
            count("DICOM", folder / file, whole, voxels, lambda data: overwritten(data, random))
    print("| damage | tried | " + " | ".join(OUTCOMES) + " |")
    for kind, results in counts.items():
        print(f"| {kind} | {results.total()} | " + " | ".join(str(results[each]) for each in OUTCOMES) + " |")


if __name__ == "__main__":
    main()
