"""``python -m build_engines``: the same as ``wanspec build-engines``."""

from __future__ import annotations

import sys

from wanspec.cli import main

if __name__ == "__main__":
    main(["build-engines", *sys.argv[1:]])
