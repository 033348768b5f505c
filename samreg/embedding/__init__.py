"""Anatomical embeddings: from an image to a vector per voxel.

torch is imported with the first use, not with this package; ``__init__.pyi`` lists what it offers.
"""

try:
    import lazy_loader
except ImportError:  # where samreg only trains, modules are imported by their own names
    __all__: list[str] = []
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
