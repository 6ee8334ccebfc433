"""The kinds of things that short passages tell of: how each of their facts is told and asked for.

A kind is a name and its facts; a fact is the kind of its value, the ways to tell it (a verb phrase, `{v}` being the
value) and the ways to ask for it (`{s}` being the thing). A passage tells three facts of one thing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fspad_ref.world import names
from fspad_ref.world.dice import Dice
from fspad_ref.world.phrasing import finish, part


@dataclass(frozen=True)
class Fact:
    """One thing that may be told: `value` names a maker in `VALUES` or lists choices, parted by commas."""

    value: str
    told: str
    asked: str


@dataclass(frozen=True)
class Kind:
    """A kind of thing: `title` ends its name ("" for a person's name), `article` stands before it."""

    title: str
    article: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Passage:
    """A passage in words: its subject, how to refer to it again, its text, and (fact, value) as told."""

    subject: str
    pronoun: str
    sentences: tuple[str, ...]
    told: tuple[tuple[Fact, str, int], ...]  # fact, value, index of the sentence that holds it

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


VALUES: dict[str, Callable[[Dice, bool], str]] = {
    "year": lambda dice, held: str(dice.integer(1701, 1989)),
    "town": names.town,
    "person": names.person,
    "firm": names.firm,
    "few": lambda dice, held: str(dice.integer(3, 29)),
    "some": lambda dice, held: str(dice.integer(21, 199)),
    "many": lambda dice, held: str(dice.integer(21, 99) * 10),
}
COLOURS = "red,blue,green,white,black,yellow,grey,brown,golden,silver"
GOODS = ("old clocks,glass bottles,stone tools,paper kites,wooden toys,silver coins,painted plates,old maps,"
         "brass bells,leather boots,iron keys,silk scarves,copper pots,sea shells,rare stamps,model ships")
CARGO = "tea,salt,wool,timber,coffee,sugar,coal,wine,rice,cotton,spices,oil,corn,paper,honey,iron"
PLANTS = "roses,ferns,lilies,apple trees,tulips,palms,herbs,cherry trees,cactuses,pine trees,daisies,plum trees"
FOODS = ("rye bread,apple cake,plum jam,goat cheese,honey rolls,onion soup,cherry pie,lemon cream,nut bread,"
         "pear cake,smoked fish,ginger biscuits,mushroom pie,bean stew")
THEMES = ("lonely sailors,a lost dog,two brothers,a long winter,an old mill,a clever thief,a secret door,the sea,"
          "a talking clock,a village doctor,a broken promise,a silent forest,a brave nurse,a night train")
ANIMALS = "owls,foxes,deer,otters,eagles,wolves,bears,swans,bats,goats,hares,badgers,seals,geese"
TUNES = "the drum,the violin,the flute,the piano,the trumpet,the guitar,the harp,the organ"

_FOUNDED = Fact("year", "opened in {v}|was founded in {v}|has been open since {v}|opened its doors in {v}",
                "When did {s} open?|In which year was {s} founded?|Since when has {s} been open?")
_PLACE = Fact("town", "stands in {v}|can be found in {v}|is in the town of {v}|lies near the market of {v}",
              "Where is {s}?|In which town is {s}?|Where can I find {s}?|Which town has {s}?")
_FOUNDER = Fact("person", "was founded by {v}|was started by {v}|owes its start to {v}|goes back to {v}",
                "Who founded {s}?|Who started {s}?|To whom does {s} owe its start?")
_LED = Fact("person", "is led by {v}|is run by {v}|is in the hands of {v}|has {v} at its head",
            "Who leads {s}?|Who runs {s}?|Who is at the head of {s}?")
_STAFF = Fact("many", "employs {v} people|gives work to {v} people|has {v} workers|pays {v} workers",
              "How many people work for {s}?|How many workers does {s} have?")
_BUILT = Fact("year", "was built in {v}|was finished in {v}|dates from {v}|was completed in {v}",
              "When was {s} built?|In which year was {s} finished?|From which year does {s} date?")
_BUILDER = Fact("person", "was planned by {v}|was designed by {v}|is the work of {v}|was drawn up by {v}",
                "Who planned {s}?|Who designed {s}?|Whose work is {s}?")
_HIGH = Fact("some", "is {v} metres high|rises {v} metres|reaches a height of {v} metres",
             "How high is {s}?|What height does {s} reach?|How many metres does {s} rise?")
_LONG = Fact("many", "is {v} metres long|measures {v} metres|has a length of {v} metres",
             "How long is {s}?|What is the length of {s}?|How many metres does {s} measure?")
_BORN = Fact("town", "was born in {v}|came from {v}|grew up in {v}|spent a happy childhood in {v}",
             "Where did {s} grow up?|Which town did {s} come from?|In which town was {s} born?")
_BIRTH = Fact("year", "was born in {v}|came into the world in {v}", "When was {s} born?|In which year was {s} born?")
_TEACHER = Fact("person", "learned from {v}|had {v} as a teacher|was taught by {v}|was a pupil of {v}",
                "Who taught {s}?|From whom did {s} learn?|Whose pupil was {s}?")
_SHOWS = Fact(GOODS, "shows {v}|is known for its {v}|collects {v}|has a fine collection of {v}",
              "What does {s} show?|What is {s} known for?|What can visitors see at {s}?")
_ROOMS = Fact("few", "has {v} rooms|holds {v} rooms|spreads over {v} rooms|fills {v} rooms",
              "How many rooms does {s} have?|How many rooms are there in {s}?")
_PAINTED = Fact(COLOURS, "is painted {v}|has {v} walls|shines in {v}|was given a coat of {v} paint",
                "What colour is {s}?|In which colour is {s} painted?")
_MAKES = Fact(GOODS, "makes {v}|produces {v}|sells {v} all over the world|earns its money with {v}",
              "What does {s} make?|What does {s} sell?|With what does {s} earn its money?")
_SERVES = Fact(FOODS, "is famous for its {v}|serves {v}|offers {v} every day|is loved for its {v}",
               "What is {s} famous for?|What does {s} serve?|What can you eat at {s}?")
_ANIMALS = Fact(ANIMALS, "is home to {v}|shelters {v}|is full of {v}|protects {v}",
                "Which animals live in {s}?|What animals does {s} protect?")
_PLANTS = Fact(PLANTS, "is known for its {v}|is full of {v}|grows {v}|is proud of its {v}",
               "What grows in {s}?|Which plants is {s} known for?|What is {s} proud of?")
_CARGO = Fact(CARGO, "carried {v}|was loaded with {v}|traded in {v}|brought {v} from the south",
              "What did {s} carry?|What was {s} loaded with?|What did {s} bring?")
_CAPTAIN = Fact("person", "sailed under Captain {v}|was steered by {v}|had {v} as captain|obeyed Captain {v}",
                "Who was the captain of {s}?|Who steered {s}?|Under whom did {s} sail?")
_CREW = Fact("some", "had a crew of {v}|needed {v} sailors|took {v} sailors on board",
             "How many sailors did {s} have?|How large was the crew of {s}?")
_LEFT = Fact("town", "set out from {v}|left from {v}|started in {v}|began its journey in {v}",
             "Where did {s} start?|From which town did {s} set out?|Where did {s} leave from?")
_YEAR_LEFT = Fact("year", "set out in {v}|began its journey in {v}|left in {v}|started in the spring of {v}",
                  "When did {s} start?|In which year did {s} set out?|When did {s} begin its journey?")
_CHIEF = Fact("person", "was led by {v}|followed {v}|had {v} as its leader|was in the hands of {v}",
              "Who led {s}?|Who was the leader of {s}?|Whom did {s} follow?")
_FOUND = Fact(GOODS, "found {v}|came home with {v}|dug up {v}|discovered {v} in a cave",
              "What did {s} find?|What did {s} bring home?|What did {s} discover?")
_THEME = Fact(THEMES, "wrote about {v}|told stories of {v}|became famous with a book about {v}",
              "What did {s} write about?|Of what did {s} tell?|What was the book by {s} about?")
_BOOKS = Fact("few", "wrote {v} novels|published {v} books|left behind {v} books|finished {v} novels",
              "How many books did {s} write?|How many novels did {s} publish?")
_PICTURES = Fact("some", "sold {v} pictures|painted {v} pictures|left behind {v} paintings|finished {v} pictures",
                 "How many pictures did {s} paint?|How many paintings are by {s}?")
_MOTIF = Fact(ANIMALS, "liked to paint {v}|loved to draw {v}|became famous for pictures of {v}",
              "What did {s} like to paint?|Which animals did {s} draw?")
_TUNE = Fact(TUNES, "played {v}|was a master of {v}|gave lessons on {v}|fell in love with {v} as a child",
             "What did {s} play?|Which instrument did {s} play?")
_SONGS = Fact("some", "wrote {v} songs|left behind {v} songs|made up {v} songs",
              "How many songs did {s} write?|How many songs are by {s}?")
_SINGERS = Fact("some", "has {v} members|counts {v} members|is made up of {v} members",
                "How many members does {s} have?|How many people belong to {s}?")
_VOLUMES = Fact("many", "keeps {v} books|owns {v} books|lends out {v} books|holds {v} books",
                "How many books does {s} own?|How many books are there in {s}?")
_PUPILS = Fact("many", "has {v} pupils|teaches {v} pupils|is visited by {v} pupils",
               "How many pupils does {s} have?|How many pupils does {s} teach?")
_GUESTS = Fact("many", "draws {v} guests a year|welcomes {v} guests a year|is visited by {v} people a year",
               "How many people visit {s}?|How many guests does {s} have a year?")
_STOPS = Fact("few", "has {v} stations|stops {v} times|serves {v} stations",
              "How many stations does {s} have?|How often does {s} stop?")
_ENDS = Fact("town", "ends in {v}|runs to {v}|leads to {v}|reaches as far as {v}",
             "Where does {s} end?|To which town does {s} lead?|How far does {s} run?")
_MAKER = Fact("firm", "was built by {v}|was paid for by {v}|is owned by {v}|belongs to {v}",
              "Which firm is behind {s}?|To which firm does {s} go back?")

KINDS = (
    Kind("Museum", "the ", (_FOUNDED, _PLACE, _FOUNDER, _SHOWS, _ROOMS, _GUESTS)),
    Kind("Garden", "the ", (_FOUNDED, _PLACE, _BUILDER, _PLANTS, _GUESTS)),
    Kind("Park", "the ", (_FOUNDED, _PLACE, _LED, _ANIMALS, _GUESTS)),
    Kind("Expedition", "the ", (_YEAR_LEFT, _LEFT, _CHIEF, _FOUND)),
    Kind("ship", "the ", (_BUILT, _CARGO, _CAPTAIN, _CREW)),
    Kind("firm", "", (_FOUNDED, _PLACE, _FOUNDER, _MAKES, _STAFF, _LED)),
    Kind("writer", "", (_BORN, _TEACHER, _THEME, _BOOKS)),
    Kind("painter", "", (_BIRTH, _TEACHER, _PICTURES, _MOTIF)),
    Kind("musician", "", (_BORN, _TUNE, _SONGS, _TEACHER)),
    Kind("Bridge", "the ", (_BUILT, _PLACE, _BUILDER, _LONG, _PAINTED)),
    Kind("Tower", "the ", (_BUILT, _PLACE, _BUILDER, _HIGH, _PAINTED)),
    Kind("Lighthouse", "the ", (_BUILT, _BUILDER, _HIGH, _PAINTED)),
    Kind("Library", "the ", (_FOUNDED, _PLACE, _LED, _VOLUMES, _ROOMS)),
    Kind("School", "the ", (_FOUNDED, _PLACE, _LED, _PUPILS, _ROOMS)),
    Kind("Choir", "the ", (_FOUNDER, _LED, _SINGERS, _PLACE)),
    Kind("Bakery", "the ", (_FOUNDED, _PLACE, _LED, _SERVES)),
    Kind("Hotel", "the ", (_FOUNDED, _PLACE, _SERVES, _ROOMS, _PAINTED)),
    Kind("Railway", "the ", (_BUILT, _LONG, _STOPS, _ENDS, _MAKER)),
    Kind("Castle", "the ", (_BUILT, _PLACE, _ROOMS, _ANIMALS, _HIGH)),
)
SHAPES = (
    ("{s} {a} and {b}.", "{p} {c}."),
    ("{s} {a}.", "{p} {b} and {c}."),
    ("{s}, which {a}, {b}.", "{p} {c}."),
    ("{s} {a}, {b} and {c}.",),
    ("{s} {a}.", "{p} {b}, and {q} {c}."),
)


def value_of(dice: Dice, fact: Fact, held: bool) -> str:
    """A value for the fact: made, if it names a maker, else chosen from its list."""
    maker = VALUES.get(fact.value)
    return maker(dice, held) if maker else dice.pick(fact.value.split(","))


def subject_of(dice: Dice, kind: Kind, held: bool) -> tuple[str, str]:
    """Name (with its article) and pronoun of a new thing of this kind."""
    if kind.title in ("writer", "painter", "musician"):
        return names.person(dice, held), dice.pick(("she", "he"))
    if kind.title == "firm":
        return names.firm(dice, held), "it"
    if kind.title == "ship":
        return "the ship " + names.first(dice, held), "it"
    return kind.article + names.titled(dice, held, kind.title), "it"


def passage(dice: Dice, kind: Kind, held: bool) -> Passage:
    """A passage of one or two sentences that tells three facts of a new thing of this kind."""
    subject, pronoun = subject_of(dice, kind, held)
    facts = dice.sample(kind.facts, 3)
    values = [value_of(dice, fact, held) for fact in facts]
    told = [part(dice, fact.told, v=value) for fact, value in zip(facts, values, strict=True)]
    shape = dice.pick(SHAPES)
    if pronoun != "it":
        shape = tuple(sentence.replace("which", "who") for sentence in shape)
    slots = {"s": subject, "p": pronoun, "q": pronoun, "a": told[0], "b": told[1], "c": told[2]}
    sentences = tuple(finish(sentence.format(**slots)) for sentence in shape)
    where = [next(i for i, sentence in enumerate(shape) if "{" + slot + "}" in sentence) for slot in "abc"]
    return Passage(subject, pronoun, sentences, tuple(zip(facts, values, where, strict=True)))
