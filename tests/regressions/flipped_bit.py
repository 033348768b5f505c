"""A .nii.gz with a flipped bit: gzip's checksum would tell; the voxels are read wrong without a word."""

import tempfile
import nibabel as nib, numpy as np, samreg
from scipy.ndimage import gaussian_filter

random = np.random.default_rng(0)
voxels = (gaussian_filter(random.normal(size=(40, 40, 40)), 2) * 8000).round().astype("i2")
path = tempfile.mkdtemp() + "/a.nii.gz"
nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1.0])), path)
good, silent = open(path, "rb").read(), 0
for _ in range(50):
    bad = bytearray(good)
    bad[int(random.integers(600, len(good) - 20))] ^= 1 << int(random.integers(8))
    open(path, "wb").write(bad)
    try:
        silent += bool((samreg.read_image(path).array.T != voxels).any())
    except samreg.InputError:
        pass
print(f"{silent} of 50 damaged files read silently with wrong voxels")
raise SystemExit("FAULT" if silent else 0)
