"""Numbers and lists as a reader wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor, isfinite, log10

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 3) -> str:
    """Three significant digits; powers of ten beyond a million and below a ten-thousandth.

    >>> number(0.0213456), number(1234.5), number(5.0), number(31600000.0)
    ('0.0213', '1230', '5', '3.16 × 10⁷')
    """
    if not isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    exponent = floor(log10(abs(float(f"{value:.{digits - 1}e}"))))
    if -4 <= exponent < 6:
        rounded = round(value, digits - 1 - exponent)
        text = f"{rounded:.{max(0, digits - 1 - exponent)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        text = f"{int(text):,}".replace(",", "\u202f") if exponent >= 4 else text  # a narrow space between thousands
    else:
        text = f"{value / 10**exponent:.{digits - 1}f} × {power_of_ten(exponent)}"
    return text.replace("-", "−")


def power_of_ten(exponent: int) -> str:
    """10 to an integer power.

    >>> power_of_ten(-4)
    '10⁻⁴'
    """
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def plain(value: float) -> str:
    """A setting as it was chosen; a power of ten where it is small or large.

    >>> plain(0.1), plain(1e-06), plain(3.16228e-05), plain(1000)
    ('0.1', '10⁻⁶', '3.16228·10⁻⁵', '1000')
    """
    mantissa, _, exponent = f"{value:g}".partition("e")
    if not exponent:
        return mantissa
    return power_of_ten(int(exponent)) if mantissa == "1" else f"{mantissa}·{power_of_ten(int(exponent))}"


def factor(value: float) -> str:
    """A ratio: two significant digits, "1.4" or "73".

    >>> factor(7.31), factor(0.95), factor(128.4), factor(1234.5)
    ('7.3', '0.95', '130', '1200')
    """
    return number(value, 2)


def listed(parts: Sequence[str], conjunction: str = "and") -> str:
    """Parts as a sentence lists them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {conjunction} {parts[-1]}"


def braces(values: Iterable[float]) -> str:
    """A named list of step sizes.

    >>> braces([0.05, 0.1])
    '{0.05, 0.1}'
    """
    return "{" + ", ".join(plain(value) for value in values) + "}"


def seeds(numbers: Iterable[int]) -> str:
    """How many seeds, and which.

    >>> seeds([100, 101, 102]), seeds([7]), seeds([1, 4])
    ('3 seeds (100–102)', '1 seed (7)', '2 seeds (1, 4)')
    """
    ordered = sorted(set(numbers))
    if not ordered:
        return ""
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        inside = f"{ordered[0]}–{ordered[-1]}"
    else:
        inside = ", ".join(map(str, ordered))
    return f"{len(ordered)} seed{'s' if len(ordered) != 1 else ''} ({inside})"
