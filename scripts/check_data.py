"""The same as `python -m common check`; stands here for one more release."""

import sys

from common.app.cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
