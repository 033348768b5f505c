"""Files as napari layers: read and placed as samreg does, LPS mm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from samreg.plugin.placing import Frame, Layer
from samreg.spatial.io_images import READABLE, read_image

_PHANTOM_SPACING_MM = 5.0


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Layer]] | None:
    """Return what reads a path for napari, or None where samreg reads no such files."""
    paths = [path] if isinstance(path, str) else path
    readable = all(Path(one).is_dir() or one.lower().endswith(READABLE) for one in paths)
    return read_layers if readable and paths else None


def read_layers(path: str | list[str]) -> list[Layer]:
    """Read images, each as a layer.

    Raises
    ------
    InputError
        When a file cannot be read; napari shows the message.
    """
    paths = [path] if isinstance(path, str) else path
    return [Frame.of(read_image(one)).image_layer(Path(one).name) for one in paths]


def phantom_layers() -> list[Layer]:
    """Return two phantom chests of different people, to try the plugin on."""
    from samreg.phantoms import phantom_pair

    pair = phantom_pair(spacing=_PHANTOM_SPACING_MM)
    images = (("phantom, fixed", pair.fixed), ("phantom, moving", pair.moving))
    return [Frame.of(phantom.image).image_layer(name) for name, phantom in images]
