# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first registration
#
# Two chests of different people, registered, looked at, and measured against the truth. The images are phantoms, made
# on the spot: put paths of your own CTs in their place and everything but the truth stays the same.

# %% tags=["parameters"]
spacing = 4.0  # voxel size of the phantoms, mm

# %%
import matplotlib.pyplot as plt
import numpy as np

import samreg
from samreg.phantoms import phantom_pair

pair = phantom_pair(spacing=spacing)
fixed, moving = pair.fixed.image, pair.moving.image  # or samreg.read_image("fixed.nii.gz"), a DICOM folder, ...
print(fixed, moving, sep="\n")

# %% [markdown]
# ## Register
#
# Embeddings say which place of the one body is which of the other; that seed is refined by a registration engine. The
# result is false, and says why, where the images cannot be registered.

# %%
result = samreg.register(fixed, moving)
assert result, result.reason
for name, value in result.quality.items():
    print(f"{name:32} {value:8.3g}")
print("check:", *result.flags or ["nothing"])

# %% [markdown]
# ## Look
#
# The fixed image in red, the moving one in cyan: grey where they agree.


# %%
def overlay(below, above, index):
    """Return one coronal slice of two images on one grid, red and cyan."""
    grey = [np.clip((image.array[::-1, index] + 900) / 1300, 0, 1) for image in (below, above)]
    return np.stack([grey[0], grey[1], grey[1]], axis=-1)


from samreg.spatial import AffineTransform, resample

middle = fixed.shape[1] // 2
centred = AffineTransform(np.eye(3), moving.grid.center - fixed.grid.center)  # before: one centre on the other
before = resample(moving, fixed.grid, transform=centred)
figure, axes = plt.subplots(1, 2, figsize=(9, 5))
aspect = fixed.spacing[2] / fixed.spacing[0]
for axis, image, title in zip(axes, (before, result.warped), ("before", "registered"), strict=True):
    axis.imshow(overlay(fixed, image, middle), aspect=aspect)
    axis.set_title(title)
    axis.axis("off")

# %% [markdown]
# ## Measure
#
# The phantoms' landmarks are known in both images. `transform` maps fixed points to moving points, in LPS mm.

# %%
mapped = result.transform_points(pair.fixed_landmarks, to="moving")
error = np.linalg.norm(mapped - pair.moving_landmarks.positions, axis=1)
start = np.linalg.norm(
    centred.transform_points(pair.fixed_landmarks.positions) - pair.moving_landmarks.positions, axis=1
)
print(f"{len(error)} landmarks: {start.mean():.1f} mm before, {error.mean():.1f} mm after (largest {error.max():.1f})")

# %% [markdown]
# ## Carry over, and keep
#
# Labels of the moving image come to the fixed one; a saved result opens in 3D Slicer, SimpleITK, ANTs, and is read
# again.

# %%
import tempfile
from pathlib import Path

labels = result.warp(pair.moving.labels)  # nearest neighbour, as it holds labels
overlap = (labels.array == pair.fixed.labels.array)[pair.fixed.labels.array > 0].mean()
print(f"{overlap:.0%} of the fixed organs' voxels get their own label")

folder = result.save(Path(tempfile.mkdtemp()) / "result")
print(*sorted(path.name for path in folder.iterdir()))
again = samreg.RegistrationResult.load(folder, fixed=fixed, moving=moving)
print(again.quality["overlap_percent"])
