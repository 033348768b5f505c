"""Slicer's .fcsv: rows with more cells than columns (decimal commas, a comma in a name), and points that are not placed."""

import logging, tempfile
import numpy as np
from samreg import InputError
from samreg.spatial import io_points

seen = []
logging.getLogger("samreg").addHandler(
    type("H", (logging.Handler,), {"emit": lambda self, r: seen.append(r.getMessage())})()
)
head = "# Markups fiducial file version = {}\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
cases = {
    "decimal commas": (
        head.format("4.10") + "1,12,5,-30,25,101,5,0,0,0,1,1,1,0,carina,,\n",
        [[12.5, -30.25, 101.5]],
        ("carina",),
    ),
    "comma in names": (
        head.format("4.6") + "1,1,2,3,0,0,0,1,1,1,0,hilum, left,,\n2,4,5,6,0,0,0,1,1,1,0,hilum, right,,\n",
        [[1, 2, 3], [4, 5, 6]],
        ("hilum, left", "hilum, right"),
    ),
    "not placed": (
        head.format("5.2") + "1,1,2,3,0,0,0,1,1,1,0,F-1,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,F-2,,,0,0\n",
        [[1, 2, 3]],
        ("F-1",),
    ),
}
bad, folder = [], tempfile.mkdtemp()
for name, (text, positions, names) in cases.items():
    open(f"{folder}/p.fcsv", "w").write(text)
    seen.clear()
    try:
        found = io_points.read_points(f"{folder}/p.fcsv")
    except InputError as error:
        print(name, "refused:", error)
        continue
    right = found.names == names and np.allclose(found.positions, positions)
    print(name, "->", found.names, found.positions.tolist(), "warned:", seen)
    bad += [] if right else [name]
raise SystemExit(f"FAULT: {bad}" if bad else 0)
