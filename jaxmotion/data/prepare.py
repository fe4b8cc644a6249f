"""The earlier place of the command `python -m jaxmotion.prepare`."""

import sys

MOVED = "`python -m jaxmotion.data.prepare` is now `python -m jaxmotion.prepare`; its options are the same."

if __name__ == "__main__":
    sys.exit(MOVED)
