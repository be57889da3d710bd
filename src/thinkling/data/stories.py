"""Word problems as programs: a story is an opening, some events and a question, told in English or in Chinese.

Each piece draws its numbers, says its sentence in both languages and does its own calculation, so the answer, every value on
the way and the number of steps are known exactly. Pieces combine freely: 11 openings, 12 events and 6 endings, beside 14
scenes that are complete in themselves. A story whose numbers do not come out (a result below 1, above the level's limit, or no
whole number) is thrown away and told again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from thinkling.data.generated import Item, solution, worked_lines
from thinkling.data.worked import Step, step

LEVELS = (1, 2, 3, 4)
LEVEL_NOTES = {
    1: "one or two steps, nothing above 20",
    2: "two steps, nothing above 100",
    3: "three steps, nothing above 200",
    4: "four steps, nothing above 300",
}
LIMIT = {1: 20, 2: 100, 3: 200, 4: 300}
"""Level -> no number of the story and no result is above it."""
FACTOR = {1: 5, 2: 9, 3: 9, 4: 9}
"""Level -> the largest number to multiply or divide by."""

PEOPLE = {
    "en": (
        (
            "Tom",
            "Ben",
            "Leo",
            "Max",
            "Sam",
            "Noah",
            "Omar",
            "Ivan",
            "Raj",
            "Hugo",
            "Adam",
            "Felix",
            "Kofi",
            "Luca",
            "Dan",
        ),
        (
            "Mia",
            "Ana",
            "Lily",
            "Emma",
            "Zoe",
            "Nora",
            "Ruth",
            "Ines",
            "Maya",
            "Sara",
            "Eva",
            "Aisha",
            "Yuki",
            "Olga",
            "Kim",
        ),
    ),
    "zh": (
        ("小明", "小刚", "小强", "小军", "小华", "李雷", "王磊", "张伟", "陈浩", "刘洋"),
        ("小红", "小丽", "小芳", "小美", "小玲", "韩梅", "王芳", "李娜", "陈静", "赵敏"),
    ),
}
"""Language -> names for 'he', names for 'she'."""


@dataclass(frozen=True)
class Thing:
    """Something to count."""

    en: str
    zh: str
    measure: str
    """The Chinese measure word."""
    edible: bool = False


THINGS = (
    Thing("apples", "苹果", "个", True), Thing("bananas", "香蕉", "根", True), Thing("cookies", "饼干", "块", True),
    Thing("candies", "糖果", "颗", True), Thing("oranges", "橙子", "个", True), Thing("grapes", "葡萄", "颗", True),
    Thing("peaches", "桃子", "个", True), Thing("plums", "李子", "个", True), Thing("dumplings", "饺子", "个", True),
    Thing("strawberries", "草莓", "颗", True), Thing("walnuts", "核桃", "个", True), Thing("muffins", "蛋糕", "个", True),
    Thing("pencils", "铅笔", "支"), Thing("marbles", "弹珠", "颗"), Thing("stickers", "贴纸", "张"),
    Thing("books", "书", "本"), Thing("balloons", "气球", "个"), Thing("coins", "硬币", "枚"), Thing("cards", "卡片", "张"),
    Thing("stamps", "邮票", "张"), Thing("shells", "贝壳", "个"), Thing("buttons", "纽扣", "颗"), Thing("toys", "玩具", "个"),
    Thing("beads", "珠子", "颗"), Thing("erasers", "橡皮", "块"), Thing("postcards", "明信片", "张"),
    Thing("flowers", "花", "朵"), Thing("crayons", "蜡笔", "支"), Thing("keys", "钥匙", "把"), Thing("tickets", "票", "张"),
)  # fmt: skip
CONTAINERS = (("bag", "袋"), ("box", "盒"), ("basket", "篮"), ("pack", "包"), ("jar", "罐"))


class _DoesNotComeOutError(Exception):
    """The numbers drawn give a story that cannot be: told again, never seen outside."""


@dataclass
class Story:
    """A story while it is told: what was said, what was calculated, and how many things there are now."""

    rng: random.Random
    language: str
    level: int
    sentences: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    total: int = 0
    """What the main person has now."""
    others: int | None = None
    """What the second person has, where the opening has told it."""

    def __post_init__(self) -> None:
        names = PEOPLE[self.language]
        side, side_friend = self.rng.randrange(2), self.rng.randrange(2)
        self.who = self.rng.choice(names[side])
        self.friend = self.rng.choice([name for name in names[side_friend] if name != self.who])
        self.he = (("he", "she") if self.language == "en" else ("他", "她"))[side]
        self.He = self.he.capitalize()
        self.thing = self.rng.choice(THINGS)
        self.things = self.thing.en

    def amount(self, high: int | None = None) -> int:
        """A number of things, at least 2 so that plurals are right."""
        top = min(LIMIT[self.level], high if high is not None else LIMIT[self.level])
        if top < 2:
            raise _DoesNotComeOutError
        self.values.append(self.rng.randint(2, top))
        return self.values[-1]

    def factor(self) -> int:
        """A number to multiply or divide by."""
        self.values.append(self.rng.randint(2, FACTOR[self.level]))
        return self.values[-1]

    def calculate(self, left: int, operator: str, right: int) -> int:
        """Take a step; its result has to be a whole number from 1 to the level's limit."""
        taken = step(left, operator, right)
        if taken.result.denominator != 1 or not 1 <= taken.result <= LIMIT[self.level]:
            raise _DoesNotComeOutError
        self.steps.append(taken)
        return int(taken.result)

    def say(self, en: str, zh: str) -> None:
        """Add a sentence in the story's language."""
        self.sentences.append(en if self.language == "en" else zh)

    def one_of(self, *pairs: tuple[str, str]) -> None:
        """Say one of several (English, Chinese) sentences."""
        self.say(*self.rng.choice(pairs))

    def multiple_of(self, factor: int) -> int:
        """A number of things that can be shared by `factor`."""
        top = LIMIT[self.level] // factor
        self.values.append(factor * self.rng.randint(2, top))
        return self.values[-1]


