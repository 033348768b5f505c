"""The HTML report: one file, readable without a network."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.quality.landmarks import summarise_errors
from samreg.registration.quality import initial_alignment
from samreg.report.pictures import draw_matches, draw_projections, img, png
from samreg.report.viewer import viewer_data
from samreg.spatial.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from samreg.quality import LandmarkErrors
    from samreg.registration.result import RegistrationResult
    from samreg.spatial.image import Image

# Measure: (label, how to print it, what it means).
_MEASURES: dict[str, tuple[str, str, str]] = {
    "overlap_percent": ("Overlap", "{:.0f} %", "of the fixed body has a counterpart inside the moving image"),
    "correlation_before": ("Correlation before", "{:.3f}", "of intensities within the body; 1 is a perfect likeness"),
    "correlation_after": ("Correlation after", "{:.3f}", "the same, with the warped image"),
    "folding_percent": ("Folding", "{:.3f} %", "of the body's voxels have det J of 0 or less; 0 is right"),
    "log_jacobian_std": ("Spread of ln det J", "{:.3f}", "how uneven volume changes; 0 for an affine transform"),
    "jacobian_min": ("Smallest det J", "{:.3f}", "strongest compression; 0 or less is a fold"),
    "inverse_residual_mean_mm": ("Inverse, mean miss", "{:.3f} mm", "there and back again, over the body"),
    "inverse_residual_p95_mm": ("Inverse, 95th percentile", "{:.3f} mm", ""),
    "inverse_residual_max_mm": ("Inverse, largest miss", "{:.3f} mm", ""),
    "mean_displacement_mm": ("Mean displacement", "{:.1f} mm", "in world coordinates, the frames' offset included"),
    "scale": ("Change of volume", "{:.3f}", "by the affine part; above 1 the moving body is larger"),
    "matches": ("Matches", "{:.0f}", "carry the seed"),
    "inlier_percent": ("Agreement", "{:.0f} %", "of the matches, by reliability, agree with one affine transform"),
    "mean_reliability": ("Mean reliability", "{:.2f}", "of the matches; 1 is certain"),
}

# What the viewer can show: (value, label); the maps only where there are some.
_MODES = (
    ("colours", "fixed red, moving cyan"),
    ("checkerboard", "checkerboard"),
    ("edges", "edges of fixed on moving"),
    ("moving", "moving"),
    ("fixed", "fixed"),
    ("displacement", "displacement"),
    ("jacobian", "change of volume"),
)

# Only what the file itself holds may be loaded.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(
    result: RegistrationResult, path: str | os.PathLike[str], *, landmarks: LandmarkErrors | None = None
) -> Path:
    """Write a self-contained HTML page on a registration, failed or not.

    Flags, slices before and after with sliders, maps of the deformation, measures of quality, errors at landmarks,
    the matches, and how to repeat it. Names and notes are escaped; nothing is loaded from elsewhere.

    Parameters
    ----------
    result
        A registration.
    path
        The file.
    landmarks
        Errors to show.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_text(_page(result, landmarks), encoding="utf-8")
    return path


def _page(result: RegistrationResult, landmarks: LandmarkErrors | None) -> str:
    title = f"{_short(result.moving)} registered to {_short(result.fixed)}"
    versions = result.versions
    sections = [_verdict(result), _section("Before and after", _viewer(viewer_data(result)))]
    if result:
        sections.append(_section("Quality", _quality_table(result.quality)))
        if landmarks is not None:
            sections.append(_section(f"Error at {len(landmarks.names)} landmarks", _landmark_table(result, landmarks)))
        if result.correspondences is not None and len(result.correspondences):
            sections.append(_section("Matches", _matches(result)))
    total = sum(result.timings.values())
    timings = {**result.timings, "in all": total} if result.timings else {}
    sections += [
        _section("Images", _images_table(result)),
        _section("Timings", _table((name, f"{seconds:.1f} s") for name, seconds in timings.items())),
        _section("Versions", _table(versions.items())),
        _section("How to repeat it", _recipe(result)),
    ]
    lead = f'<p class="faint">samreg {escape(str(versions.get("samreg", "")))}</p>'
    return html_page(title, "\n".join((lead, *filter(None, sections))), script=_file("page.js"))


