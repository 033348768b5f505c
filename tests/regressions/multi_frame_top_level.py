"""Multi-frame files whose geometry stands at the top level (cone beam, secondary capture): 1 mm, without a word."""

import logging, tempfile
import samreg, tinydicom as t

seen = []
logging.getLogger("samreg").addHandler(
    type("H", (logging.Handler,), {"emit": lambda self, r: seen.append(r.getMessage())})()
)
folder, bad = tempfile.mkdtemp(), []
place = {
    0x00200032: ("DS", [-30.0, -20.0, 100.0]),
    0x00200037: ("DS", [1, 0, 0, 0, 1, 0]),
    0x00280030: ("DS", [2.0, 1.5]),
    0x00180050: ("DS", "3"),
    0x00281052: ("DS", "-1024"),
    0x00281053: ("DS", "1"),
}
spaced = {**place, 0x00180088: ("DS", "3")}
nowhere = {k: v for k, v in place.items() if k >> 16 == 0x28 and k != 0x00280030}
for name, sop, tags in (("ct", t.CT, place), ("secondary", t.MF_SC, spaced), ("nowhere", t.MF_SC, nowhere)):
    t.write(f"{folder}/{name}/e.dcm", sop, tags, t.hu() + 1024)
    seen.clear()
    try:
        image = samreg.read_image(f"{folder}/{name}")
    except samreg.InputError as error:
        print(name, "refused:", error)
        continue
    right = image.spacing.tolist() == [1.5, 2.0, 3.0]
    print(name, "spacing", image.spacing.tolist(), "origin", image.origin.tolist(), "warned:", seen)
    bad += [] if right or seen else [name]
raise SystemExit(f"FAULT: wrong voxel size or place without a warning: {bad}" if bad else 0)
