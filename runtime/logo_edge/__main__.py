"""`python -m logo_edge` is `logo-edge`."""

from logo_edge.cli import main

main()
