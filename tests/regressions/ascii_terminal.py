"""A terminal that is not UTF-8 (LC_ALL=C, a log file on a cluster): a name with an accent ends `samreg match` in a traceback."""

import os, subprocess, sys, tempfile
from pathlib import Path
import samreg
from samreg.phantoms.phantom import make_phantom
from samreg.spatial import io_images

folder = Path(tempfile.mkdtemp())
phantom = make_phantom(1, spacing=8.0, field_of_view=(-30, 30))
io_images.write_image(phantom.image, folder / "a.nii.gz")
x, y, z = phantom.image.grid.center
(folder / "p.csv").write_text(f"name,x,y,z\nartère é,{x},{y},{z}\n", encoding="utf-8")
done = subprocess.run([str(Path(sys.executable).with_name("samreg")), "match", "a.nii.gz", "p.csv", "a.nii.gz", "-o", "found.csv"], cwd=folder, capture_output=True, text=True,
    env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})  # fmt: skip
print(
    "exit",
    done.returncode,
    "|",
    (done.stderr.strip().splitlines() or [""])[-1][:120],
    "| file written:",
    (folder / "found.csv").exists(),
)
raise SystemExit("FAULT" if done.returncode or "Traceback" in done.stderr else 0)
