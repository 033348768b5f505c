"""Processes forked after samreg (torch) has used its threads: the children hang for ever, without a word."""

import multiprocessing, sys
import numpy as np, samreg
from samreg.spatial import Image

ball = (np.linalg.norm(np.mgrid[-24:24, -24:24, -24:24], axis=0) < 16) * 1000.0 - 1000
image = Image.from_array(ball.astype(np.float32), spacing=4)


def job(_):
    return bool(samreg.register(image, image, method="registration", engine="torch", transform="affine"))


if __name__ == "__main__":
    print("parent:", job(0), flush=True)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        try:
            print("child:", pool.map_async(job, [1]).get(timeout=60))
        except multiprocessing.TimeoutError:
            pool.terminate()
            sys.exit("FAULT: the forked child hangs (60 s)")
        except Exception as error:
            print("child refused:", type(error).__name__, str(error)[:150])
