"""``python -m samreg``, where the command ``samreg`` is not on the path."""

from samreg.cli import main

main()
