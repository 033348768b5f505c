"""Enhanced CT with two phases at the same four places: read as one volume of eight slices."""

import tempfile
import samreg, tinydicom as t

folder = tempfile.mkdtemp()
t.enhanced(f"{folder}/e/e.dcm", t.hu(), [100, 103, 106, 109] * 2)
try:
    image = samreg.read_image(f"{folder}/e")
except samreg.InputError as error:
    print("refused:", error)
    raise SystemExit(0)
raise SystemExit(f"FAULT: two phases stacked into one volume, silently: {image.grid}")
