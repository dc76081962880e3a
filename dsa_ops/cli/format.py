"""Plain-text tables and the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def rate(per_second: float, unit: str) -> str:
    """Three digits and the prefix that fits them: ``rate(3.2e9, "B/s")`` is ``3.2 GB/s``."""
    if per_second >= 1e15:
        return f"{per_second / 1e12:.0f} T{unit}"
    for factor, prefix in _PREFIXES:
        # From 999.5 on, three digits would round up to the next prefix.
        if per_second >= 0.9995 * factor:
            return f"{per_second / factor:.3g} {prefix}{unit}"
    return f"{per_second:.3g} {unit}"


def number(value: float | None, form: str = ".3g") -> str:
    """The number, or a word where :func:`finite` left none."""
    return "none" if value is None else format(value, form)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; the first is aligned left, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )
