"""``python -m dsa_ops {info,check,demo}``."""

import sys

from .cli import main

sys.exit(main())
