"""`samreg apply` maps points that lie metres outside the image (RAS, voxel indices); the Python call refuses them."""

import subprocess, sys, tempfile
from pathlib import Path
import numpy as np, samreg
from samreg.spatial import Image

folder = Path(tempfile.mkdtemp())
ball = (np.linalg.norm(np.mgrid[-10:10, -10:10, -10:10], axis=0) < 7) * 1000 - 1000
image = Image.from_array(ball.astype(np.int16), spacing=4, origin=(-200, -300, 50))
result = samreg.register(image, image, method="registration", engine="torch", transform="affine")
result.save(folder / "out")
inside = image.grid.center
(folder / "ras.csv").write_text("name,x,y,z\na,{},{},{}\n".format(-inside[0], -inside[1], inside[2]))
try:
    result.transform_points(folder / "ras.csv", to="moving")
except samreg.InputError as error:
    print("python refuses:", str(error)[:90])
done = subprocess.run(
    [
        str(Path(sys.executable).with_name("samreg")),
        "apply",
        str(folder / "out"),
        str(folder / "ras.csv"),
        "-o",
        str(folder / "there.csv"),
        "--to",
        "moving",
    ],
    capture_output=True,
    text=True,
)
print("samreg apply: exit", done.returncode, repr(done.stderr[-150:]))
raise SystemExit(0 if done.returncode or "outside" in done.stderr else "FAULT: mapped without a word")
