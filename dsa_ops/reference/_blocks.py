"""Block loops that bound the temporaries of the references."""

from __future__ import annotations

from collections.abc import Iterator

#: Elements of the largest temporary of one block (128 MiB in float32).
BLOCK_ELEMENTS = 1 << 25


def blocks(total: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``range(total)``."""
    size = max(1, size)
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
