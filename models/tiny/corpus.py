"""Endless synthetic training text for the built-in model: every line is made here, so all of it can be shipped.

Skills, each checkable by a program: sums and differences, comparison, capitals, colours and legs, recall of what was
said earlier in the conversation, repeating and counting words, and continuations (stories, product names in Chinese).
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from itertools import islice

Turn = tuple[str, str]  # what the user says, what the model answers

# One "Country:Capital" a word; underscores stand for spaces.
_CAPITALS = """France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Greece:Athens Norway:Oslo
Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Poland:Warsaw Hungary:Budapest Romania:Bucharest Bulgaria:Sofia
Ireland:Dublin Iceland:Reykjavik Belgium:Brussels Netherlands:Amsterdam Switzerland:Bern Ukraine:Kyiv Russia:Moscow
Turkey:Ankara Egypt:Cairo Morocco:Rabat Algeria:Algiers Tunisia:Tunis Kenya:Nairobi Ghana:Accra Senegal:Dakar
Ethiopia:Addis_Ababa Japan:Tokyo China:Beijing India:Delhi Thailand:Bangkok Vietnam:Hanoi Indonesia:Jakarta
Malaysia:Kuala_Lumpur Philippines:Manila Mongolia:Ulaanbaatar Nepal:Kathmandu Pakistan:Islamabad Iran:Tehran Iraq:Baghdad
Jordan:Amman Lebanon:Beirut Canada:Ottawa Mexico:Mexico_City Cuba:Havana Brazil:Brasilia Argentina:Buenos_Aires
Chile:Santiago Peru:Lima Colombia:Bogota Ecuador:Quito Uruguay:Montevideo Paraguay:Asuncion Australia:Canberra
New_Zealand:Wellington"""

CAPITALS = dict(pair.replace("_", " ").split(":") for pair in _CAPITALS.split())
COLOURS = {
    "the sky": "blue",
    "grass": "green",
    "snow": "white",
    "coal": "black",
    "a lemon": "yellow",
    "a carrot": "orange",
    "blood": "red",
    "a plum": "purple",
    "chocolate": "brown",
    "a flamingo": "pink",
}
LEGS = {
    "a dog": 4,
    "a cat": 4,
    "a bird": 2,
    "a spider": 8,
    "an ant": 6,
    "a fish": 0,
    "a horse": 4,
    "a bee": 6,
    "a person": 2,
    "a snake": 0,
}
NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olivia Paul Quinn Rosa Sam Tina Uma Victor "
    "Wendy Xavier Yara Zoe"
).split()
THINGS = (
    "apple book candle drum engine feather garden hammer island jacket kettle ladder mirror needle orange pencil quilt "
    "ribbon saddle table umbrella violin window yellow zebra"
).split()
PLACES = "forest river village castle market library harbor meadow mountain garden".split()
ANIMALS = "fox owl rabbit bear turtle mouse wolf heron otter hedgehog".split()
ADJECTIVES = "small brave quiet clever happy old gentle curious lazy bright".split()
BRANDS = "农夫山泉 清风 康师傅 蒙牛 伊利 奥利奥 可口可乐 娃哈哈".split()
GOODS = "天然水 绿茶 纯牛奶 酸奶 饼干 汽水 橙汁 矿泉水 红茶 果汁".split()
SIZES = "瓶装 盒装 袋装 罐装".split()
NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()

SUM_QUESTIONS = ("What is {} + {}?", "{} + {} = ?", "Add {} and {}.", "How much is {} plus {}?")
DIFFERENCE_QUESTIONS = ("What is {} - {}?", "{} - {} = ?", "How much is {} minus {}?")
CAPITAL_QUESTIONS = ("What is the capital of {}?", "Name the capital of {}.", "Which city is the capital of {}?")
INTRODUCTION = "I am a tiny language model. I can add, subtract, compare numbers, name capitals, and remember what you tell me."


def held_out(a: int, b: int) -> bool:
    """Whether a + b belongs to the tenth of the two-digit sums that is never trained on: the test set."""
    return a >= 10 and b >= 10 and (a * 101 + b * 17) % 10 == 3


def held_out_sums(count: int, seed: int = 3) -> list[tuple[int, int]]:
    """`count` pairs of two-digit numbers from the test set."""
    rng = random.Random(seed)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        if held_out(a, b):
            pairs.append((a, b))
    return pairs


def right_sum(answer: str, a: int, b: int) -> bool:
    """Whether an answer to a two-digit sum ends as `worked_sum` does."""
    return answer.strip().endswith(f"so {a} + {b} = {a + b}")


def number(rng: random.Random) -> int:
    """One digit in a third of the cases, else up to two."""
    return rng.randrange(10 ** rng.choice((1, 2, 2)))


def worked_sum(a: int, b: int) -> str:
    """Digit by digit, so that the one-digit table suffices: '7 + 5 = 12, 1 + 2 + 1 = 4, so 17 + 25 = 42'."""
    if a < 10 and b < 10:
        return f"{a} + {b} = {a + b}"
    units = a % 10 + b % 10
    carry = units // 10
    tens = f"{a // 10} + {b // 10}{' + 1' if carry else ''} = {a // 10 + b // 10 + carry}"
    return f"{a % 10} + {b % 10} = {units}, {tens}, so {a} + {b} = {a + b}"


def worked_difference(a: int, b: int) -> str:
    """Digit by digit with a borrow, for a >= b: '13 - 8 = 5, 4 - 1 - 1 = 2, so 43 - 18 = 25'."""
    if a < 10:
        return f"{a} - {b} = {a - b}"
    borrow = a % 10 < b % 10
    units = a % 10 + 10 * borrow
    tens = f"{a // 10} - {b // 10}{' - 1' if borrow else ''} = {a // 10 - b // 10 - borrow}"
    return f"{units} - {b % 10} = {units - b % 10}, {tens}, so {a} - {b} = {a - b}"


def sum_turn(rng: random.Random) -> Turn:
    a, b = number(rng), number(rng)
    return rng.choice(SUM_QUESTIONS).format(a, b), worked_sum(a, b)


def difference_turn(rng: random.Random) -> Turn:
    a, b = sorted((number(rng), number(rng)), reverse=True)
    return rng.choice(DIFFERENCE_QUESTIONS).format(a, b), worked_difference(a, b)


def capital_turn(rng: random.Random) -> Turn:
    country = rng.choice(list(CAPITALS))
    question = rng.choice(CAPITAL_QUESTIONS).format(country)
    return question, f"The capital of {country} is {CAPITALS[country]}."


def colour_turn(rng: random.Random) -> Turn:
    thing = rng.choice(list(COLOURS))
    return f"What colour is {thing}?", f"{thing.capitalize()} is {COLOURS[thing]}."


def legs_turn(rng: random.Random) -> Turn:
    animal = rng.choice(list(LEGS))
    return f"How many legs does {animal} have?", f"{animal.capitalize()} has {LEGS[animal]} legs."


def comparison_turn(rng: random.Random) -> Turn:
    a, b = rng.sample(range(100), 2)
    return f"Which is larger, {a} or {b}?", f"{max(a, b)} is larger than {min(a, b)}."


def repeat_turn(rng: random.Random) -> Turn:
    words = " ".join(rng.sample(THINGS, rng.randint(1, 4)))
    return f"Repeat: {words}", words


def count_turn(rng: random.Random) -> Turn:
    words = rng.sample(THINGS, rng.randint(2, 5))
    return "How many words: " + " ".join(words), f"There are {NUMBER_WORDS[len(words)]} words."


def greeting_turn(rng: random.Random) -> Turn:
    return rng.choice(("Who are you?", "What can you do?", "Hello!")), INTRODUCTION


# Cumulative share of each kind of question.
TURNS = (
    (0.46, sum_turn),
    (0.60, difference_turn),
    (0.72, capital_turn),
    (0.76, colour_turn),
    (0.80, legs_turn),
    (0.86, comparison_turn),
    (0.92, repeat_turn),
    (0.96, count_turn),
    (1.00, greeting_turn),
)


def turn(rng: random.Random) -> Turn:
    """One question with its answer."""
    draw = rng.random()
    return next(make for share, make in TURNS if draw < share)(rng)


def recall(rng: random.Random) -> list[Turn]:
    """Two turns; the second needs the first."""
    if rng.random() < 0.6:
        name = rng.choice(NAMES)
        introduction = rng.choice(("My name is {}.", "I am {}.", "Call me {}.")).format(name)
        return [(introduction, f"Nice to meet you, {name}."), ("What is my name?", f"Your name is {name}.")]
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    return [
        (f"I left the {thing} in the {place}.", f"I will remember that the {thing} is in the {place}."),
        (f"Where is the {thing}?", f"The {thing} is in the {place}."),
    ]


def story(rng: random.Random) -> str:
    """Five sentences about two animals and a thing."""
    finder, owner = rng.sample(ANIMALS, 2)
    finder_is, owner_is = rng.choice(ADJECTIVES), rng.choice(ADJECTIVES)
    place, thing, name = rng.choice(PLACES), rng.choice(THINGS), rng.choice(NAMES)
    return (
        f"Once upon a time, a {finder_is} {finder} named {name} lived near the {place}. One day, {name} found a {thing}. "
        f'"Is this your {thing}?" {name} asked a {owner_is} {owner}. "Yes, thank you!" said the {owner}. '
        f"From that day on, the {finder} and the {owner} were friends."
    )


def goods(rng: random.Random) -> str:
    """A few products of one brand, a line each, in Chinese."""
    brand, count = rng.choice(BRANDS), rng.randint(2, 4)
    return "".join(f"{brand} {rng.choice(GOODS)} {rng.choice((250, 330, 500, 550, 1000))}ml {rng.choice(SIZES)}\n" for _ in range(count))


def conversation(rng: random.Random) -> list[Turn]:
    """One to three exchanges, some of which take two turns."""
    turns: list[Turn] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        turns += recall(rng) if rng.random() < 0.18 else [turn(rng)]
    return turns


def document(rng: random.Random) -> str:
    """One training text, special tokens included."""
    draw = rng.random()
    if draw < 0.08:
        return story(rng) + "<|end|>"
    if draw < 0.14:
        return goods(rng) + "<|end|>"
    return "".join(f"<|user|>{question}<|assistant|>{answer}<|end|>" for question, answer in conversation(rng))


def documents(seed: int) -> Iterator[str]:
    """Training texts without end, none of them with two numbers that make a test sum; the same seed gives the same ones."""
    rng = random.Random(seed)
    while True:
        text = document(rng)
        pairs = re.findall(r"(\d+)\D{1,7}(\d+)", text)
        if not any(held_out(int(a), int(b)) for a, b in pairs):
            yield text


def held_out_text(seed: int = 1_000_003, count: int = 120) -> str:
    """Texts of a seed that was not trained on, one sum of the test set after every second: what `linnet quantize` compares on. Its
    command is `python models/tiny/corpus.py held_out > models/tiny/held_out.txt`."""
    texts = list(islice(documents(seed), count))
    for index, (a, b) in enumerate(held_out_sums(count // 2, seed)):
        texts[2 * index] += f"<|user|>What is {a} + {b}?<|assistant|>{worked_sum(a, b)}<|end|>"
    return "".join(texts)


if __name__ == "__main__":
    if sys.argv[1:] == ["held_out"]:
        print(held_out_text(), end="")
    else:
        for text in islice(documents(0), 12):
            print(repr(text))
