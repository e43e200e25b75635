"""Work of processes that `tests/serve/test_workers.py` starts; a module of its own, since they import it."""

from __future__ import annotations

import time


def fail(number: int, code: int) -> int:
    """The first worker fails, the others would go on for a minute."""
    if number == 1:
        return code
    time.sleep(60)
    return 0
