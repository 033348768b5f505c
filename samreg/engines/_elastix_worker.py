"""The child process of :mod:`samreg.engines.elastix`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from samreg.engines.child import worker_main


def main(folder: Path) -> None:
    """Run elastix with the images, points and parameters in ``folder``."""
    import itk

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    fixed = itk.imread(str(folder / "fixed.nrrd"), itk.F)
    elastix = itk.ElastixRegistrationMethod.New(fixed, itk.imread(str(folder / "moving.nrrd"), itk.F))
    if (folder / "fixed_mask.nrrd").exists():
        elastix.SetFixedMask(itk.imread(str(folder / "fixed_mask.nrrd"), itk.UC))
    if (folder / "moving_mask.nrrd").exists():
        elastix.SetMovingMask(itk.imread(str(folder / "moving_mask.nrrd"), itk.UC))
    if job["points"] is not None:
        fixed_points, moving_points = job["points"]
        elastix.SetFixedPointSetFileName(_write_points(folder / "fixed_points.txt", fixed_points))
        elastix.SetMovingPointSetFileName(_write_points(folder / "moving_points.txt", moving_points))
    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(job["parameters"])
    elastix.SetParameterObject(parameters)
    # The threads come from the environment: SetNumberOfThreads crashes multi-threaded Mattes with a second metric.
    elastix.LogToConsoleOn()
    elastix.UpdateLargestPossibleRegion()
    transform = elastix.ConvertToItkTransform(elastix.GetCombinationTransform())
    file = "linear.tfm" if job["linear"] else "field.nrrd"
    (_write_linear if job["linear"] else _write_field)(itk, transform, fixed, folder / file)
    (folder / "result.json").write_text(json.dumps([file]), encoding="utf-8")


def _write_points(path: Path, points: list[list[float]]) -> str:
    rows = [" ".join(map(repr, point)) for point in points]
    text = "\n".join(["point", str(len(points)), *rows, ""])  # "point": world coordinates, not indices
    path.write_text(text, encoding="utf-8")
    return str(path)


def _write_linear(itk: Any, transform: Any, fixed: Any, path: Path) -> None:
    ndim = fixed.GetImageDimension()
    zero = [0.0] * ndim
    translation = list(transform.TransformPoint(zero))
    affine = itk.AffineTransform[itk.D, ndim].New()
    columns = [list(transform.TransformPoint([float(i == k) for i in range(ndim)])) for k in range(ndim)]
    matrix = [[columns[k][i] - translation[i] for k in range(ndim)] for i in range(ndim)]
    affine.SetMatrix(itk.matrix_from_array(matrix))
    affine.SetTranslation(translation)
    itk.transformwrite([affine], str(path))


def _write_field(itk: Any, transform: Any, fixed: Any, path: Path) -> None:
    ndim = fixed.GetImageDimension()
    field_type = itk.Image[itk.Vector[itk.F, ndim], ndim]
    sampler = itk.TransformToDisplacementFieldFilter[field_type, itk.D].New(Transform=transform)
    sampler.SetReferenceImage(fixed)
    sampler.SetUseReferenceImage(True)
    itk.imwrite(sampler.GetOutput(), str(path))


if __name__ == "__main__":
    worker_main(main)
