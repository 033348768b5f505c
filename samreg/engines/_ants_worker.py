"""The child process of :mod:`samreg.engines.ants`."""

from __future__ import annotations

import json
from pathlib import Path

from samreg.engines.child import worker_main


def main(folder: Path) -> None:
    """Run ``ants.registration`` with the images and the arguments in ``folder``."""
    import ants

    arguments = {"fixed": "fixed", "moving": "moving", "mask": "fixed_mask", "moving_mask": "moving_mask"}
    paths = {argument: folder / f"{name}.nrrd" for argument, name in arguments.items()}
    images = {argument: ants.image_read(str(path)) for argument, path in paths.items() if path.exists()}
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    job = {key: tuple(value) if key.endswith("iterations") else value for key, value in job.items()}
    result = ants.registration(**images, **job, outprefix=str(folder / "out"), verbose=True)
    # The warp comes before the affine, which is the order in which points pass them.
    files = [Path(path).name for path in result["fwdtransforms"]]
    (folder / "result.json").write_text(json.dumps(files), encoding="utf-8")


if __name__ == "__main__":
    worker_main(main)
