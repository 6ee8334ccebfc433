"""Reading aloud: the user says something, the assistant says it again.

No task of the evaluation. It is in the training stream because quoting a passage, adding up the operands of a question
and telling a story about the hero that was asked for all need one skill, copying from the prompt, and a small model
picks that up from texts that are nothing but copies long before it does from a name here and there.
"""

from fspad_ref.world import names
from fspad_ref.world.dice import Dice
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.passages import KINDS, passage
from fspad_ref.world.phrasing import say

ASK = (
    "[Please repeat|Repeat|Say again|Read out|Read aloud|Copy|Write out|Type out] [this|the following]"
    "[ word for word|, please| exactly|]: {text}|"
    "{text}\n[Say that again|Repeat that|Once more, please|Read it back to me]."
)


def echo(dice: Dice) -> Exchange:
    """A passage, or a list of names and numbers, and its copy. Names lie on the training side."""
    text = passage(dice, dice.pick(KINDS), False).text if dice.chance(0.5) else _list(dice)
    return Exchange("echo", ((say(dice, ASK, text=text), text),), ((text,),))


def _list(dice: Dice) -> str:
    makers = (names.first, names.person, names.town, names.firm, lambda dice: str(dice.integer(2, 999)))
    return ", ".join(dice.pick(makers)(dice) for _ in range(dice.integer(4, 9))) + "."
