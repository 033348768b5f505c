"""A few lines that write small DICOM files (explicit VR, little endian), so that the cases need no other package."""

import itertools
import os
import struct

import numpy as np

CT, ENHANCED, SC, MF_SC = (f"1.2.840.10008.5.1.4.1.1.{s}" for s in ("2", "2.1", "7", "7.3"))
_count = itertools.count(1)
_LONG = {"OB", "OW", "SQ", "UN", "UT"}


def _text(value):
    values = value if isinstance(value, (list, tuple)) else [value]
    return "\\".join(v if isinstance(v, str) else f"{v:.10g}" for v in values)


def _element(tag, vr, value):
    if vr == "SQ":
        data = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in map(_dataset, value))
    elif vr == "US":
        data = struct.pack("<H", value)
    elif vr == "UL":
        data = b"".join(struct.pack("<I", v) for v in (value if isinstance(value, list) else [value]))
    elif isinstance(value, bytes):
        data = value
    else:
        data = _text(value).encode()
    if len(data) % 2:
        data += b"\0" if vr in ("UI", "OB") else b" "
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return head + (b"\0\0" + struct.pack("<I", len(data)) if vr in _LONG else struct.pack("<H", len(data))) + data


def _dataset(elements):
    return b"".join(_element(tag, *elements[tag]) for tag in sorted(elements))


def write(path, sop, elements, stored):
    """Write one file; ``stored`` is (rows, columns) or (frames, rows, columns), unsigned 16 bit."""
    uid = f"1.2.826.0.1.999.{next(_count)}.{os.getpid()}"
    stored = np.asarray(stored)
    all_ = {
        0x00080016: ("UI", sop), 0x00080018: ("UI", uid), 0x00080060: ("CS", "CT"), 0x00100010: ("PN", "x"),
        0x00100020: ("LO", "x"), 0x0020000D: ("UI", "1.2.3"), 0x0020000E: ("UI", "1.2.3.4"), 0x00200052: ("UI", "1.2.9"),
        0x00280002: ("US", 1), 0x00280004: ("CS", "MONOCHROME2"), 0x00280010: ("US", stored.shape[-2]),
        0x00280011: ("US", stored.shape[-1]), 0x00280100: ("US", 16), 0x00280101: ("US", 16), 0x00280102: ("US", 15),
        0x00280103: ("US", 0), 0x7FE00010: ("OW", np.ascontiguousarray(stored, "<u2").tobytes()),
    }  # fmt: skip
    if stored.ndim == 3:
        all_[0x00280008] = ("IS", str(len(stored)))
    all_.update(elements)
    meta = {0x00020001: ("OB", b"\0\1"), 0x00020002: ("UI", sop), 0x00020003: ("UI", uid),
            0x00020010: ("UI", "1.2.840.10008.1.2.1"), 0x00020012: ("UI", "1.2.3.4.5")}  # fmt: skip
    body = _dataset(meta)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"\0" * 128 + b"DICM" + _element(0x00020000, "UL", len(body)) + body + _dataset(all_))


def hu():
    """(8, 10, 12) HU that tell each voxel's place."""
    z, y, x = np.mgrid[:8, :10, :12]
    return 100 * z + 10 * y + x - 500


def slice_(path, z, values, *, number=1, spacing=(2.0, 1.5), position=None, slope=1, intercept=-1024, sop=CT):
    """One axial slice of the volume above; spacing is (rows, columns)."""
    write(path, sop, {
        0x00200032: ("DS", list(position or (-30.0, -20.0, z))), 0x00200037: ("DS", [1, 0, 0, 0, 1, 0]),
        0x00280030: ("DS", list(spacing)), 0x00180050: ("DS", "3"), 0x00200013: ("IS", str(number)),
        0x00281052: ("DS", intercept), 0x00281053: ("DS", slope), 0x00281054: ("LO", "HU"),
    }, np.round((values - intercept) / slope))  # fmt: skip


def enhanced(path, values, heights, *, slopes=None):
    """An enhanced CT whose frame k lies at heights[k], with its own slope where ``slopes`` are given."""
    frames, stored = [], []
    for k, z in enumerate(heights):
        slope = 1 if slopes is None else slopes[k]
        frame = {0x00209113: ("SQ", [{0x00200032: ("DS", [-30.0, -20.0, float(z)])}]),
                 0x00209111: ("SQ", [{0x00209056: ("SH", "1"), 0x00209057: ("UL", k + 1), 0x00209157: ("UL", [1, k + 1])}]),
                 0x00289145: ("SQ", [{0x00281052: ("DS", "-1024"), 0x00281053: ("DS", slope), 0x00281054: ("LO", "HU")}])}  # fmt: skip
        frames.append(frame)
        stored.append(np.round((values[k] + 1024) / slope))
    shared = {0x00289110: ("SQ", [{0x00180050: ("DS", "3"), 0x00280030: ("DS", [2.0, 1.5])}]),
              0x00209116: ("SQ", [{0x00200037: ("DS", [1, 0, 0, 0, 1, 0])}])}  # fmt: skip
    write(
        path,
        ENHANCED,
        {0x52009229: ("SQ", [shared]), 0x52009230: ("SQ", frames), 0x00200013: ("IS", "1")},
        np.stack(stored),
    )


def misplaced(image, values, heights):
    """Return how many voxels of the image's world do not hold the value they should (HU, tolerance 1)."""
    z, y, x = np.mgrid[: len(heights), :10, :12]
    points = np.stack([-30 + 1.5 * x, -20 + 2.0 * y, np.asarray(heights, float)[z]], -1).reshape(-1, 3)
    index = np.rint(image.grid.world_to_index(points)).astype(int)
    inside = ((index >= 0) & (index < np.asarray(image.grid.size))).all(1)
    got = np.full(len(points), np.nan)
    got[inside] = image.array[tuple(index[inside].T[::-1])]
    return int((~(np.abs(got - values.ravel()) <= 1)).sum())
