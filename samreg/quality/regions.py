"""Which region of the body a landmark belongs to, by its name."""

from __future__ import annotations

import re

#: Regions and what the names of their landmarks contain; the first that fits counts.
_REGIONS = (
    ("shoulder", r"scapula|glenoid|coracoid|acromion|humeral|clavicle"),
    ("cervical and thoracic spine", r"vertebra_[CT]\d+$"),
    ("lumbar spine", r"vertebra_L\d+$|promontory"),
    ("ribs", r"(^|_)rib|costal"),
    ("heart and great vessels", r"brachiocephalic|carotid|subclavian|atrium|pulmonary|aortic_(valve|arch)|ventric"),
    ("airways", r"bronch|lingula|b6_|carina|trachea"),
    ("diaphragm", r"diaphragm|hiatus"),
    ("upper abdomen", r"liver|hepatic|portal|gallbladder|spleen|adrenal|kidney|celiac|sma_|renal"),
    ("pelvis", r"iliac|asis|femoral|ischial|trochanter|pubic|coccyx|aortic_bifurcation"),
)
_WITH_SIDES = ("shoulder", "ribs")


def region_of(landmark: str) -> str:
    """Return the region of the body that a landmark belongs to; "elsewhere" for names that are not known.

    Examples
    --------
    >>> region_of("left_scapula_spine_root"), region_of("vertebra_T7"), region_of("nose")
    ('left shoulder', 'cervical and thoracic spine', 'elsewhere')
    """
    region = next((region for region, names in _REGIONS if re.search(names, landmark)), "elsewhere")
    side = landmark.split("_")[0]
    return f"{side} {region}" if region in _WITH_SIDES and side in ("left", "right") else region