# Openings: who has how many. Each sets `total`.


def _has(s: Story) -> None:
    s.total = s.amount()
    t = s.thing
    s.one_of(
        (f"{s.who} has {s.total} {s.things}.", f"{s.who}有{s.total}{t.measure}{t.zh}。"),
        (f"There are {s.total} {s.things} on {s.who}'s table.", f"{s.who}的桌上有{s.total}{t.measure}{t.zh}。"),
        (f"{s.who} starts the day with {s.total} {s.things}.", f"早上{s.who}有{s.total}{t.measure}{t.zh}。"),
    )


def _person_has(s: Story) -> None:
    s.who, s.he, s.He = ("The person", "they", "They") if s.language == "en" else ("这个人", "他", "他")
    s.total = s.amount()
    s.say(f"A person has {s.total} {s.things}.", f"一个人有{s.total}{s.thing.measure}{s.thing.zh}。")


def _groups(s: Story) -> None:
    groups, each, t = s.factor(), s.factor(), s.thing
    box, box_zh = s.rng.choice(CONTAINERS)
    boxes = "boxes" if box == "box" else box + "s"
    s.one_of(
        (f"{s.who} buys {groups} {boxes} of {s.things} with {each} in each.",
         f"{s.who}买了{groups}{box_zh}{t.zh}，每{box_zh}{each}{t.measure}。"),
        (f"{s.who} has {groups} {boxes}. Each {box} holds {each} {s.things}.",
         f"{s.who}有{groups}{box_zh}{t.zh}，每{box_zh}有{each}{t.measure}。"),
    )  # fmt: skip
    s.total = s.calculate(groups, "*", each)


