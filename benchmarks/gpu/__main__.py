"""`python -m benchmarks.gpu`."""

import sys

from ..common.command import main
from .runner import BENCHMARKS

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="gpu"))
