"""The HTML report: one file, readable without a network."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.report.pictures import draw_deformation, draw_matches, draw_overview, png
from samreg.spatial.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from samreg.result import RegistrationResult
    from samreg.spatial.image import Image

# Measure: (label, how to print it, what it means).
_MEASURES: dict[str, tuple[str, str, str]] = {
    "overlap_percent": ("Overlap", "{:.0f} %", "of the fixed body has a counterpart inside the moving image"),
    "correlation_before": ("Correlation before", "{:.3f}", "of intensities within the body; 1 is a perfect likeness"),
    "correlation_after": ("Correlation after", "{:.3f}", "the same, with the warped image"),
    "folding_percent": ("Folding", "{:.3f} %", "of the body's voxels have det J of 0 or less; 0 is right"),
    "log_jacobian_std": ("Spread of log det J", "{:.3f}", "how uneven volume changes; 0 for an affine transform"),
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

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; background: #f6f7f8; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 32px 0 8px; }
section, figure { margin: 0; }
table { border-collapse: collapse; background: #fff; width: 100%; }
th, td { text-align: left; padding: 5px 12px; border-bottom: 1px solid #e3e6e9; vertical-align: top;
         overflow-wrap: anywhere; }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.meaning, figcaption, p.lead { color: #59626b; }
ul.flags, p.ok, p.failed { padding: 12px 16px 12px 32px; border-radius: 6px; margin: 12px 0; }
ul.flags { background: #fff4d6; } p.ok { background: #e2f4e5; padding-left: 16px; }
p.failed { background: #fde3e1; padding-left: 16px; }
img { max-width: 100%; height: auto; border-radius: 4px; display: block; }
pre { background: #fff; padding: 12px; overflow: auto; border: 1px solid #e3e6e9; }
"""


def write_report(result: RegistrationResult, path: str | os.PathLike[str]) -> Path:
    """Write a self-contained HTML page on a registration, failed or not.

    Flags, pictures before and after, measures of quality, the matches, the deformation, and how to repeat it.
    Names and notes are escaped; nothing is loaded from elsewhere.

    Parameters
    ----------
    result
        A registration.
    path
        The file.

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
        temporary.write_text(_page(result), encoding="utf-8")
    return path


def _page(result: RegistrationResult) -> str:
    title = f"{_short(result.moving)} registered to {_short(result.fixed)}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">samreg {escape(str(result.versions.get("samreg", "")))}</p>',
        _verdict(result),
        _picture("Before and after", draw_overview, result, "Fixed red, moving cyan, grey where they agree."),
    ]
    if result:
        sections.append(_section("Quality", _quality_table(result.quality)))
        if result.correspondences is not None and len(result.correspondences):
            caption = "The transform is smooth: lines show where single matches disagree with it."
            sections.append(_picture("Matches", draw_matches, result, caption))
        if min(result.fixed.shape) > 1:
            caption = "Within the fixed body. det J above 1: the structure is larger in the moving image."
            sections.append(_picture("Deformation", draw_deformation, result, caption))
    sections += [
        _section("Images", _images_table(result)),
        _section("Timings", _table((name, f"{seconds:.1f} s") for name, seconds in result.timings.items())),
        _section("Options", _table((name, _plain(value)) for name, value in result.options.items())),
        _section("Versions", _table(result.versions.items())),
        _section("How to repeat it", f"<pre>{escape(_recipe(result))}</pre>"),
    ]
    return html_page(title, "\n".join(section for section in sections if section))


def html_page(title: str, body: str) -> str:
    """Return a page that stands alone; `body` is HTML, the title is escaped."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}"
        "\n</main>\n</body>\n</html>\n"
    )


def _verdict(result: RegistrationResult) -> str:
    if not result:
        notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
        failed = f'<p class="failed"><strong>The registration failed:</strong> {escape(result.reason)}</p>'
        return failed + (f'<ul class="flags">{notes}</ul>' if notes else "")
    if not result.flags:
        return '<p class="ok">Nothing stands out. Look at the pictures before you rely on the result.</p>'
    return '<ul class="flags">' + "".join(f"<li>{escape(flag)}</li>" for flag in result.flags) + "</ul>"


def _picture(title: str, draw: Callable[[RegistrationResult], Figure], result: RegistrationResult, caption: str) -> str:
    data = base64.b64encode(png(draw(result))).decode("ascii")
    image = f'<img alt="{escape(title)}" src="data:image/png;base64,{data}">'
    return _section(title, f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _quality_table(quality: Mapping[str, float]) -> str:
    lines = []
    for key, value in quality.items():
        label, form, meaning = _MEASURES.get(key, (key, "{:g}", ""))
        number = escape(form.format(value))
        lines.append(
            f'<tr><th>{escape(label)}</th><td class="number">{number}</td>'
            f'<td class="meaning">{escape(meaning)}</td></tr>'
        )
    return f"<table>{''.join(lines)}</table>"


def _images_table(result: RegistrationResult) -> str:
    rows = []
    for role, image in (("fixed", result.fixed), ("moving", result.moving)):
        size = " × ".join(str(n) for n in image.grid.size)
        spacing = " × ".join(f"{s:.4g}" for s in np.round(image.spacing, 4))
        rows.append((role, f"{image.label}: {size} voxels of {spacing} mm"))
    rows.append(("direction", "the transform maps fixed points to moving points, LPS mm; the inverse maps back"))
    return _table(rows)


def _recipe(result: RegistrationResult) -> str:
    """Return the Python call that made the result."""
    options = {key: value for key, value in result.options.items() if value not in (None, {})}
    if "model" in options:
        options["model"] = str(options["model"]).split("@")[0]  # the fingerprint is not part of the name
    arguments = [repr(result.fixed.name or "fixed.nii.gz"), repr(result.moving.name or "moving.nii.gz")]
    arguments += [f"{key}={value!r}" for key, value in options.items()]
    return "import samreg\n\nresult = samreg.register(\n    " + ",\n    ".join(arguments) + ",\n)"


def _short(image: Image) -> str:
    return Path(image.name).name or "image"


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return json.dumps(value, default=str) if isinstance(value, Mapping) else str(value)
