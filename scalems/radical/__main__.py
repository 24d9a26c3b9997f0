"""``python -m scalems.radical``."""

import sys

from scalems.radical import main

if __name__ == "__main__":
    sys.exit(main())
