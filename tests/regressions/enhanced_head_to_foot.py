"""Enhanced CT whose frames go from head to foot: refused for a voxel size of -3 mm that is in no header."""

import tempfile
import samreg, tinydicom as t

values, folder, heights = t.hu(), tempfile.mkdtemp(), [100 + 3 * i for i in range(8)]
t.enhanced(f"{folder}/e/e.dcm", values[::-1], heights[::-1])
try:
    image = samreg.read_image(f"{folder}/e")
except samreg.InputError as error:
    raise SystemExit(f"FAULT: a regular series is refused: {error}")
wrong = t.misplaced(image, values, heights)
raise SystemExit(f"FAULT: {wrong} voxels misplaced" if wrong else 0)
