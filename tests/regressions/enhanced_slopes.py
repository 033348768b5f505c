"""Enhanced CT whose frames have rescale slopes of their own: the first frame's is applied to all."""

import tempfile
import numpy as np, samreg, tinydicom as t

values, folder = t.hu(), tempfile.mkdtemp()
heights = [100 + 3 * i for i in range(8)]
t.enhanced(f"{folder}/e/e.dcm", values, heights, slopes=[1, 1, 0.5, 0.5, 1, 1, 0.5, 1])
try:
    image = samreg.read_image(f"{folder}/e")
except samreg.InputError as error:
    print("refused:", error)
    raise SystemExit(0)
error = np.abs(image.array - values).max()
raise SystemExit(f"FAULT: HU wrong by up to {error}, silently" if error > 1 else 0)
