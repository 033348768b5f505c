"""Enhanced CT with a gap between its frames, or frames in another order: 1 mm voxels, without a word."""

import logging, tempfile
import numpy as np, samreg, tinydicom as t

values, folder, bad = t.hu(), tempfile.mkdtemp(), []
order = [0, 4, 1, 5, 2, 6, 3, 7]
heights = [100 + 3 * i for i in range(8)]
t.enhanced(f"{folder}/gap/e.dcm", values, [100, 103, 106, 118, 121, 124, 127, 130])
t.enhanced(f"{folder}/shuffled/e.dcm", values[order], [heights[i] for i in order])
for name, where in (("gap", None), ("shuffled", heights)):
    try:
        image = samreg.read_image(f"{folder}/{name}")
    except samreg.InputError as error:
        print(name, "refused:", error)
        continue
    wrong = 960 if where is None else t.misplaced(image, values, where)
    print(name, image.grid, "misplaced voxels:", wrong, "of 960")
    bad += [name] if wrong else []
raise SystemExit(f"FAULT: read silently with wrong geometry: {bad}" if bad else 0)
