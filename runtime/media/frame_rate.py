"""Frame rates as people write them: 25, 29.97 or 30000/1001."""

from __future__ import annotations

import re
from fractions import Fraction

from ...errors import ConfigError
from ...text import quoted

RATE = re.compile(r"[0-9]{1,9}(?:[./][0-9]{1,18})?")  # no exponent: parsing a large one would never end
MIN_RATE, MAX_RATE = Fraction(1, 1000), Fraction(1000)
NTSC = Fraction(1000, 1001)
# Rates whose NTSC variant, 1000/1001 of them, is written as a decimal.
NTSC_RATES = (12, 15, 24, 30, 48, 60, 72, 90, 96, 120, 144, 240)


def frame_rate(text: str) -> Fraction:
    """Parse frames per second. Raises ConfigError outside 1/1000 to 1000.

    Decimals that stand for an NTSC rate mean that rate: 23.976 and 23.98 are 24000/1001.
    """
    try:
        value = Fraction(text if RATE.fullmatch(text) else 0).limit_denominator(1001)
    except ZeroDivisionError:
        value = Fraction(0)
    if not MIN_RATE <= value <= MAX_RATE:
        raise ConfigError(f"expected frames per second like 25 or 30000/1001, found {quoted(text)}")
    _, _, decimals = text.partition(".")
    if len(decimals) >= 2:
        unit = Fraction(1, 10 ** len(decimals))
        for rate in NTSC_RATES:
            # Rounded to these decimals, or cut off after them.
            if 0 <= rate * NTSC - Fraction(text) < unit or abs(rate * NTSC - Fraction(text)) <= unit / 2:
                return rate * NTSC
    return value
