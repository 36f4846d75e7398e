"""``python -m dplm2``."""

import sys

from dplm2.cli import main

sys.exit(main())
