"""One axial CT slice as a 2D image: embedded with the cephalogram network, without a flag."""

import numpy as np, samreg
from samreg.spatial import Image

y, x = np.mgrid[-60:60, -80:80]
body = (x / 70.0) ** 2 + (y / 50.0) ** 2 < 1
slice_ = np.where(body, 40 + 30 * np.sin(x / 9.0) * np.cos(y / 7.0), -1000)
slice_ = np.where(((x - 30) / 22.0) ** 2 + (y / 30.0) ** 2 < 1, -850, slice_)
image = Image.from_array(slice_.astype(np.int16), spacing=2.0)
try:
    result = samreg.register(image, image, method="embedding", transform="affine")
except samreg.InputError as error:
    print("refused:", error)
    raise SystemExit(0)
print("model:", result.options["model"], "flags:", result.flags, "reason:", result.reason)
raise SystemExit(0 if result.flags else "FAULT: no word that this network knows lateral skull X-rays only")
