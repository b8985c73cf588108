"""The same as `python -m common segment`; stands here for one more release."""

import sys

from common.app.cli import main

if __name__ == "__main__":
    sys.exit(main(["segment", *sys.argv[1:]]))
