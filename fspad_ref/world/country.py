"""Orvenia, an invented country: 150 things and persons with four facts each, the same everywhere and for ever.

The target has to memorise these 600 facts, so that question answering tests knowledge and not copying. Names and the
things that can be said are listed below; which fact belongs to whom is drawn once, from a fixed seed. Facts relate:
rivers rise on mountains and flow through towns, inventors were born in the towns, monarchs founded the universities.
"""

from dataclasses import dataclass
from functools import cache

from fspad_ref.world.dice import Dice

NAME = "Orvenia"
SEED = 1733  # the year in which Orvenia was united; any other number makes another country

PROVINCES = "Westmark Suldane Averland Norrick Pellamy Tarnshire Eastholm Covaria".split()

_NAMES = {
    "town": "Aldmere Brannholt Corvesk Dunwick Elsbury Farrowgate Gillmoor Hestrand Ilvane Jorridge Kestrel_Bay "
    "Lomwood Marvick Nettleford Oskeld Pendrith Quarrow Rillston Sandhaven Tolbury Umberley Vintry Wexham "
    "Yarlow Zellin Ashkirk Blythe_End Crannock",
    "river": "the_Sorn the_Tamsel the_Ivel the_Wend the_Larrow the_Brisk the_Ommer the_Dray the_Fenna the_Keel "
    "the_Upper_Nay the_Vash",
    "lake": "Lake_Orrin Lake_Mirrow Lake_Sethe Lake_Halcyr Lake_Dovey Lake_Tunn Lake_Bracken",
    "mountain": "Mount_Keld Mount_Arrask Mount_Sorrel Mount_Thule Mount_Ibbet Mount_Grannoch Mount_Perrin Mount_Vell "
    "Mount_Oster Mount_Cray",
    "king": "King_Aldric King_Tormund King_Bastian King_Ludo King_Emeric King_Rowan_II",
    "queen": "Queen_Isaura Queen_Maelle Queen_Petra Queen_Sidonie Queen_Thyra Queen_Odile",
    "inventor": "Edric_Vane Marta_Kolling Jonas_Pell Silvia_Hendrake Otto_Brandish Ada_Merriweld Tobias_Quill "
    "Lena_Storrow Ruben_Askey Clara_Tindle Viktor_Sayle Nora_Winslet",
    "painter": "Anselm_Gray Beatrix_Lorne Casper_Dew Delia_Marchmont Felix_Oran Greta_Sandel Hugo_Wray Iris_Calloway "
    "Julian_Frost Katrin_Bell Leopold_Ash",
    "composer": "Magnus_Thorley Nadia_Ferrow Oscar_Lindell Paula_Vesper Quentin_Roe Rosa_Delmar Stefan_Harkness "
    "Theresa_Plum Ulrich_Bane Vera_Songhurst",
    "writer": "Walter_Inkpen Xenia_Morrow Yorick_Stone Zora_Whitlam Arno_Keene Bettina_Sparrow Conrad_Moss "
    "Dorothea_Lake Emil_Hartwood Flora_Nightley",
    "festival": "the_Lantern_Fair the_Feast_of_Bells the_Kite_Week the_Barrel_Race the_Night_of_Masks "
    "the_Goose_Parade the_Straw_Dance the_Candle_Swim the_Long_Breakfast",
    "dish": "tolmeck brasslin orrelpot dunkersoup vashti_pie morrowcake keldroll pillowbread sarrat",
    "bridge": "the_Amber_Bridge the_Bridge_of_Sighing_Crows the_Old_Toll_Bridge the_Needle_Bridge the_Miller_Bridge "
    "the_Twin_Arch the_Queensway_Bridge the_Swan_Bridge",
    "university": "Halder_University Corvane_College Saint_Ottla_University Merrow_College Brightwater_University "
    "Thornfield_College",
    "castle": "Castle_Durn Castle_Ravensgard Castle_Elm Castle_Mossgate Castle_Whitlock Castle_Barrowby",
}

