"""The same as `python -m common partition`; stands here for one more release."""

import sys

from common.app.cli import main

if __name__ == "__main__":
    sys.exit(main(["partition", *sys.argv[1:]]))
