"""`python -m common` in a checkout, `python -m kits_lite_v...` in a bundle's folder: the command line."""

import sys

from .app.cli import main

if __name__ == "__main__":
    sys.exit(main())
