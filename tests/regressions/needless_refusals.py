"""Small refusals: .nii.gz that is not gzipped, one-frame 4D images, vector fields in .nrrd/.mha."""

import gzip, tempfile
import nibabel as nib, numpy as np, samreg, SimpleITK as sitk
from samreg.spatial import io_transforms

folder, bad = tempfile.mkdtemp(), []
nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), f"{folder}/a.nii")
raw = open(f"{folder}/a.nii", "rb").read()
open(f"{folder}/plain.nii.gz", "wb").write(raw)
open(f"{folder}/zipped.nii", "wb").write(gzip.compress(raw))
one = sitk.GetImageFromArray(np.zeros((1, 6, 5, 4), np.int16), isVector=False)
sitk.WriteImage(one, f"{folder}/one.nrrd")
sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 5, 4, 3)), isVector=True), f"{folder}/field.mha")
for name, call in {
    "not gzipped .nii.gz": lambda: samreg.read_image(f"{folder}/plain.nii.gz"),
    "gzipped .nii": lambda: samreg.read_image(f"{folder}/zipped.nii"),
    "4D .nrrd of one frame": lambda: samreg.read_image(f"{folder}/one.nrrd"),
    "the same in memory": lambda: samreg.as_image(one),
    "field in .mha": lambda: io_transforms.read_transform(f"{folder}/field.mha"),
}.items():
    try:
        call()
        print(name, "read")
    except samreg.InputError as error:
        print(name, "refused:", str(error).replace(folder, "")[:110])
        bad.append(name)
raise SystemExit(f"WEAK: {bad}" if bad else 0)
