"""samreg: registration of body scans by self-supervised anatomical embeddings (SAM).

Public names are loaded on first use, so that ``import samreg`` stays fast; ``__init__.pyi`` lists them.

>>> import samreg
>>> samreg.register  # doctest: +ELLIPSIS
<function register at ...>
"""

from importlib.metadata import PackageNotFoundError, version

from samreg import _forked, _moved, _openmp

try:
    __version__ = version("samreg")
except PackageNotFoundError:  # the source on PYTHONPATH, on a machine that only trains
    __version__ = "unknown"
_moved.install()
_forked.install()
_openmp.install()

try:
    import lazy_loader
except ImportError:  # with torch and numpy alone, samreg.training works, and the public names are not offered here
    __all__: list[str] = []
else:
    __getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
