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
# # One atlas of many people
#
# A template in the middle of a few people, with the way from each of them to it and back, and their organs and
# landmarks brought together there. The people are phantoms, coarse, so that it takes a minute or two; give folders of
# your own images, labels and landmarks.

# %% tags=["parameters"]
spacing = 8.0  # voxel size of phantoms and template, mm
people = (1, 2, 3)
iterations = 1

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import samreg
from samreg.phantoms import make_phantom

folder = Path(tempfile.mkdtemp())
for number in people:
    phantom = make_phantom(number, spacing=spacing)
    samreg.write_image(phantom.image, folder / "scans" / f"person{number}.nii.gz")
    samreg.write_image(phantom.labels, folder / "labels" / f"person{number}.nii.gz")
    samreg.write_points(phantom.landmarks, folder / "landmarks" / f"person{number}.csv")

# %% [markdown]
# ## Build
#
# The same call goes on where it was, after a kill or when people are added. `jobs=` does several people at a time.

# %%
atlas = samreg.build_atlas(
    folder / "scans",
    folder / "atlas",
    labels=folder / "labels",
    landmarks=folder / "landmarks",
    iterations=iterations,
    spacing=spacing,
)
for step in atlas.convergence:
    print(f"iteration {step.iteration}: drift {step.residual_mm:.2f} mm, deviation {step.deviation:.0f} HU")

# %% [markdown]
# ## Look
#
# The first mean, of affine transforms alone, is blurred; the last is not.

# %%
first = samreg.read_image(folder / "atlas" / "iteration-0" / "average" / "mean.nii.gz")
images = {"affine mean": first, "mean": atlas.mean, "template": atlas.template}
figure, axes = plt.subplots(1, 3, figsize=(11, 4))
for axis, (name, image) in zip(axes, images.items(), strict=True):
    axis.imshow(image.array[::-1, image.shape[1] // 2], cmap="gray", vmin=-900, vmax=400)
    axis.set_title(name)
    axis.axis("off")

# %% [markdown]
# ## From person to person
#
# Through the template every person's points reach every other person.

# %%
one, other = (f"person{number}" for number in people[:2])
through = [atlas.inverse(one), atlas.transform(other)]
there, truth = (make_phantom(number, spacing=spacing).landmarks for number in people[:2])
shared = [name for name in there.names if name in truth.names]
points = there.named(shared).positions
for transform in through:
    points = transform.transform_points(points)
error = np.linalg.norm(points - truth.named(shared).positions, axis=1)
print(f"{one} to {other}: {np.median(error):.1f} mm at {len(error)} landmarks (median), at voxels of {spacing:g} mm")

# %% [markdown]
# ## Organs and landmarks in the template

# %%
table = np.genfromtxt(folder / "atlas" / "labels" / "dice.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
print("labels:", *table.dtype.names)
print(table[:5])
print((folder / "atlas" / "template_landmarks.csv").read_text()[:400])
