"""A word problem while it is told: who is in it, what is counted, the sentences so far, and the steps of its program.

The pieces in data/stories.py speak both languages; a story keeps the sentence of its own and takes every step exactly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from thinkling.data.worked import Step, step

LIMIT = {1: 20, 2: 100, 3: 200, 4: 300}
"""Level -> no number of the story and no result is above it."""
FACTOR = {1: 5, 2: 9, 3: 9, 4: 9}
"""Level -> the largest number to multiply or divide by."""

ENGLISH_MEN = "Tom Ben Leo Max Sam Noah Omar Ivan Raj Hugo Adam Felix Kofi Luca Dan Paul Jack Liam Owen Jonas"
ENGLISH_WOMEN = "Mia Ana Lily Emma Zoe Nora Ruth Ines Maya Sara Eva Aisha Yuki Olga Kim Anna Rosa Ella Lucy Nina"
CHINESE_MEN = "小明 小刚 小强 小军 小华 小东 小龙 小亮 李雷 王磊 张伟 陈浩 刘洋 赵勇 周杰 吴刚 孙涛 徐飞 马超 高山"
CHINESE_WOMEN = "小红 小丽 小芳 小美 小玲 小雨 小云 小月 韩梅 王芳 李娜 陈静 赵敏 刘婷 周洁 吴霞 孙燕 徐慧 马兰 高敏"
PEOPLE = {
    "en": (ENGLISH_MEN.split(), ENGLISH_WOMEN.split()),
    "zh": (CHINESE_MEN.split(), CHINESE_WOMEN.split()),
}
"""Language -> names for 'he', names for 'she'; lists of one length, so that a seed tells the same story in both."""


@dataclass(frozen=True)
class Thing:
    """Something to count."""

    en: str
    zh: str
    measure: str
    """The Chinese measure word."""
    is_edible: bool = False


FOODS = """
apples 苹果 个, bananas 香蕉 根, cookies 饼干 块, candies 糖果 颗, oranges 橙子 个, grapes 葡萄 颗, peaches 桃子 个
plums 李子 个, dumplings 饺子 个, strawberries 草莓 颗, walnuts 核桃 个, muffins 松饼 块
eggs 鸡蛋 个, carrots 胡萝卜 根
"""
OBJECTS = """
pencils 铅笔 支, marbles 弹珠 颗, stickers 贴纸 张, books 书 本, balloons 气球 个, coins 硬币 枚, cards 卡片 张
stamps 邮票 张, shells 贝壳 个, buttons 纽扣 颗, toys 玩具 个, beads 珠子 颗, erasers 橡皮 块, postcards 明信片 张
flowers 花 朵, crayons 蜡笔 支, keys 钥匙 把, tickets 票 张, stones 石头 块, photos 照片 张
"""


def _things(listed: str, *, are_edible: bool) -> list[Thing]:
    words = [entry.split() for entry in listed.strip().replace("\n", ",").split(",")]
    return [Thing(en, zh, measure, are_edible) for en, zh, measure in words]


THINGS = (*_things(FOODS, are_edible=True), *_things(OBJECTS, are_edible=False))


class DoesNotComeOutError(Exception):
    """The numbers drawn give a story that cannot be. It is told again; nobody outside the story's telling sees this."""


@dataclass
class Story:
    """What was said, what was calculated, and how many things the main person has now."""

    rng: random.Random
    language: str
    level: int
    sentences: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    total: int = 0
    """What the main person has now."""
    others: int | None = None
    """What the second person has, where the opening tells it."""
    is_less_now: bool = False
    """Whether the last event made it less, so that the ending may ask what is left."""

    def __post_init__(self) -> None:
        names = PEOPLE[self.language]
        side = self.rng.randrange(2)
        self.who, other = self.rng.sample(names[side], 2)
        self.friend = self.rng.choice((other, self.rng.choice(names[1 - side])))
        self.pronoun = (("he", "she") if self.language == "en" else ("他", "她"))[side]
        self.thing = self.rng.choice(THINGS)

    @property
    def limit(self) -> int:
        """The largest number in the story."""
        return LIMIT[self.level]

    @property
    def room(self) -> int:
        """How many more the main person may get."""
        return self.limit - self.total

    def amount(self, high: int, low: int = 2) -> int:
        """A number of things from `low` to `high` and inside the limit; at least 2, so that plurals are right."""
        top = min(high, self.limit)
        if low > top:
            raise DoesNotComeOutError
        self.values.append(self.rng.randint(low, top))
        return self.values[-1]

    def factor(self, of: int = 1) -> int:
        """A number to multiply or divide by; its product with `of` stays inside the limit."""
        return self.amount(min(FACTOR[self.level], self.limit // of))

    def calculate(self, left: int, operator: str, right: int) -> int:
        """Take a step; its result has to be a whole number from 1 to the limit."""
        taken = step(left, operator, right)
        if taken.result.denominator != 1 or not 1 <= taken.result <= self.limit:
            raise DoesNotComeOutError
        self.steps.append(taken)
        return int(taken.result)

    def change(self, operator: str, number: int) -> None:
        """Take a step with what the main person has."""
        self.total = self.calculate(self.total, operator, number)
        self.is_less_now = operator in "-/"

    def say(self, *pairs: tuple[str, str]) -> None:
        """Say one of several (English, Chinese) sentences in the story's language."""
        en, zh = self.rng.choice(pairs)
        if self.language == "zh":
            self.sentences.append(zh)
        else:
            self.sentences.append(en[0].upper() + en[1:])
