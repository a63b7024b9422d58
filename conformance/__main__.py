"""`python -m depthwise.conformance`."""

import sys

from depthwise.conformance.cli import main

sys.exit(main())
