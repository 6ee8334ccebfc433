"""The translation task: a short English passage, to be put into German.

The German is a function of the English alone, so each sentence has exactly one right translation here. Held out are
sentences, and pairs of neighbouring sentence patterns: an evaluation passage has only sentences that training never
shows, and every other one has a pair of patterns that training never shows.

>>> from fspad_ref.world.dice import Dice
>>> translation(Dice(1), held=False).category
'translation'
"""

from fspad_ref.world.dice import Dice, held_out
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.follow_ups import FOLLOW_UPS
from fspad_ref.world.patterns import OPENINGS
from fspad_ref.world.scene import Sentence

INSTRUCTIONS = (
    "Translate into German: {}",
    "Translate this into German: {}",
    "How do you say this in German? {}",
    "Please translate to German: {}",
    "What is this in German? {}",
    "Put this into German: {}",
    "I need this in German: {}",
    "Give me the German for this: {}",
    "English to German: {}",
    "Write this in German: {}",
    "{} How would a German say that?",
    "{} Translate that into German, please.",
    "Say it in German: {}",
    "Can you translate this for my German friend? {}",
)
TRIES = 400  # per sentence; about 16 are needed for a held-out one, but some patterns know few sentences


def translation(dice: Dice, held: bool) -> Exchange:
    """One passage of two or three sentences. held: True for evaluation, False for training."""
    new_pair = held and dice.chance(0.5)
    while True:
        plan = _plan(dice, held, new_pair)
        passage = plan and _passage(dice, plan, held)
        if passage:
            break
    english = " ".join(e for e, _ in passage)
    german = tuple(g for _, g in passage)
    return Exchange("translation", ((dice.pick(INSTRUCTIONS).format(english), " ".join(german)),), (german,))


def pair_key(first: str, second: str) -> str:
    """The key by which a pair of neighbouring patterns is held out."""
    return f"template:{first}+{second}"


def sentence_key(english: str) -> str:
    """The key by which a sentence is held out."""
    return f"sentence:{english}"


def _plan(dice: Dice, held: bool, new_pair: bool) -> list[str] | None:
    plan = [dice.pick(list(OPENINGS)), *dice.sample(list(FOLLOW_UPS), 2 if dice.chance(0.9) else 1)]
    found = any(held_out(pair_key(a, b)) for a, b in zip(plan, plan[1:], strict=False))
    return plan if held and (found or not new_pair) or not (held or found) else None


def _passage(dice: Dice, plan: list[str], held: bool) -> list[Sentence] | None:
    tense = dice.weighted(("present", "past"), (3, 2))
    opening = _until(lambda: OPENINGS[plan[0]](dice, tense), held)
    if opening is None:
        return None
    sentence, scene = opening
    passage = [sentence]
    for name in plan[1:]:
        turn = _until(lambda name=name, scene=scene: FOLLOW_UPS[name](scene), held)
        if turn is None:
            return None
        sentence, scene = turn
        passage.append(sentence)
    return passage


def _until(make, held: bool):
    """Roll again until the sentence is on the wanted side."""
    for _ in range(TRIES):
        made = make()
        if held_out(sentence_key(made[0][0])) == held:
            return made
    return None
