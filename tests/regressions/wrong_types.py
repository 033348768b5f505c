"""Arguments of the wrong kind, as users give them: bare tracebacks from deep inside instead of an InputError."""

import numpy as np, samreg, SimpleITK as sitk
from samreg.spatial import Image

ball = (np.linalg.norm(np.mgrid[-10:10, -10:10, -10:10], axis=0) < 7) * 1000.0 - 1000
image = Image.from_array(ball.astype(np.float32), spacing=4)
how = dict(method="registration", engine="torch")
calls = {
    "start=path": dict(how, start="out/transform.h5"),
    "start=SimpleITK": dict(how, start=sitk.AffineTransform(3)),
    "start=4x4 array": dict(how, start=np.eye(4)),
    "spacing=(2, 2, 2)": dict(how, spacing=(2, 2, 2)),
    "threads='2'": dict(how, threads="2"),
    "threads=2.0": dict(how, threads=2.0),
    "engine_options='fast'": dict(how, engine_options="fast"),
}
bad = []
for name, arguments in calls.items():
    try:
        samreg.register(image, image, **arguments)
        print(name, "accepted")
    except samreg.SamregError as error:
        print(name, "->", type(error).__name__, str(error)[:120])
    except Exception as error:
        print(name, "-> TRACEBACK", type(error).__name__, str(error)[:90])
        bad.append(name)
raise SystemExit(f"FAULT: {bad}" if bad else 0)
