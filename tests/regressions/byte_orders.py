"""An array in the other byte order (or of long doubles): registered, and then flags, quality and saving end in a traceback."""

import numpy as np, samreg
from samreg.spatial import Image
from samreg.spatial.resample import resample

bad = []
for dtype in (">i2", ">f4", "longdouble"):
    image = Image.from_array(np.arange(60).reshape(3, 4, 5).astype(dtype), spacing=2)
    try:
        same = np.array_equal(resample(image, image.grid, interpolation="nearest").array, image.array)
        print(dtype, "works" if same else "WRONG VALUES")
        bad += [] if same else [dtype]
    except samreg.InputError as error:
        print(dtype, "refused:", error)
    except Exception as error:
        print(dtype, "traceback:", type(error).__name__, error)
        bad.append(dtype)
raise SystemExit(f"FAULT: {bad}" if bad else 0)
