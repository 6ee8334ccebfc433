"""The mathematics task: word problems of two or three operations, worked step by step in the answer.

Two digits are added at once, larger numbers in parts: 34 + 27 = 61, 238 + 45 = 278 + 5 = 283, and 7 x 34 = 210 + 28 =
238. A chain of terms that are copied would be right more often, and teach a draft nothing but copying. The wording of
a step mostly follows from that of the story, the words that link steps from the name of the person. Held out is the
combination of operations and operands, whatever the story around it.
"""

from collections.abc import Callable
from functools import cache

from fspad_ref.world.dice import Dice, held_out
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.lexicon import load
from fspad_ref.world.phrasing import finish, part
from fspad_ref.world.situations import Situation, situations

_WOMEN = (
    "Anna Berta Carla Dora Ella Frieda Gina Hanna Ida Julia Kate Lucy Mary Nina Olga Pia Rita Sarah Tina Ursula Wanda "
    "Yvonne Alice Emma Grace Helen Jane Laura Molly Ruth".split()
)
_MEN = (
    "Adam Ben Carl David Erik Frank Georg Henry Ivan Jack Karl Leo Max Noah Oliver Paul Ralph Simon Tom Hugo Victor "
    "Walter Albert Bruno Daniel Fred Harry Martin Peter Robert".split()
)
_TOWNS = "the coast,the capital,the next village,the old mill,the lake,the airport,the north,the farm".split(",")
_THINGS = (
    "book hat lamp drum kite chair clock ring basket cake map pen flute rope mirror bottle knife shirt ball".split()
)


def add(x: int, y: int) -> tuple[str, int]:
    """Working and result of x + y."""
    return _chain(x, y, "+")


def subtract(x: int, y: int) -> tuple[str, int]:
    """Working and result of x - y."""
    return _chain(x, y, "-")


def _chain(x: int, y: int, sign: str) -> tuple[str, int]:
    """Working and result of x + y or x - y; if one of them has three digits, y is broken into hundreds, tens and ones.

    >>> _chain(238, 45, "+")
    ('238 + 45 = 278 + 5 = 283', 283)
    """
    sizes = (100, 10, 1) if max(x, y) >= 100 else (1,)
    lines = []
    for size in sizes:
        if piece := y // size * size:
            lines.append(f"{x} {sign} {y}")
            x, y = x + piece if sign == "+" else x - piece, y - piece
    return " = ".join([*lines, str(x)]), x


def times(n: int, a: int) -> tuple[str, int]:
    """Working and result of n x a for one digit n and two digits a.

    >>> times(7, 34)
    ('7 x 34 = 210 + 28 = 238', 238)
    """
    tens, ones = a // 10 * 10, a % 10
    if not tens or not ones:
        return f"{n} x {a} = {n * a}", n * a
    return f"{n} x {a} = {n * tens} + {n * ones} = {n * a}", n * a


def divide(q: int, n: int) -> tuple[str, int]:
    """Working and result of q / n, without remainder; the working ends with the check n x result = q."""
    return f"{q} / {n} = {q // n}, because {n} x {q // n} = {q}", q // n


# A plan draws its operands and works: dice -> (slots for the story, the operands, workings, result).
Worked = tuple[dict[str, int], tuple[int, ...], list[str], int]


def _plus_minus(first: Callable, second: Callable) -> Callable[[Dice], Worked]:
    def plan(dice: Dice) -> Worked:
        high = 48 if first is second is add else 79
        a, b, c = dice.integer(12, high), dice.integer(11, high), dice.integer(11, high)
        if first is second is subtract:
            a, b, c = dice.integer(60, 99), dice.integer(11, 36), dice.integer(11, 22)
        elif first is subtract:
            a, b, c = dice.integer(40, 99), dice.integer(11, 38), dice.integer(11, 59)
        elif second is subtract:
            c = dice.integer(11, min(a + b - 5, 58))
        one, middle = first(a, b)
        two, result = second(middle, c)
        return {"a": a, "b": b, "c": c}, (a, b, c), [one, two], result

    return plan


def _times_then(second: Callable, third: Callable | None = None) -> Callable[[Dice], Worked]:
    def plan(dice: Dice) -> Worked:
        n, a, b, c = dice.integer(2, 9), dice.integer(12, 39), dice.integer(11, 49), dice.integer(11, 34)
        b = dice.integer(6, min(n * a - 5, 49)) if second is subtract else b
        one, middle = times(n, a)
        two, result = second(middle, b)
        slots, operands, lines = {"n1": n, "a": a, "b": b, "c": c}, (n, a, b), [one, two]
        if third:
            three, result = third(result, c)
            operands, lines = (n, a, b, c), [one, two, three]
        return slots, operands, lines, result

    return plan


