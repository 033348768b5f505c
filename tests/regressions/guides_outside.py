"""Guiding landmarks outside the image, or in the wrong frame: taken without a check, and nothing says they were missed."""

import numpy as np, samreg
from samreg.spatial import Image

ball = (np.linalg.norm(np.mgrid[-10:10, -10:10, -10:10], axis=0) < 7) * 1000.0 - 1000
image = Image.from_array(ball.astype(np.float32), spacing=6, origin=(100, 100, 100))
try:
    result = samreg.register(
        image,
        image,
        method="registration",
        engine="torch",
        landmarks=([[9000.0, 0, 0]], [[150.0, 150, 150]]),
        engine_options={"levels": [12], "iterations": [3]},
    )
except samreg.InputError as error:
    print("refused:", error)
    raise SystemExit(0)
missed = np.linalg.norm(result.transform.transform_points([[9000.0, 0, 0]]) - [[150.0, 150, 150]])
print(f"accepted; the guide is missed by {missed:.0f} mm; flags: {result.flags}")
raise SystemExit(0 if any("landmark" in flag for flag in result.flags) else "FAULT")
