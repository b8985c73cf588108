"""The same as `python -m common score`; stands here for one more release."""

import sys

from common.app.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
