"""``python -m dplm2``."""

import sys

from dplm2.shared_start import main

sys.exit(main())