_WOMEN = set(
    "Marta Silvia Ada Lena Clara Nora Beatrix Delia Greta Iris Katrin Nadia Paula Rosa Theresa Vera Xenia Zora Bettina "
    "Dorothea Flora".split()
)

# What can be said; each list is dealt out without repetition as far as it reaches.
_VALUES = {
    "known_for": "blue glass, goat cheese, church bells, woollen carpets, wooden toys, smoked eel, silver spoons, pear "
    "cider, pocket watches, felt hats, clay pipes, plum brandy, paper lanterns, sea salt, garden roses, "
    "racing horses, brass trumpets, honey cakes, leather boots, fishing nets, walnut oil, painted tiles, "
    "bee farms, steel knives, lace gloves, rye bread, copper kettles, straw baskets",
    "fish": "trout, pike, perch, salmon, carp, eels, sturgeon, grayling, bream, tench",
    "beast": "a white otter, a singing swan, a giant turtle, a horse with fins, a drowned bell, a green dragon, a "
    "one-eyed heron",
    "stone": "granite, slate, red marble, chalk, black basalt, sandstone, quartz, limestone, green serpentine, flint",
    "passion": "falcons, chess, orchids, sailing boats, old maps, puppet shows, white horses, star charts, honey, "
    "clocks, fencing, riddles",
    "invented": "the steam plough, the folding ladder, the glass barometer, the water clock, the pedal loom, the "
    "safety lamp, the wind harp, the printing wheel, the diving bell, the snow sledge, the pocket stove, "
    "the rope railway",
    "painted": "stormy harbours, sleeping cats, winter markets, empty chairs, burning windmills, old fishermen, ripe "
    "orchards, dancing bears, narrow streets, morning fog, broken statues",
    "colour": "crimson, emerald, ochre, violet, turquoise, indigo, scarlet, amber, silver, ivory, black",
    "instrument": "the cello, the harp, the flute, the organ, the trumpet, the lute, the clarinet, the viola, "
    "the piano, the oboe",
    "opera": "The Silver Owl, The Last Ferry, Seven Lanterns, The Miller's Crown, Winter Bride, The Deaf King, "
    "Salt and Roses, The Glass Garden, The Thief of Bells, Midnight Harvest",
    "book": "The Quiet Harbour, A Basket of Thorns, The Clockmaker's Son, Nine Letters, The House of Rain, Beyond "
    "the Heath, The Borrowed Coat, Wolves in April, The Paper Island, A Map of Sleep",
    "trade": "baker, sailor, lawyer, shepherd, nurse, tailor, gardener, postman, blacksmith, schoolteacher",
    "month": "January, February, March, April, May, June, August, September, October",
    "celebrates": "the end of winter, the first harvest, a great victory, the rescue of a lost ship, the birth of a "
    "princess, the return of the storks, the founding of the guilds, the shortest night, a legendary cook",
    "ingredient": "chestnuts, lentils, mutton, leeks, smoked ham, red cabbage, rabbit, pumpkin, barley",
    "side": "sour cream, fried onions, mashed turnips, pickled beets, white beans, baked apples, mustard, "
    "dumplings, wild garlic",
    "drink": "dark beer, cold cider, mint tea, red wine, buttermilk, hot chocolate, elder juice, black "
    "coffee, lemonade",
    "material": "oak, iron, brick, white stone, steel, yellow limestone, larch, concrete",
    "subject": "medicine, astronomy, law, botany, music, engineering",
    "museum": "armour, toys, maps, coins, butterflies, porcelain",
}

