"""samreg: registration of body scans by self-supervised anatomical embeddings (SAM).

Public names are loaded on first use, so that ``import samreg`` stays fast; ``__init__.pyi`` lists them.

>>> import samreg
>>> samreg.register  # doctest: +ELLIPSIS
<function register at ...>
"""

from importlib.metadata import version

import lazy_loader

from samreg import _forked, _moved, _openmp

__version__ = version("samreg")
_moved.install()
_forked.install()
_openmp.install()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
