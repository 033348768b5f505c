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
# # Landmarks of a cohort
#
# Landmarks are placed by hand in a few people, and found in all others: with how sure they are, as one table, and as
# what was asked for, a measure of each person. The cohort is of phantoms, whose true landmarks tell how good that is.

# %% tags=["parameters"]
spacing = 5.0  # voxel size of the phantoms, mm
annotated, cohort = (1, 2, 3), (4, 5, 6, 7, 8)  # numbers of the people

# %%
import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import samreg
from samreg.phantoms import make_phantom

folder = Path(tempfile.mkdtemp())
people = {number: make_phantom(number, spacing=spacing) for number in (*annotated, *cohort)}

# %% [markdown]
# ## Templates
#
# A folder of images, each with a file of points of its name: `.csv`, or `.mrk.json` as 3D Slicer writes it.

# %%
for number in annotated:
    samreg.write_image(people[number].image, folder / "templates" / f"person{number}.nii.gz")
    samreg.write_points(people[number].landmarks, folder / "templates" / f"person{number}.csv")
templates = samreg.read_templates(folder / "templates")
print(len(templates), "templates with", len(templates[0].points), "landmarks")

# %% [markdown]
# ## Find them in everyone
#
# Every template is matched on its own, and the templates vote. `reliability` is a calibrated probability that a match
# is right.

# %%
embeddings = {number: samreg.embed(people[number].image) for number in cohort}
found = {number: samreg.match_set(templates, embedding) for number, embedding in embeddings.items()}
for number, matches in found.items():
    print(f"person {number}: {len(matches)} landmarks, median reliability {np.median(matches.reliability):.2f}")

# %% [markdown]
# ## How good is it?


# %%
def errors(number):
    """Return reliability and distance from the truth, mm, of the landmarks of a person."""
    matches, truth = found[number], people[number].landmarks
    places = dict(zip(truth.names, truth.positions, strict=True))
    known = [i for i, name in enumerate(matches.names) if name in places]
    distance = [np.linalg.norm(matches.points[i] - places[matches.names[i]]) for i in known]
    return matches.reliability[known], np.array(distance)


reliability, error = (np.concatenate(part) for part in zip(*map(errors, cohort), strict=True))
sure = reliability >= 0.5
print(f"all {len(error)}: median {np.median(error):.1f} mm, 95th percentile {np.percentile(error, 95):.1f} mm")
print(f"{sure.sum()} with a reliability of at least 0.5: 95th percentile {np.percentile(error[sure], 95):.1f} mm")
plt.figure(figsize=(5, 3.5))
plt.scatter(reliability, error, s=12)
plt.xlabel("reliability")
plt.ylabel("error, mm")
plt.yscale("log")

# %% [markdown]
# ## What was asked for
#
# A distance between two landmarks for each person, as a table for the statistics program.

# %%
first, second = templates[0].points.names[:2]
rows = []
for number, matches in found.items():
    place = dict(zip(matches.names, matches.points, strict=True))
    certain = dict(zip(matches.names, matches.reliability, strict=True))
    rows.append(
        {
            "person": number,
            f"{first} to {second}, mm": round(float(np.linalg.norm(place[first] - place[second])), 1),
            "least reliable": round(float(min(certain[first], certain[second])), 2),
        }
    )
with (folder / "distances.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
print((folder / "distances.csv").read_text())

# %% [markdown]
# CTs of the trunk need no templates of your own: `samreg.find_landmarks` names vertebrae, ribs, vessels, airways and
# organs by the atlas that samreg ships.

# %%
number = cohort[0]
landmarks = samreg.find_landmarks(embeddings[number])
print(f"person {number}: {landmarks.sure.sum()} landmarks of the trunk are sure")
