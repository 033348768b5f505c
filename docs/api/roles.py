"""Docstrings name things as :class:`Image` or :func:`~samreg.match`; Markdown shows them as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":[a-z]+:`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Turns reStructuredText roles into code; a leading tilde leaves the last part of the name."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(
                lambda match: f"`{match[2].split('.')[-1] if match[1] else match[2]}`", obj.docstring.value
            )
