"""``python -m samreg.cli``."""

from samreg.cli import main

main()
