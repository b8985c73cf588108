"""The same as `python -m common demo-data`; stands here for one more release."""

import sys

from common.app.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo-data", *sys.argv[1:]]))
