"""One slice registered to a volume by ANTs or elastix: it runs, and then neither its flags nor saving it work."""

import tempfile
import numpy as np, samreg
from samreg.spatial import Grid, Image

body = np.linalg.norm(np.mgrid[-20:20, -20:20, -20:20] * np.array([1, 1.3, 1.0]).reshape(3, 1, 1, 1), axis=0)
volume = Image.from_array(np.where(body < 15, 40 + 20 * np.sin(body), -1000).astype(np.float32), spacing=4)
one = Image(
    volume.array[20:21], Grid((1, 40, 40), volume.origin + [0, 0, 80], volume.spacing, volume.direction), "one slice"
)
try:
    result = samreg.register(one, volume, method="registration", engine="ants", transform="rigid")
except samreg.SamregError as error:
    print("refused before the work:", error)
    raise SystemExit(0)
try:
    result.save(tempfile.mkdtemp())
    print("saved", result.flags)
except samreg.SamregError as error:
    raise SystemExit(f"FAULT: registered, but cannot be saved: {error}")
