"""`python -m gollm` is the `gollm` command."""

import sys

from gollm.cli.main import main

sys.exit(main())