def _then_times(first: Callable) -> Callable[[Dice], Worked]:
    def plan(dice: Dice) -> Worked:
        n, b = dice.integer(2, 9), dice.integer(11, 24)
        a = dice.integer(11, 24) if first is add else b + dice.integer(11, 39)
        one, middle = first(a, b)
        two, result = times(n, middle)
        return {"n1": n, "a": a, "b": b}, (n, a, b), [one, two], result

    return plan


def _divide_add(dice: Dice) -> Worked:
    n, share, b = dice.integer(2, 9), dice.integer(3, 12), dice.integer(11, 79)
    one, middle = divide(n * share, n)
    two, result = add(b, middle)
    return {"n1": n, "q1": n * share, "b": b}, (n * share, n, b), [one, two], result


def _two_products(dice: Dice) -> Worked:
    n, m, a, b = dice.integer(2, 5), dice.integer(2, 5), dice.integer(11, 24), dice.integer(11, 24)
    (one, left), (two, right) = times(n, a), times(m, b)
    three, result = add(left, right)
    return {"n1": n, "m1": m, "a": a, "b": b}, (n, a, m, b), [one, two, three], result


PLANS: dict[str, Callable[[Dice], Worked]] = {
    "a+b-c": _plus_minus(add, subtract),
    "a-b+c": _plus_minus(subtract, add),
    "a+b+c": _plus_minus(add, add),
    "a-b-c": _plus_minus(subtract, subtract),
    "n*a+b": _times_then(add),
    "n*a-b": _times_then(subtract),
    "n*a+b-c": _times_then(add, subtract),
    "(a+b)*n": _then_times(add),
    "(a-b)*n": _then_times(subtract),
    "q/n+b": _divide_add,
    "n*a+m*b": _two_products,
}


def _worked(dice: Dice, plan: str, held: bool) -> Worked:
    """Draws until the combination of operations and operands is on the wanted side."""
    while True:
        worked = PLANS[plan](dice)
        if held_out(f"{plan}:{','.join(map(str, sorted(worked[1])))}") == held:
            return worked


@cache
def _things(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Plurals for {x}: those listed after "=", or the lexicon's of these kinds."""
    return kinds[1:] if kinds[0] == "=" else tuple(noun.plural for noun in load().nouns_of(*kinds))


def _people(dice: Dice) -> dict[str, str]:
    """Two different persons and the pronouns of the first."""
    names, others = (_WOMEN, _MEN) if dice.chance(0.5) else (_MEN, _WOMEN)
    n = dice.pick(names)
    m = dice.pick(others)
    s, o, p = ("she", "her", "her") if names is _WOMEN else ("he", "him", "his")
    return {"n": n, "m": m, "s": s, "o": o, "p": p}


def _answer(dice: Dice, situation: Situation, told: str, lines: list[str], slots: dict[str, str]) -> str:
    """The steps with their workings, each a sentence of its own, then the closing sentence."""
    begun, asked = told.split(". ")[0], told.split(". ")[-1]
    links = ["[first, ||to begin with, |]", *["[then ||next, |]"] * (len(lines) - 1), ""]
    text = []
    for link, step, line in zip(links, (*situation.steps, situation.close), (*lines, ""), strict=True):
        text.append(part(dice, link, habits=(slots["n"],)))
        text.append(part(dice, step, habits=(begun, asked), w=line, **slots) + ". ")
    return finish("".join(text))


def math_reasoning(dice: Dice, held: bool) -> Exchange:
    """A word problem; the answer works it out and closes with a sentence that holds result and unit."""
    situation = dice.pick(situations())
    numbers, _, lines, result = _worked(dice, situation.plan, held)
    town, other = dice.sample(_TOWNS, 2)
    things = {"x": dice.pick(_things(situation.things)), "thing": dice.pick(_THINGS), "town": town, "town2": other}
    slots = {name: str(number) for name, number in (numbers | {"r": result}).items()} | _people(dice) | things
    told = part(dice, situation.story, **{name: f"{{{name}}}" for name in slots})
    prompt = finish(told.format_map(slots))
    answer = _answer(dice, situation, told, lines, slots)
    return Exchange("math_reasoning", ((prompt, answer),), ((f"{result} {situation.unit.format_map(slots)}",),))
