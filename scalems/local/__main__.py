"""``python -m scalems.local``."""

import sys

from scalems.local import main

if __name__ == "__main__":
    sys.exit(main())
