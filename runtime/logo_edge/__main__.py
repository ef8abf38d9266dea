"""`python -m logo_edge` is `logo-edge`."""

from logo_edge.cli.main import main

main()