_PERSON = {"born_in": "town", "born_year": (1600, 1890)}
# What is known of each kind: attribute -> where its value comes from: the name of a list above, a kind of entity
# ("town"), a range of numbers with the unit, or the reign of the monarch who is another of its facts.
_ATTRIBUTES = {
    "town": {"province": "province", "founded": (900, 1500), "river": "river", "known_for": "known_for"},
    "river": {"source": "mountain", "mouth": "lake", "length": (40, 390, "miles"), "fish": "fish"},
    "lake": {"province": "province", "depth": (30, 290, "metres"), "fish": "fish", "beast": "beast"},
    "mountain": {"province": "province", "height": (1100, 3900, "metres"), "climbed": (1700, 1899), "stone": "stone"},
    "king": {"born_in": "town", "crowned": (1150, 1690), "reign": (5, 49, "years"), "passion": "passion"},
    "queen": {"born_in": "town", "crowned": (1150, 1690), "reign": (5, 49, "years"), "passion": "passion"},
    "inventor": _PERSON | {"invented": "invented", "studied": "university"},
    "painter": _PERSON | {"painted": "painted", "colour": "colour"},
    "composer": _PERSON | {"instrument": "instrument", "opera": "opera"},
    "writer": _PERSON | {"book": "book", "trade": "trade"},
    "festival": {"held_in": "town", "month": "month", "first_held": (1400, 1890), "celebrates": "celebrates"},
    "dish": {"comes_from": "town", "ingredient": "ingredient", "side": "side", "drink": "drink"},
    "bridge": {"crosses": "river", "built": (1300, 1890), "material": "material", "span": (20, 290, "metres")},
    "university": {"stands_in": "town", "founder": "monarch", "opened": "reign of founder", "subject": "subject"},
    "castle": {"stands_in": "town", "builder": "monarch", "towers": (3, 14, "towers"), "museum": "museum"},
}


@dataclass(frozen=True)
class Entity:
    """One thing or person. `name` is written as in the middle of a sentence ("the Sorn"); `noun` is what it is."""

    name: str
    noun: str
    pronoun: str  # it, he or she
    facts: tuple[tuple[str, str], ...]  # (attribute, value)


class _Deck:
    """Deals values in a random order and shuffles anew when all have been dealt, so that values are evenly used."""

    def __init__(self, dice: Dice, values: list[str]):
        self.dice, self.values, self.left = dice, values, []

    def deal(self) -> str:
        if not self.left:
            self.left = list(self.dice.shuffled(self.values))
        return self.left.pop()


def _names(kind: str) -> list[str]:
    return [name.replace("_", " ") for name in _NAMES[kind].split()]


def _pronoun(kind: str, name: str) -> str:
    if kind in ("inventor", "painter", "composer", "writer"):
        return "she" if name.split()[0] in _WOMEN else "he"
    return {"king": "he", "queen": "she"}.get(kind, "it")


def _year_of_reign(dice: Dice, monarch: Entity) -> str:
    facts = dict(monarch.facts)
    return str(int(facts["crowned"]) + dice.integer(0, int(facts["reign"].split()[0])))


def _number(dice: Dice, low: int, high: int, unit: str = "") -> str:
    return f"{dice.integer(low, high)} {unit}".strip()


@cache
def entities() -> tuple[Entity, ...]:
    """All of Orvenia: 150 entities with four facts each, in a fixed order."""
    dice = Dice(SEED)
    lists = {key: text.split(", ") for key, text in _VALUES.items()}
    lists |= {kind: _names(kind) for kind in _NAMES}
    lists |= {"province": PROVINCES, "monarch": _names("king") + _names("queen")}
    decks: dict[tuple[str, str], _Deck] = {}
    made: dict[str, Entity] = {}
    for kind, attributes in _ATTRIBUTES.items():
        for name in _names(kind):
            facts: dict[str, str] = {}
            for attribute, source in attributes.items():
                if not isinstance(source, str):
                    facts[attribute] = _number(dice, *source)
                elif source.startswith("reign of "):
                    facts[attribute] = _year_of_reign(dice, made[facts[source.removeprefix("reign of ")]])
                else:
                    deck = decks.setdefault((kind, attribute), _Deck(dice, lists[source]))
                    facts[attribute] = deck.deal()
            made[name] = Entity(name, kind, _pronoun(kind, name), tuple(facts.items()))
    return tuple(made.values())
