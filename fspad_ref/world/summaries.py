"""Summarization: a short report with some chatter, and two sentences that keep what matters."""

from fspad_ref.world import names
from fspad_ref.world.dice import Dice
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.phrasing import finish, part, say
from fspad_ref.world.reports import CHATTER, DAYS, REPORTS

INSTRUCTIONS = (
    "[Summarize|Sum up|Shorten] [this|the|the following] [report|text|news|article][ in two sentences| "
    "briefly|]:|[Please|Can you|Could you] [summarize|sum up|shorten] [this|the report]:|What [is the point "
    "of|happened in] this [report|text|article]?|Give me the [main points|main facts|gist] of this "
    "[text|report]:|[Tell me|Say] in [two sentences|short] what [happened|this says]:|Make a [short summary|summary] "
    "of this [text|report]:"
)
OPENINGS = (
    "||[In short|In brief|Briefly|To sum up|In a few words|In two sentences]: |"
    "[The|Its] [main point|gist|news|message|core] [is this|in short|in brief|can be put so]: |"
    "[Here is|This is|Here comes] the [short version|gist|short form|news in brief|heart of it]: |"
    "[Put|Told|Said] [simply|briefly|in other words|in two sentences]: "
)


def summarization(dice: Dice, held: bool) -> Exchange:
    """A report of four to six sentences, and a summary of its lead facts in other words.

    Its wording mostly follows from the day and the thing that it is about.
    All names lie on the wanted side. Expected: the names of who and where.
    """
    report = dice.pick(REPORTS)
    lo, hi, least, most = report.numbers
    slots = {
        "who": (names.firm if report.who == "firm" else names.person)(dice, held), "town": names.town(dice, held),
        "day": dice.pick(DAYS), "n": dice.integer(lo, hi), "m": dice.integer(least, most),
        "thing": part(dice, report.things),
    }
    extras = [sentence + "." for sentence in part(dice, report.extras).rstrip(".").split(". ")]
    if len(extras) > 1 and dice.chance(0.4):
        extras.pop(dice.integer(0, len(extras) - 1))
    if dice.chance(0.6):
        extras.insert(dice.integer(0, len(extras)), part(dice, CHATTER))
    body = " ".join([report.lead, report.key, *extras])
    prompt = say(dice, INSTRUCTIONS) + "\n" + say(dice, body, **slots)
    brief = report.brief + " " + report.brief_key
    habits = slots["day"], slots["thing"]
    answer = finish(part(dice, OPENINGS, habits=habits) + part(dice, brief, habits=habits, **slots))
    return Exchange("summarization", ((prompt, answer),), ((slots["who"], slots["town"]),))
