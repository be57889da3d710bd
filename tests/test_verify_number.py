"""Reading and comparing numbers: a battery of pairs with their truth, and laws of formatting."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError, DataError
from thinkling.verify import compare, parse_number, read_number
from thinkling.verify.chinese import chinese_integer

# What an answer says about the reference, in (reference, answer) pairs.
RIGHT = [
    # integers
    ("18", "18"), ("18", " 18 "), ("18", "+18"), ("18", "018"), ("25", "025"), ("18", "18.0"), ("18", "18."),
    ("7", "7."), ("1200", "1,200"), ("1200", "1 200"), ("1000", r"1\,000"), ("1000", "1{,}000"), ("1234", r"1,\!234"),
    ("1000", "1 000"), ("1200000", "1,200,000"), ("-5", "−5"), ("-5", "–5"), ("-5", "- 5"), ("-5", "-$5"),
    ("-5", "$-5"), ("0", "-0"),
    # marks around it
    ("18", "**18**"), ("18", "$18$"), ("18", "$$18$$"), ("18", r"\(18\)"), ("18", "`18`"), ("18", "{18}"),
    ("18", '"18"'), ("18", r"\text{18}"), ("73", "**73**."), ("13", r"\text{13}"), ("18", "** $18 **"), ("18", "18!"),
    ("18", "18$"),
    # fractions and mixed numbers
    ("1/2", r"\frac12"), ("1/2", r"\dfrac{1}{2}"), ("1/2", "½"), ("1/2", "2/4"), ("1/2", "0.5"), ("0.5", "1/2"),
    ("-1/2", r"-\frac{1}{2}"), ("-1/2", r"\frac{-1}{2}"), ("-1/2", r"\frac{1}{-2}"), ("15/4", "3 3/4"), ("3.5", "3½"),
    ("15/4", r"3\frac{3}{4}"), ("15/4", r"3\frac34"), (r"3\frac{3}{4}", "15/4"), ("15/4", "3 and 3/4"),
    ("15/4", "3又3/4"), ("1/2", "二分之一"), ("3/4", "四分之三"), ("1/2", r"\tfrac{1}{2}"), ("6", "12/2"),
    ("-7/2", "-3 1/2"),
    # decimals: another precision than the reference's
    ("0.33", "1/3"), ("66.67", "200/3"), ("3.14", "3.14159"), ("3.14159", "3.1416"), ("2.50", "2.5"), ("1/4", ".25"),
    # percent, where the reference declares it or leaves it out
    ("25%", "25%"), ("25%", "0.25"), ("25%", "1/4"), ("25%", r"25\%"), ("25%", "25 percent"), ("25%", "25"),
    ("25", "25%"), ("25%", "百分之25"), ("25%", "百分之二十五"), ("12.5%", "0.125"),
    # scientific
    ("1200", "1.2e3"), ("1200", r"1.2\times10^3"), ("1200", r"1.2\times 10^{3}"), ("1200", "1.2E+3"),
    ("1000", "10^3"), ("1200", "1.2×10³"), ("0.0012", "1.2e-3"), ("1200", "1.2·10^{3}"),
    # full-width, Chinese, unicode
    ("12", "１２"), ("12", "12个"), ("12", "12元"), ("12", "十二"), ("5", "5。"), ("5", "＝5"), ("3", "x＝3"),
    ("100000", "10万"), ("12", "一共有12个苹果"), ("1200", "１，２００"), ("12", "12\u200b"), ("2000", "两千"),
    ("15000", "1.5万"), ("5", "5千克"),
    # units, currency, words after it
    ("18", "$18"), ("18", "18 dollars"), ("18", "$18 per day."), ("18", "18 eggs"), ("5", r"5\text{ cm}"),
    ("5", "5 km/h"), ("90", r"90^\circ"), ("18", "18 (dollars)"), ("18", "18, which is less than before"),
    ("5", "5 m^2"), ("18", "18 a day"), ("18", "18. That is all."), ("18", "about 18"), ("72", "9 * 8 = 72"),
    ("5", "x = 5"), ("3000000", "3 million"), ("5 cm", "5 cm"), ("5 cm", "5"), ("5 dollars", "$5"),
    ("1 mile", "1 miles"),
    # minus in words, a count of times, quotes before the dot
    ("-5", "负5"), ("-5", "负五"), ("-5", "negative 5"), ("-5", "minus $5"), ("3", "3 times"), ("3", "3 times a day"),
    ("18", '"18".'), ("18", "“18”。"),
    # Chinese units that look like numbers
    ("12", "12个三角形"), ("3", "3点"), ("18", "18元一天"), ("5", "5两"), ("18", "18加仑"), ("12", "12种不同的排法"),
    ("5", "5个百分点"),
]  # fmt: skip

WRONG = [
    ("18", "17"), ("18", "-18"), ("12", "1,2"), ("1000", "1,0"), ("0", "1 000"), ("0", r"1\,000"), ("18", "180"),
    (r"3\frac{3}{4}", r"\frac{9}{4}"), ("9/4", "3 3/4"), ("1/2", "1/3"), ("9", "3 3"), ("50", "0.5"), ("50", "5000"),
    ("5%", "500"), ("5%", "0.5"), ("0.25", "25%"), ("500", "5%"), ("0.05", "5%"), ("0.000001", "0.0000012"),
    ("1e-20", "2e-20"), ("3.5", "3.6"), ("1234.5", "1234.6"), ("12345.5", "12345"), ("3", "3.1"), ("3", "3.00001"),
    ("1/3", "0.3333"), ("100", "100.01"), ("0.5", "0.54"), ("10", "10_2"), ("11", "11:30"), ("3", "2-3"),
    ("2", "2-3"), ("32", "3²"), ("3", "3^2"), ("312", "3½"), ("31", "3½"), ("4", r"4\sqrt(2)"), ("4", "4√2"),
    ("5 cm", "5 m"), ("5 m", "500 cm"), ("2", "2pi"), ("5", "5x"), ("5", "5 x"), ("23", "2**3"), ("2", "2**3"),
    ("5", "5 million"), ("5", "5 or 6"), ("6", "5 or 6"), ("5", "5, 6"), ("6", "5, 6"), ("6", "x = 5, x = 6"),
    ("3", "1, 2, 3, 4"), ("3", "1、2、3"), ("3", "1;2;3"), ("3", "{1, 2, 3}"), ("5", "not 5"), ("5", "5 and a half"),
    ("2", "2 thirds"), ("5", "10万"), ("10", "10万"), ("5", "5th"), ("1", "1 + 4"), ("4", "1 + 4"),
    ("2025", "In 2025 the answer was not found"), ("2", "7 (see step 2)"), ("1234.56", "1.234,56"), ("18", ""),
    ("18", "eighteen and a bit"), ("18", "None"), ("0", "nothing"), ("1", "True"), ("18", "--18"), ("18", "18 18"),
    ("5", "负5"), ("5", "正负5"), ("5", "x negative 5"), ("2", "5 minus 3"), ("12", "3 times 4"),
    # A Chinese number goes on behind its first word.
    ("3", "三点五"), ("3", "3点2"), ("3", "三点半"), ("3", "3个半"), ("3", "三个半小时"),
    ("1", "一半"), ("1", "一些"), ("1", "一样多"),
    ("5", "五或六"), ("5", "五到六个"), ("6", "五到六个"), ("3", "三加四"), ("3", "三乘以四"),
    ("10", "十多个"), ("10", "十几个"),
    ("10", "十来个"), ("30", "三十余"), ("3", "3个多小时"), ("5", "5又二分之一"),
    ("18", "十八和二十"), ("18", "十八，二十"), ("2", "两小时三十分"),
    ("3", "三天五小时"), ("5", "五元五角"), ("5", "五元一角"), ("18", "18以上"), ("18", "18个以下"), ("18", "18不对"),
    ("5", "5百米"), ("8", "八成"),
    ("5", "5 = 6"), ("350", "三百五"), ("305", "三百五"), ("5", "5\u0660"), ("18", "18\n19"),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "answer"), RIGHT)
def test_an_answer_that_says_the_reference_is_right(reference, answer):
    verdict = compare(answer, reference)
    assert (verdict.status, verdict.score) == ("right", 1.0), verdict


@pytest.mark.parametrize(("reference", "answer"), WRONG)
def test_an_answer_that_does_not_say_the_reference_scores_nothing(reference, answer):
    verdict = compare(answer, reference)
    assert verdict.status in ("wrong", "unparsable"), verdict
    assert verdict.score == 0.0


@pytest.mark.parametrize(
    ("text", "value", "kind", "places"),
    [
        ("1,200", Fraction(1200), "integer", 0),
        ("3.50", Fraction(7, 2), "decimal", 2),
        ("1/2", Fraction(1, 2), "fraction", 0),
        ("12.5%", Fraction(1, 8), "percent", 1),
        ("3 1/2", Fraction(7, 2), "mixed", 0),
        ("1.25e1", Fraction(25, 2), "decimal", 1),
        ("1.2e3", Fraction(1200), "integer", 0),
    ],
)
def test_a_number_keeps_its_exact_value_its_kind_and_its_places(text, value, kind, places):
    number = parse_number(text)
    assert number is not None
    assert (number.value, number.kind, number.digits_after_point) == (value, kind, places)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1,2", "1,2345", "12,34,567", "1 2", "11:30", "2-3", "5 apples", "$5", "1/0", "3 4/3", "1e999",
        "9" * 101, "1.2.3", "0x10", "1_000", "nan", "inf", "1/2/3", "１２,３", "²", "--1", "+-1", "5" + " " * 400,
    ],
)  # fmt: skip
def test_what_is_not_one_number_is_not_parsed(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("answer", "reference", "flag"),
    [
        ("18 eggs", "18", "unit_unchecked"),
        ("5", "5 cm", "unit_missing"),
        ("25%", "25", "percent_sign"),
        ("25", "25%", "percent_missing"),
        ("about 18", "18", "approximate"),
        ("9 * 8 = 72", "72", "equation"),
        ("18. That is all.", "18", "text_after"),
        ("1/3", "0.33", "within_tolerance"),
        ("1, 2", "1", "several_answers"),
    ],
)
def test_what_was_tolerated_is_flagged(answer, reference, flag):
    assert flag in compare(answer, reference).flags


def test_a_plain_right_answer_carries_no_flag():
    assert compare("1,200", "1200").flags == ()


@pytest.mark.parametrize("reference", ["", "many", "1, 2", r"\{1,200\}", "x^2", "<answer>", "1/0"])
def test_a_reference_that_cannot_be_read_is_an_error_of_the_data(reference):
    with pytest.raises(DataError, match="reference"):
        compare("18", reference)


def test_an_unknown_kind_names_the_closest():
    with pytest.raises(ConfigError, match="did you mean 'number'"):
        compare("18", "18", kind="numbr")


fractions = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6)
decimals = st.decimals(min_value=-(10**9), max_value=10**9, places=4, allow_nan=False)

REWRITES = [
    lambda text: text,
    lambda text: f"  {text}  ",
    lambda text: f"**{text}**",
    lambda text: f"${text}$",
    lambda text: rf"\({text}\)",
    lambda text: f"x = {text}",
    lambda text: f"is {text}",
    lambda text: f"{text} apples",
    lambda text: f"{text}个",
    lambda text: f"{text} (in total)",
    lambda text: text.translate({ord(digit): chr(ord(digit) + 0xFEE0) for digit in "0123456789"}),
    lambda text: text.replace("-", "−"),
    lambda text: rf"\text{{{text}}}",
    lambda text: f"{text}\u200b",
    lambda text: f"{text}。",
]


@given(fractions)
def test_every_fraction_is_read_as_itself(value):
    number = parse_number(str(value))
    assert number is not None
    assert number.value == value


@given(decimals)
def test_every_decimal_is_read_as_itself(value):
    number = parse_number(f"{value:,f}")
    assert number is not None
    assert number.value == Fraction(value)


@given(fractions, fractions, st.sampled_from(REWRITES))
def test_rewriting_an_answer_changes_no_verdict(reference, answer, rewrite):
    expected = "right" if reference == answer else "wrong"
    assert compare(rewrite(str(answer)), str(reference)).status == expected
    assert compare(rewrite(str(reference)), str(reference)).status == "right"


@given(fractions)
def test_an_exact_comparison_is_symmetric_and_a_reference_answers_itself(value):
    assert compare(str(value), str(value)).status == "right"
    assert compare(str(value + 1), str(value)).status == "wrong"
    assert compare(str(value), str(value + 1)).status == "wrong"


@given(st.text(max_size=400))
def test_any_text_gets_a_reading_and_never_an_exception(text):
    assert (read_number(text).number is None) == bool(read_number(text).reason)


@given(st.text("0123456789.,/%e^*+-= ×½²万分之十x$\\{}frac()[];:or", max_size=60))
def test_any_text_of_number_characters_gets_a_verdict(text):
    assert compare(text, "18").status in ("right", "wrong", "unparsable")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("零", 0), ("十", 10), ("十二", 12), ("二十", 20), ("九十九", 99), ("一百", 100), ("一百零三", 103),
        ("一百一十", 110), ("两千零五", 2005), ("一万", 10_000), ("十二万三千", 123_000), ("一万零五", 10_005),
        ("三亿五千万", 350_000_000),
    ],
)  # fmt: skip
def test_chinese_numerals_have_their_value(text, value):
    assert chinese_integer(text) == value


@pytest.mark.parametrize("text", ["", "三百五", "一万五", "零五", "万", "一二", "十百", "一百零", "五个", "一" * 30])
def test_ambiguous_or_broken_chinese_numerals_are_refused(text):
    assert chinese_integer(text) is None


def in_chinese(number: int) -> str:
    """The written form of 0 to 9999, an independent way round."""
    if number == 0:
        return "零"
    digits, places, text, zero = "零一二三四五六七八九", ["", "十", "百", "千"], "", False
    for place in (3, 2, 1, 0):
        digit = number // 10**place % 10
        if digit == 0:
            zero = bool(text)
            continue
        text += ("零" if zero else "") + digits[digit] + places[place]
        zero = False
    return text.removeprefix("一") if text.startswith("一十") else text


@given(st.integers(0, 9999))
def test_every_chinese_numeral_below_ten_thousand_is_read_as_itself(number):
    assert chinese_integer(in_chinese(number)) == number
