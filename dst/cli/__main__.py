"""``python -m dst.cli`` is ``dst``."""

import sys

from dst.cli import main

sys.exit(main())