def _two_kinds(s: Story) -> None:
    first, second, t = s.amount(), s.amount(), s.thing
    a, b, a_zh, b_zh = s.rng.choice(
        (("big", "small", "大", "小"), ("new", "old", "新", "旧"), ("red", "green", "红", "绿"))
    )
    s.say(
        f"{s.who} has {first} {a} {s.things} and {second} {b} {s.things}.",
        f"{s.who}有{first}{t.measure}{a_zh}{t.zh}和{second}{t.measure}{b_zh}{t.zh}。",
    )
    s.total = s.calculate(first, "+", second)


def _times_as_many(s: Story) -> None:
    s.others, times, t = s.amount(LIMIT[s.level] // 2), s.factor(), s.thing
    often = "twice" if times == 2 else f"{times} times"
    s.say(
        f"{s.friend} has {s.others} {s.things}. {s.who} has {often} as many.",
        f"{s.friend}有{s.others}{t.measure}{t.zh}，{s.who}的{t.zh}是{s.friend}的{times}倍。",
    )
    s.total = s.calculate(s.others, "*", times)


def _half_as_many(s: Story) -> None:
    s.others, t = s.multiple_of(2), s.thing
    s.say(
        f"{s.friend} has {s.others} {s.things}. {s.who} has half as many.",
        f"{s.friend}有{s.others}{t.measure}{t.zh}，{s.who}的{t.zh}是{s.friend}的一半。",
    )
    s.total = s.calculate(s.others, "/", 2)


def _more_than(s: Story) -> None:
    s.others, more, t = s.amount(), s.amount(), s.thing
    s.say(
        f"{s.friend} has {s.others} {s.things}. {s.who} has {more} more than {s.friend}.",
        f"{s.friend}有{s.others}{t.measure}{t.zh}，{s.who}比{s.friend}多{more}{t.measure}。",
    )
    s.total = s.calculate(s.others, "+", more)


def _fewer_than(s: Story) -> None:
    s.others, t = s.amount(), s.thing
    fewer = s.amount(s.others - 1)
    s.say(
        f"{s.friend} has {s.others} {s.things}. {s.who} has {fewer} fewer than {s.friend}.",
        f"{s.friend}有{s.others}{t.measure}{t.zh}，{s.who}比{s.friend}少{fewer}{t.measure}。",
    )
    s.total = s.calculate(s.others, "-", fewer)


def _daily(s: Story) -> None:
    daily, days, t = s.factor(), s.factor(), s.thing
    s.one_of(
        (f"{s.who} collects {daily} {s.things} a day for {days} days.", f"{s.who}每天收集{daily}{t.measure}{t.zh}，收集了{days}天。"),
        (f"For {days} days {s.who} gets {daily} {s.things} every day.", f"{s.who}连续{days}天每天得到{daily}{t.measure}{t.zh}。"),
    )  # fmt: skip
    s.total = s.calculate(daily, "*", days)


def _shared_out(s: Story) -> None:
    children, t = s.factor(), s.thing
    whole = s.multiple_of(children)
    s.say(
        f"{whole} {s.things} are shared equally among {children} children. One of them is {s.who}.",
        f"把{whole}{t.measure}{t.zh}平均分给{children}个孩子，{s.who}是其中一个。",
    )
    s.total = s.calculate(whole, "/", children)


def _two_loads(s: Story) -> None:
    bags, in_bag, boxes, in_box, t = s.factor(), s.factor(), s.factor(), s.factor(), s.thing
    s.say(
        f"{s.who} has {bags} bags with {in_bag} {s.things} each and {boxes} boxes with {in_box} {s.things} each.",
        f"{s.who}有{bags}袋{t.zh}，每袋{in_bag}{t.measure}；还有{boxes}盒{t.zh}，每盒{in_box}{t.measure}。",
    )
    s.total = s.calculate(s.calculate(bags, "*", in_bag), "+", s.calculate(boxes, "*", in_box))


# Events: something happens to what the main person has.


def _buys(s: Story) -> None:
    more, t = s.amount(), s.thing
    s.one_of(
        (f"{s.He} buys {more} more.", f"{s.he}又买了{more}{t.measure}。"),
        (f"{s.He} finds {more} more.", f"{s.he}又找到{more}{t.measure}。"),
        (f"A friend brings {more} more.", f"朋友又拿来{more}{t.measure}。"),
        (f"Then {s.he} gets {more} more from an uncle.", f"后来叔叔又给了{more}{t.measure}。"),
    )
    s.total = s.calculate(s.total, "+", more)


def _loses(s: Story) -> None:
    fewer, t = s.amount(s.total - 1), s.thing
    s.one_of(
        (f"{s.He} gives {fewer} away.", f"{s.he}送出{fewer}{t.measure}。"),
        (f"{s.He} gives {fewer} to a friend.", f"{s.he}给了朋友{fewer}{t.measure}。"),
        (f"{s.He} loses {fewer}.", f"{s.he}弄丢了{fewer}{t.measure}。"),
        (f"{s.He} sells {fewer}.", f"{s.he}卖掉{fewer}{t.measure}。"),
    )
    s.total = s.calculate(s.total, "-", fewer)


def _eats(s: Story) -> None:
    if not s.thing.edible:
        raise _DoesNotComeOutError
    eaten, t = s.amount(s.total - 1), s.thing
    s.one_of(
        (f"{s.He} and eats {eaten}.".replace(" and", ""), f"{s.he}吃了{eaten}{t.measure}。"),
        (f"{eaten} of them are eaten.", f"其中{eaten}{t.measure}被吃掉了。"),
    )
    s.total = s.calculate(s.total, "-", eaten)


def _breaks(s: Story) -> None:
    gone, t = s.amount(s.total - 1), s.thing
    s.one_of(
        (f"{gone} of them are stolen.", f"其中{gone}{t.measure}被偷走了。"),
        (f"{gone} of them go missing.", f"其中{gone}{t.measure}不见了。"),
        (f"{s.He} throws {gone} away.", f"{s.he}扔掉了{gone}{t.measure}。"),
    )
    s.total = s.calculate(s.total, "-", gone)


def _gives_half(s: Story) -> None:
    s.one_of(
        (f"{s.He} gives half of them away.", f"{s.he}把其中的一半送人。"),
        (f"{s.He} sells half of them.", f"{s.he}卖掉其中的一半。"),
    )
    s.total = s.calculate(s.total, "/", 2)


def _doubles(s: Story) -> None:
    times = s.rng.choice((2, 3))
    word = {2: "doubles", 3: "triples"}[times]
    s.say(f"By the evening the number {word}.", f"到了晚上，数量变成原来的{times}倍。")
    s.values.append(times)
    s.total = s.calculate(s.total, "*", times)


# Endings: what is asked.


def _how_many_now(s: Story) -> None:
    t, lost = s.thing, bool(s.steps) and s.steps[-1].operator == "-"
    does, has = ("do", "have") if s.he == "they" else ("does", "have")
    if lost:
        s.one_of(
            (f"How many {s.things} are left?", f"还剩多少{t.measure}{t.zh}？"),
            (f"How many {s.things} {does} {s.he} {has} left?", f"{s.he}还剩多少{t.measure}{t.zh}？"),
        )
    else:
        s.one_of(
            (f"How many {s.things} {does} {s.he} {has} now?", f"{s.he}现在有多少{t.measure}{t.zh}？"),
            (f"How many {s.things} {does} {s.who} {has}?".replace("The person", "the person"),
             f"{s.who}一共有多少{t.measure}{t.zh}？"),
        )  # fmt: skip


def _shares(s: Story) -> None:
    parts, t = s.factor(), s.thing
    s.one_of(
        (f"{s.He} {_verb(s, 'put')} them equally into {parts} boxes. How many {s.things} are in each box?",
         f"{s.he}把它们平均放进{parts}个盒子。每个盒子有多少{t.measure}{t.zh}？"),
        (f"{parts} children share them equally. How many does each child get?",
         f"{parts}个孩子平均分这些{t.zh}。每个孩子分到多少{t.measure}？"),
    )  # fmt: skip
    s.total = s.calculate(s.total, "/", parts)


def _price(s: Story) -> None:
    price, t = s.factor(), s.thing
    s.one_of(
        (f"{s.He} {_verb(s, 'sell')} them all for {price} dollars each. How many dollars {_does(s)} {s.he} get?",
         f"{s.he}把它们全部卖掉，每{t.measure}{price}元。{s.he}一共得到多少元？"),
        (f"Each one costs {price} dollars. How many dollars do they cost in all?",
         f"每{t.measure}{price}元。这些{t.zh}一共多少元？"),
    )  # fmt: skip
    s.total = s.calculate(s.total, "*", price)


def _needs(s: Story) -> None:
    wanted, t = s.amount(), s.thing
    s.say(
        f"{s.He} {_verb(s, 'want')} {wanted}. How many more {s.things} {_does(s)} {s.he} need?",
        f"{s.he}想要{wanted}{t.measure}。{s.he}还需要多少{t.measure}{t.zh}？",
    )
    s.total = s.calculate(wanted, "-", s.total)


def _together(s: Story) -> None:
    if s.others is None:
        raise _DoesNotComeOutError
    t = s.thing
    s.say(
        f"How many {s.things} do {s.who} and {s.friend} have together?",
        f"{s.who}和{s.friend}一共有多少{t.measure}{t.zh}？",
    )
    s.total = s.calculate(s.others, "+", s.total)


def _difference(s: Story) -> None:
    if s.others is None:
        raise _DoesNotComeOutError
    t, more, fewer = s.thing, s.who, s.friend
    if s.total < s.others:
        more, fewer = fewer, more
    s.say(f"How many more {s.things} does {more} have than {fewer}?", f"{more}比{fewer}多多少{t.measure}{t.zh}？")
    s.total = s.calculate(max(s.total, s.others), "-", min(s.total, s.others))


def _verb(s: Story, stem: str) -> str:
    return stem if s.he == "they" else stem + "s"


def _does(s: Story) -> str:
    return "do" if s.he == "they" else "does"


# Scenes: complete stories with a plan of their own.


def _change(s: Story) -> None:
    money, items, price = s.amount(), s.factor(), s.factor()
    t = s.thing
    s.say(
        f"{s.who} has {money} dollars and buys {items} {s.things} for {price} dollars each. How many dollars are left?",
        f"{s.who}有{money}元，买了{items}{t.measure}{t.zh}，每{t.measure}{price}元。还剩多少元？",
    )
    s.calculate(money, "-", s.calculate(items, "*", price))


def _pages(s: Story) -> None:
    pages, daily, days = s.amount(), s.factor(), s.factor()
    s.say(
        f"A book has {pages} pages. {s.who} reads {daily} pages a day for {days} days. How many pages are left to read?",
        f"一本书有{pages}页，{s.who}每天读{daily}页，读了{days}天。还剩多少页没读？",
    )
    s.calculate(pages, "-", s.calculate(daily, "*", days))


def _bus(s: Story) -> None:
    riders = s.amount()
    off, on = s.amount(riders - 1), s.amount()
    s.say(
        f"A bus has {riders} passengers. {off} get off and {on} get on. How many passengers are on the bus now?",
        f"公共汽车上有{riders}名乘客，下去{off}人，上来{on}人。现在车上有多少人？",
    )
    s.calculate(s.calculate(riders, "-", off), "+", on)


def _ages(s: Story) -> None:
    age, older, times = s.amount(12), s.amount(8), s.factor()
    s.say(
        f"{s.who} is {age} years old. {s.friend} is {older} years older. Their grandmother is {times} times as old as {s.friend}."
        f" How old is the grandmother?",
        f"{s.who}今年{age}岁，{s.friend}比{s.who}大{older}岁，奶奶的年龄是{s.friend}的{times}倍。奶奶多少岁？",
    )
    s.calculate(s.calculate(age, "+", older), "*", times)


def _travel(s: Story) -> None:
    speed, hours, more = s.amount(LIMIT[s.level] // 2), s.factor(), s.amount()
    s.say(
        f"{s.who} rides {speed} km an hour for {hours} hours and then {more} km more. How many km is that in all?",
        f"{s.who}以每小时{speed}千米的速度骑了{hours}小时，然后又骑了{more}千米。一共骑了多少千米？",
    )
    s.calculate(s.calculate(speed, "*", hours), "+", more)


def _wages(s: Story) -> None:
    pay, hours, spent = s.factor(), s.factor(), s.amount()
    s.say(
        f"{s.who} earns {pay} dollars an hour and works {hours} hours. {s.He} spends {spent} dollars. How many dollars are left?",
        f"{s.who}每小时挣{pay}元，工作了{hours}小时，花掉{spent}元。还剩多少元？",
    )
    s.calculate(s.calculate(pay, "*", hours), "-", spent)


def _class(s: Story) -> None:
    pupils = s.amount()
    boys = s.amount(pupils // 2 - 1)
    s.say(
        f"A class has {pupils} children, and {boys} of them are boys. How many more girls than boys are there?",
        f"一个班有{pupils}名学生，其中{boys}名是男生。女生比男生多多少名？",
    )
    s.calculate(s.calculate(pupils, "-", boys), "-", boys)


def _rows(s: Story) -> None:
    rows, each, dead = s.factor(), s.factor(), s.amount()
    s.say(
        f"A garden has {rows} rows of {each} trees. {dead} trees are cut down. How many trees are left?",
        f"果园里有{rows}行树，每行{each}棵，砍掉了{dead}棵。还剩多少棵树？",
    )
    s.calculate(s.calculate(rows, "*", each), "-", dead)


def _two_prices(s: Story) -> None:
    first, first_price, second, second_price = s.factor(), s.factor(), s.factor(), s.factor()
    s.say(
        f"{s.who} buys {first} pens for {first_price} dollars each and {second} books for {second_price} dollars each."
        f" How many dollars does {s.he} pay?",
        f"{s.who}买了{first}支钢笔，每支{first_price}元，又买了{second}本书，每本{second_price}元。{s.he}一共付多少元？",
    )
    s.calculate(s.calculate(first, "*", first_price), "+", s.calculate(second, "*", second_price))


def _legs(s: Story) -> None:
    cows, hens = s.amount(LIMIT[s.level] // 6), s.amount(LIMIT[s.level] // 4)
    s.values += [4, 2]
    s.say(
        f"A farm has {cows} cows with 4 legs each and {hens} hens with 2 legs each. How many legs is that in all?",
        f"农场里有{cows}头牛，每头4条腿，还有{hens}只鸡，每只2条腿。一共有多少条腿？",
    )
    s.calculate(s.calculate(cows, "*", 4), "+", s.calculate(hens, "*", 2))


def _saving(s: Story) -> None:
    goal, saved, weekly = s.amount(), s.amount(), s.factor()
    s.say(
        f"A toy costs {goal} dollars. {s.who} has {saved} dollars and saves {weekly} dollars a week. "
        f"How many weeks does {s.he} have to save?",
        f"一个玩具{goal}元，{s.who}已有{saved}元，每周存{weekly}元。{s.he}要存多少周？",
    )
    s.calculate(s.calculate(goal, "-", saved), "/", weekly)


def _teams(s: Story) -> None:
    boys, girls, teams = s.amount(), s.amount(), s.factor()
    s.say(
        f"{boys} boys and {girls} girls form {teams} equal teams. How many children are in each team?",
        f"{boys}名男生和{girls}名女生平均分成{teams}队。每队有多少人？",
    )
    s.calculate(s.calculate(boys, "+", girls), "/", teams)


def _three_friends(s: Story) -> None:
    first, more, times, t = s.amount(), s.amount(), s.factor(), s.thing
    s.say(
        f"{s.who} has {first} {s.things}. {s.friend} has {more} more than {s.who}, and a neighbor has {times} times as many as "
        f"{s.friend}. How many {s.things} do {s.friend} and the neighbor have together?",
        f"{s.who}有{first}{t.measure}{t.zh}，{s.friend}比{s.who}多{more}{t.measure}，邻居的是{s.friend}的{times}倍。"
        f"{s.friend}和邻居一共有多少{t.measure}{t.zh}？",
    )
    second = s.calculate(first, "+", more)
    s.calculate(second, "+", s.calculate(second, "*", times))


def _tank(s: Story) -> None:
    full, minutes, rate, poured = s.amount(), s.factor(), s.factor(), s.amount()
    s.say(
        f"A tank holds {full} liters. For {minutes} minutes {rate} liters a minute flow out. Then {poured} liters are poured in. "
        f"How many liters are in the tank?",
        f"水箱里有{full}升水，每分钟流出{rate}升，流了{minutes}分钟，然后又倒进{poured}升。水箱里现在有多少升水？",
    )
    s.calculate(s.calculate(full, "-", s.calculate(minutes, "*", rate)), "+", poured)


Piece = Callable[[Story], None]
OPENINGS: dict[int, tuple[Piece, ...]] = {
    0: (_has, _has, _has, _person_has),
    1: (_groups, _two_kinds, _times_as_many, _half_as_many, _more_than, _fewer_than, _daily, _shared_out),
    3: (_two_loads,),
}
"""Steps it takes -> openings. The plain one stands more often than the others."""
EVENTS: tuple[Piece, ...] = (_buys, _buys, _loses, _loses, _eats, _breaks, _gives_half, _doubles)
ENDINGS: dict[int, tuple[Piece, ...]] = {0: (_how_many_now,), 1: (_shares, _price, _needs, _together, _difference)}
SCENES: dict[int, tuple[Piece, ...]] = {
    2: (_change, _pages, _bus, _ages, _travel, _wages, _class, _rows, _saving, _teams),
    3: (_two_prices, _legs, _three_friends, _tank),
}
SCENE_SHARE = 0.35
"""How many of the stories of two or three steps are scenes."""


def _plan(rng: random.Random, level: int) -> list[Piece]:
    """The pieces of a story with as many steps as the level wants."""
    steps = rng.choice((1, 2, 2)) if level == 1 else level
    if steps in SCENES and rng.random() < SCENE_SHARE:
        return [rng.choice(SCENES[steps])]
    opening_steps = rng.choice([taken for taken in OPENINGS if taken <= steps])
    ending_steps = rng.choice([taken for taken in ENDINGS if taken <= steps - opening_steps])
    events = steps - opening_steps - ending_steps
    return [
        rng.choice(OPENINGS[opening_steps]),
        *(rng.choice(EVENTS) for _ in range(events)),
        rng.choice(ENDINGS[ending_steps]),
    ]


def _names(plan: list[Piece]) -> str:
    return "+".join(piece.__name__.strip("_") for piece in plan)


def tell(rng: random.Random, level: int, language: str) -> Item:
    """One word problem in 'en' or 'zh'. The key is the program and its numbers: the same in both languages."""
    while True:
        plan = _plan(rng, level)
        story = Story(rng, language, level)
        try:
            for piece in plan:
                piece(story)
        except _DoesNotComeOutError:
            continue
        break
    answer = str(story.steps[-1].result)
    name = _names(plan)
    return Item(
        key=f"{name}:{','.join(map(str, story.values))}",
        question=(" " if language == "en" else "").join(story.sentences),
        answer=answer,
        solution=solution(worked_lines(story.steps), answer),
        steps=tuple(story.steps),
        metadata={"template": name, "values": list(story.values)},
    )
