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
# # My own method in the benchmark
#
# A registration method of your own, compared with samreg's on the same pairs, in the same way: errors at landmarks,
# overlap of organs, folding, time. On phantoms here; `load_dataset` takes a folder of your own, Learn2Reg tasks and
# DIR-Lab as well.

# %% tags=["parameters"]
data_set = "phantom:2:6"  # two pairs, 6 mm
others = (
    "identity",
    "embedding-affine",
    "hybrid-torch-fast",
)  # what to compare with; all: samreg benchmark --methods list

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The method
#
# A function of two images that returns an `Outcome` with a transform, fixed to moving points in LPS mm. It lies in a
# file, since each registration runs in a process of its own. This one is SimpleITK's demons, after an affine
# transform by embeddings.

# %%
(folder / "mine.py").write_text(
    """
import SimpleITK as sitk

import samreg
from samreg.benchmark import Outcome
from samreg.spatial import DisplacementField, compose, resample, resample_spacing
from samreg.spatial.adapters import to_sitk


def demons(fixed, moving, *, threads, seed):
    start = samreg.register(fixed, moving, method="embedding", transform="affine", threads=threads, seed=seed)
    if not start:
        return Outcome(None, reason=start.reason)
    fixed = resample_spacing(fixed, 6.0)
    aligned = resample(moving, fixed.grid, transform=start.transform)
    filter_ = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    filter_.SetNumberOfIterations(60)
    filter_.SetStandardDeviations(1.5)
    filter_.SetNumberOfThreads(threads)
    field = filter_.Execute(to_sitk(fixed), to_sitk(aligned))
    displacement = DisplacementField(sitk.GetArrayFromImage(field), fixed.grid)
    return Outcome(compose(displacement, start.transform))
"""
)
methods = [*others, f"{folder / 'mine.py'}:demons"]

# %% [markdown]
# ## Run
#
# A record is kept of every registration: the same call goes on where it was. `parallel=` runs several at a time.

# %%
from samreg.benchmark import load_dataset, plan, run_jobs, write_report

data = load_dataset(data_set)
records = run_jobs(plan(data, methods, folder / "out"))
for record in records:
    if not record["ok"]:
        print(record["method"], "failed:", record["reason"])

# %% [markdown]
# ## Compare
#
# The report is one HTML file; the tables lie beside it.

# %%
report = write_report(data, records, folder / "out")
print((folder / "out" / "leaderboard.md").read_text())

# %%
import csv

with (folder / "out" / "landmarks.csv").open(newline="") as file:
    landmarks = list(csv.DictReader(file))
names = [method.rsplit(":", 1)[-1] for method in methods]
errors = [[float(row["error_mm"]) for row in landmarks if row["method"] == method] for method in methods]
figure, axis = plt.subplots(figsize=(7, 3))
axis.boxplot(errors, vert=False, tick_labels=names, showfliers=False)
axis.set_xlabel("error at landmarks, mm")
axis.set_xscale("log")
figure.tight_layout()
