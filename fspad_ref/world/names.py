"""Invented names of people, towns, firms and ships, made of a few syllables so that they cost few tokens.

Every name belongs to evaluation or to training for good: to evaluation iff `held_out(name)`.
"""

from collections.abc import Callable

from fspad_ref.world.dice import Dice, held_out

STARTS = ("Bal Bar Bel Bor Bren Cal Cas Cor Dal Dar Del Dor Fal Fen Fin Gal Gar Hal Har Jor Kal Kel Kor Lan Lor Lun "
          "Mar Mel Mir Mil Nal Nor Pel Pol Ral Ren Ros Sal Sel Sor Tal Tar Tol Val Var Vel Wen Wil Yar Zel").split()
MIDDLES = "am an ar el en er il in ol or".split()
FIRST_ENDS = "a an en ia in is o on us".split()
LAST_ENDS = "berg dor ham ley man more ner sen son ston well wood".split()
TOWN_ENDS = "by dale field ford haven holm mere mouth stead ton vale wick".split()
FIRM_WORDS = ("Brothers", "Company", "Works", "Mills", "Motors", "Foods", "Tools", "Lines", "Press", "Glass")


def draw(dice: Dice, held: bool, make: Callable[[Dice], str]) -> str:
    """The first name made by `make` that lies on the wanted side."""
    while held_out(name := make(dice)) != held:
        pass
    return name


def _stem(dice: Dice) -> str:
    return dice.pick(STARTS) + (dice.pick(MIDDLES) if dice.chance(0.4) else "")


def _first(dice: Dice) -> str:
    return _stem(dice) + dice.pick(FIRST_ENDS)


def _person(dice: Dice) -> str:
    return f"{dice.pick(STARTS)}{dice.pick(FIRST_ENDS)} {_stem(dice)}{dice.pick(LAST_ENDS)}"


def first(dice: Dice, held: bool = False) -> str:
    """A first name, such as Fenia or Koran; also the proper part of a ship's, a museum's or a garden's name."""
    return draw(dice, held, _first)


def person(dice: Dice, held: bool = False) -> str:
    """First and last name, such as Melin Torberg."""
    return draw(dice, held, _person)


def town(dice: Dice, held: bool = False) -> str:
    """A town, such as Wenolford."""
    return draw(dice, held, lambda d: _stem(d) + d.pick(TOWN_ENDS))


def firm(dice: Dice, held: bool = False) -> str:
    """A firm, such as Dalner Mills."""
    return draw(dice, held, lambda d: f"{_stem(d)}{d.pick(LAST_ENDS)} {d.pick(FIRM_WORDS)}")


def titled(dice: Dice, held: bool, title: str) -> str:
    """A name that ends in a common word, such as Koria Museum; the whole of it decides the side."""
    return draw(dice, held, lambda d: f"{_first(d)} {title}")
