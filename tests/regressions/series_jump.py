"""A series whose slices jump sideways, or change their pixel size, half way."""

import logging, tempfile
import samreg, tinydicom as t

seen = []
logging.getLogger("samreg").addHandler(
    type("H", (logging.Handler,), {"emit": lambda self, r: seen.append(r.getMessage())})()
)
values, folder, bad = t.hu(), tempfile.mkdtemp(), []
for i in range(8):
    t.slice_(
        f"{folder}/jump/s{i}.dcm", 0, values[i], number=i + 1, position=(-30.0 + 25 * (i >= 4), -20.0, 100.0 + 3 * i)
    )
    t.slice_(
        f"{folder}/pixels/s{i}.dcm", 100 + 3 * i, values[i], number=i + 1, spacing=(2.0, 1.5) if i < 4 else (1.0, 0.75)
    )
for name in ("jump", "pixels"):
    seen.clear()
    try:
        image = samreg.read_image(f"{folder}/{name}")
        print(name, image.grid, "warned:", seen)
        bad.append(name)
    except samreg.InputError as error:
        print(name, "refused:", error)
raise SystemExit(f"FAULT: accepted: {bad}" if bad else 0)