def html_page(title: str, body: str, *, script: str = "") -> str:
    """Return a page that stands alone; `body` is HTML, the title is escaped."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</main>\n"
        + (f"<script>\n{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


def _file(name: str) -> str:
    return resources.files("samreg.report").joinpath(name).read_text(encoding="utf-8")


def _verdict(result: RegistrationResult) -> str:
    if not result:
        failed = f"<strong>The registration failed:</strong> {escape(result.reason)}"
        return f'<div class="verdict bad">{failed}{_list(result.notes)}</div>'
    if not result.flags:
        return '<p class="verdict good">Nothing stands out. Look at the pictures before you rely on the result.</p>'
    return f'<div class="verdict warn">{_list(result.flags)}</div>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _viewer(data: Mapping[str, Any]) -> str:
    """Return the controls, canvases and data that page.js brings to life."""
    layers = data["planes"][0]["layers"]
    modes = [mode for mode in _MODES if mode[0] in layers or mode[0] not in ("displacement", "jacobian")]
    choices = "".join(
        f'<label><input type="radio" name="show" value="{value}"{" checked" if i == 0 else ""}> {label}</label>'
        for i, (value, label) in enumerate(modes)
    )
    planes = "".join(_plane(plane) for plane in data["planes"])
    scales = "".join(_scale(name, legend) for name, legend in data["maps"].items())
    numbers = json.dumps(data).replace("<", "\\u003c")
    before = f"Before: the moving image {data['before']}."
    return (
        f'<div id="viewer"><fieldset><legend>Show</legend>{choices}</fieldset>'
        '<div class="slider"><label for="wipe">Before | after</label>'
        '<input type="range" id="wipe" min="0" max="100" value="50"><output id="wipe-output" for="wipe"></output></div>'
        f'{scales}<div class="planes">{planes}</div>'
        f'<p class="faint">{escape(before)} Red and cyan are grey where the images agree.</p>'
        f'<noscript><p class="verdict warn">The slices need JavaScript.</p></noscript></div>\n'
        f'<script type="application/json" id="viewer-data">{numbers}</script>'
    )


def _plane(plane: Mapping[str, Any]) -> str:
    name, last = plane["name"], len(plane["positions"]) - 1
    left, right = plane["labels"]
    return (
        f'<div class="plane" id="plane-{name}" style="flex: {plane["width"]} 1 0"><h3>{name.capitalize()}</h3>'
        '<div class="picture">'
        f'<canvas role="img" aria-label="{name} slice" width="{plane["width"]}" height="{plane["height"]}"></canvas>'
        f'<span class="left">{left}</span><span class="right">{right}</span>'
        '<span class="was" hidden>before</span><span class="is" hidden>after</span></div>'
        f'<div class="slider"{"" if last else " hidden"}><label for="slice-{name}">Slice</label>'
        f'<input type="range" id="slice-{name}" min="0" max="{last}" value="{plane["start"]}">'
        f'<output for="slice-{name}"></output></div></div>'
    )


def _scale(name: str, legend: Mapping[str, Any]) -> str:
    ticks = "".join(f"<span>{tick}</span>" for tick in legend["ticks"])
    fold = ' <span class="fold"></span> folds: det J is 0 or less.' if legend["folds"] else ""
    return (
        f'<div class="scale" data-map="{name}" hidden>'
        f"<div>{escape(legend['title'])}, within the fixed body.{fold}</div>"
        f'<div class="bar" style="background: linear-gradient(to right, {", ".join(legend["colours"])})"></div>'
        f'<div class="ticks">{ticks}</div></div>'
    )


def _matches(result: RegistrationResult) -> str:
    where = "Where the matches lie in each image, over the mean along the view."
    smooth = "Matches near three slices. The transform is smooth: lines show where single matches disagree with it."
    pictures = [(draw_matches, smooth)]
    if result.fixed.ndim == 3:
        pictures.insert(0, (draw_projections, where))
    return "".join(_picture(draw, result, caption) for draw, caption in pictures)


def _picture(draw: Callable[[RegistrationResult], Figure], result: RegistrationResult, caption: str) -> str:
    return f"<figure>{img(png(draw(result)), caption)}<figcaption>{escape(caption)}</figcaption></figure>"


def _section(title: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><div class="scroll">{content}</div></section>' if content else ""


def _row(name: str, *cells: str, number: bool = False) -> str:
    kind = ' class="number"' if number else ""
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td{kind}>{escape(cell)}</td>" for cell in cells)}</tr>'


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [_row(str(name), str(value)) for name, value in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _quality_table(quality: Mapping[str, float]) -> str:
    lines = []
    for key, value in quality.items():
        label, form, meaning = _MEASURES.get(key, (key, "{:g}", ""))
        lines.append(
            f'<tr><th scope="row">{escape(label)}</th><td class="number">{escape(form.format(value))}</td>'
            f'<td class="faint">{escape(meaning)}</td></tr>'
        )
    return f"<table>{''.join(lines)}</table>"


def _landmark_table(result: RegistrationResult, errors: LandmarkErrors) -> str:
    ways = (errors.before, errors.transform, errors.inverse)
    summaries = [summarise_errors(way) for way in ways]
    before = f"before, {initial_alignment(result)[1]}"
    titles = ("mm", before, "transform, in the moving image", "inverse, in the fixed image")
    head = "".join(f'<th scope="col" class="number">{escape(title)}</th>' for title in titles)
    measures = {"mean": "mean", "median": "median", "95th percentile": "p95", "largest": "maximum"}
    lines = [
        _row(label, *(f"{getattr(summary, key):.1f}" for summary in summaries), number=True).replace(
            "<tr>", '<tr class="summary">'
        )
        for label, key in measures.items()
    ]
    lines += [
        _row(name, *(f"{error:.1f}" for error in row), number=True)
        for name, *row in zip(errors.names, *ways, strict=True)
    ]
    table = f"<table><thead><tr>{head}</tr></thead>{''.join(lines)}</table>"
    return f'<div class="tall" tabindex="0" role="region" aria-label="errors">{table}</div>'


def _images_table(result: RegistrationResult) -> str:
    rows = []
    for role, image in (("fixed", result.fixed), ("moving", result.moving)):
        size = " × ".join(str(n) for n in image.grid.size)
        spacing = " × ".join(f"{s:.4g}" for s in np.round(image.spacing, 4))
        rows.append((role, f"{image.label}: {size} voxels of {spacing} mm"))
    rows.append(("direction", "the transform maps fixed points to moving points, LPS mm; the inverse maps back"))
    return _table(rows)


def _recipe(result: RegistrationResult) -> str:
    """Return the Python call and the command that make the result again."""
    options = dict(result.options)
    inputs = {"fixed": result.fixed.name, "moving": result.moving.name}
    inputs |= {key: options[key] for key in ("fixed_mask", "moving_mask") if options.get(key) is not None}
    memory = [role for role, name in inputs.items() if not (name and Path(name).exists())]
    inputs |= {role: f"{role}.nii.gz" for role in memory}
    images = [inputs.pop(role) for role in ("fixed", "moving")]
    options |= inputs
    if options.get("landmarks") is not None:  # how many there were
        options["landmarks"] = ("fixed_landmarks.csv", "moving_landmarks.csv")
        memory.append("landmarks")
    note = f"No files, or moved since: {', '.join(memory).replace('_', ' ')}." if memory else ""
    python, command = python_call(images, options), shell_command(images, options)
    return f'<p class="faint">{note}</p><pre>{escape(python)}</pre><pre>{escape(command)}</pre>'


def python_call(images: Sequence[str], options: Mapping[str, Any]) -> str:
    """Return the Python program that registers the images with these options."""
    arguments = [*map(repr, images), *(f"{key}={value!r}" for key, value in options.items() if value not in (None, {}))]
    return "import samreg\n\nresult = samreg.register(\n    " + ",\n    ".join(arguments) + ",\n)"


def shell_command(images: Sequence[str], options: Mapping[str, Any]) -> str:
    """Return the same as a command."""
    words = ["samreg", "register", *images, "-o", "out"]
    for key, value in options.items():
        if key == "landmarks" and value:
            words += ["--guide", *value]
        elif key != "engine_options" and value is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    for key, value in (options.get("engine_options") or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, default=np.ndarray.tolist)
        words += ["--option", f"{key}={text}"]
    return shlex.join(words)


def _short(image: Image) -> str:
    return Path(image.name).name or "image"
