"""A patient rolled on the side (60 to 80 degrees): the same patient is called mirrored, and the advice is to flip the array."""

import os
from pathlib import Path
import numpy as np, samreg
from samreg.spatial import Grid, Image
from samreg.spatial.resample import resample_spacing
from scipy.spatial.transform import Rotation

data = Path(os.environ.get("SAMREG_DATA", "../shared/data"))
whole = resample_spacing(samreg.read_image(data / "ct/benchmark/images/ITKELX-00.nii.gz"), 4.0)
low, high = np.rint(whole.grid.world_to_index([[0, 0, -75], [0, 0, 75]])[:, 2]).astype(int)  # the upper chest is enough
grid = Grid((high - low, *whole.shape[1:]), whole.grid.index_to_world([0, 0, low])[0], whole.spacing, whole.direction)
fixed = Image(whole.array[low:high], grid, whole.name)
bad = []
for angle in (70, 80):
    turn = Rotation.from_euler("z", angle, degrees=True).as_matrix()
    rolled = Image(fixed.array, Grid(fixed.shape, turn @ fixed.origin, fixed.spacing, turn @ fixed.direction), "rolled")
    result = samreg.register(fixed, rolled, method="embedding", transform="affine")
    if result:
        at = fixed.grid.center[None] + np.array([[40.0, 0, 0], [-40, 20, 30], [0, -30, -40]])
        print(
            angle,
            f"registered, off by {np.linalg.norm(result.transform.transform_points(at) - at @ turn.T, axis=1).max():.1f} mm",
            result.flags,
        )
    else:
        print(angle, "refused:", result.reason)
        bad += [angle] if "mirror" in result.reason else []
raise SystemExit(f"FAULT: a rotation is called a mirror image at {bad} degrees" if bad else 0)
