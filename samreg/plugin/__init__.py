"""The napari plugin: two images side by side, matches that follow the mouse, registration and what comes of it.

``session`` holds what is computed and ``placing`` where napari shows it; neither needs Qt or napari. ``reader`` opens
files as samreg reads them. ``widget`` is the panel on top, and ``napari.yaml`` tells napari of all this.
"""
