"""Chinese numerals: 十二 is 12, 一百零三 is 103, 两千 is 2000, 三亿五千万 is 350000000.

Spoken short forms (三百五 for 350, 一万五 for 15000) are refused, because they are easily taken for 305 and 10005.
"""

from __future__ import annotations

DIGITS = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9}
UNITS = (("亿", 100_000_000), ("万", 10_000), ("千", 1000), ("百", 100), ("十", 10))
CHARACTERS = "".join(DIGITS) + "".join(name for name, _ in UNITS)
MAX_CHARACTERS = 24


def chinese_integer(text: str) -> int | None:
    """The value of a numeral, or None where it is none."""
    if not text or len(text) > MAX_CHARACTERS or any(character not in CHARACTERS for character in text):
        return None
    if len(text) > 1 and text[0] in "零〇":
        return None
    return _value(text, 0)


def _value(text: str, unit: int) -> int | None:
    """The value of `text`, in which no unit larger than UNITS[unit] may stand."""
    if unit == len(UNITS):
        return DIGITS.get(text)
    name, size = UNITS[unit]
    head, found, tail = text.rpartition(name)
    if not found:
        return _value(text, unit + 1)
    # 十二 needs no 一 before 十; 十, 百 and 千 are counted by one digit, 万 by up to 千 and 亿 by up to 万.
    count = 1 if not head and name == "十" else DIGITS.get(head[-1:]) if size < 10_000 else _value(head, unit + 1)
    if size < 10_000 and len(head) > 1:
        return None
    rest = _rest(tail, unit)
    return None if not count or rest is None else count * size + rest


def _rest(tail: str, unit: int) -> int | None:
    """What follows a unit: nothing, smaller units, or a last digit, after 零 unless the unit was 十."""
    after_zero = tail.lstrip("零〇")
    if not tail or not after_zero:
        return 0 if not tail else None
    if len(after_zero) == 1 and after_zero == tail and UNITS[unit][0] != "十" and after_zero in DIGITS:
        return None
    return _value(after_zero, unit + 1)
