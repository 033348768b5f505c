"""A dictionary without a spacing: 1 mm, although as_image() says that it refuses arrays that come without."""

import numpy as np, samreg

try:
    image = samreg.as_image({"array": np.zeros((40, 50, 60), np.int16), "affine": np.diag([0.8, 0.8, 5, 1])})
except samreg.InputError as error:
    print("refused:", error)
    raise SystemExit(0)
raise SystemExit(f"FAULT: spacing {image.spacing.tolist()} assumed, the key 'affine' overlooked, silently")
