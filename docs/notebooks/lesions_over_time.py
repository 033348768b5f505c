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
# # Lesions over time
#
# Lesions drawn in a baseline CT are found in a later one and measured again. Here both visits are simulated: lesions
# are painted into a phantom's chest, which then breathes, turns, is scanned with another protocol, and in which they
# grow or shrink.

# %% tags=["parameters"]
spacing = 2.5  # voxel size of the phantom, mm
field_of_view = (-150, 60)  # mm above the carina
lesions = 6

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import samreg
from samreg.phantoms import make_phantom, simulate_followup

chest = make_phantom(1, spacing=spacing, field_of_view=field_of_view)
visits = simulate_followup(chest.image, lesions=lesions, seed=3)
print(visits.baseline, visits.followup, sep="\n")

# %% [markdown]
# ## Track
#
# Lesions are given as a label map (one label a lesion) or as points.

# %%
tracks = samreg.track(visits.baseline, visits.followup, visits.labels)
assert tracks, tracks.reason
error = np.linalg.norm(tracks.points - visits.centers, axis=1)
for lesion, distance in zip(tracks.lesions, error, strict=True):
    change = f"{lesion.change:+.0f} %" if lesion.change is not None else f"not measured: {lesion.why}"
    print(f"lesion {lesion.name}: {distance:4.1f} mm from the truth, reliability {lesion.reliability:.2f}, {change}")

# %% [markdown]
# Where the size cannot be measured safely, nothing is claimed, and `why` says so. The truth, as it was painted:

# %%
growth = np.cbrt(visits.volumes[:, 1] / visits.volumes[:, 0]) - 1
print("true change of the diameters:", *(f"{value:+.0%}" for value in growth))

# %% [markdown]
# ## Look at both visits


# %%
def axial(image, point, width=40.0):
    """Return the axial cut-out around a point."""
    x, y, z = np.rint(image.grid.world_to_index(point)[0]).astype(int)
    half = int(width / image.spacing[0])
    return image.array[z, max(0, y - half) : y + half, max(0, x - half) : x + half]


figure, axes = plt.subplots(2, len(tracks), figsize=(2 * len(tracks), 4.2))
for column, lesion in enumerate(tracks.lesions):
    baseline = visits.lesions.centers[column]
    for row, (image, point) in enumerate(((visits.baseline, baseline), (visits.followup, lesion.followup))):
        axes[row, column].imshow(axial(image, point), cmap="gray", vmin=-1000, vmax=300)
        axes[row, column].axis("off")
    axes[0, column].set_title(f"lesion {lesion.name}", fontsize=9)

# %% [markdown]
# ## Keep it
#
# `lesions.html` shows both visits side by side; csv and json are for programs, `.mrk.json` for 3D Slicer.

# %%
folder = Path(tempfile.mkdtemp()) / "lesions"
tracks.save(folder)
print(*sorted(path.name for path in folder.iterdir()))
