"""Points files without a point (an empty list, all points unplaced): match() ends in a traceback."""

import json, os, subprocess, sys, tempfile
import numpy as np, samreg
from samreg.phantoms.phantom import make_phantom

image = make_phantom(1, spacing=8.0, field_of_view=(-30, 30)).image
try:
    found = samreg.match(image, np.zeros((0, 3)), image)
    print("python:", len(found), "matches")
    python = True
except samreg.InputError as error:
    print("python refused:", error)
    python = True
except Exception as error:
    print("python traceback:", type(error).__name__, error)
    python = False
raise SystemExit(0 if python else "FAULT")
