"""The lexicon and the translation task: right German, reproducible, and honest about what is held out."""

import re
import zlib
from collections import Counter
from dataclasses import replace

import pytest

from fspad_ref.world import data_file
from fspad_ref.world.dice import Dice, held_out
from fspad_ref.world.exchange import Exchange
from fspad_ref.world.follow_ups import FOLLOW_UPS
from fspad_ref.world.german import WE, I, Part, be, clause, location, no_object, noun_phrase, past, present, pronoun
from fspad_ref.world.lexicon import load, with_article
from fspad_ref.world.patterns import OPENINGS
from fspad_ref.world.scene import for_, obj, sub, to, with_
from fspad_ref.world.translation import INSTRUCTIONS, pair_key, sentence_key, translation

WORDS = load()


def noun(english):
    return next(n for n in WORDS.nouns if n.english == english)


def verb(english):
    return next(v for v in WORDS.verbs if v.english == english)


def adjective(english):
    return next(a for a in WORDS.adjectives if a.english == english)


def phrase(det, *words, plural=False):
    *adjectives, name = words
    return noun_phrase(noun(name), det, tuple(adjective(a) for a in adjectives), plural)


def _english(exchange):
    """The sentences of the passage, without the instruction around it."""
    question = exchange.turns[0][0]
    for before, after in (i.split("{}") for i in INSTRUCTIONS):
        if question.startswith(before) and question.endswith(after) and (before or after):
            return re.split(r"(?<=\.) ", question[len(before) : len(question) - len(after)])
    raise AssertionError(f"no instruction fits {question!r}")


TEACHER, SISTER = phrase("the", "old", "teacher"), phrase("her", "sister")
TODAY = Part("time", "today", "heute")


def main(*args, front="", **kwargs):
    c = clause(*args, **kwargs)
    return c.english(front), c.german(front)


SENTENCES = [
    (
        main(TEACHER, verb("buy"), "present", obj(phrase("a", "red", "hammer"))),
        ("the old teacher buys a red hammer", "der alte Lehrer kauft einen roten Hammer"),
    ),
    (
        main(TEACHER, verb("buy"), "past", obj(phrase("the", "expensive", "clock")), TODAY, front="time"),
        ("today the old teacher bought the expensive clock", "heute kaufte der alte Lehrer die teure Uhr"),
    ),
    (
        main(I, verb("read"), "perfect", obj(phrase("my", "interesting", "book"))),
        ("I have read my interesting book", "ich habe mein interessantes Buch gelesen"),
    ),
    (
        main(WE, verb("look for"), "must", obj(phrase("our", "small", "dog")), TODAY),
        ("we must look for our small dog today", "wir müssen heute unseren kleinen Hund suchen"),
    ),
    (
        main(pronoun(phrase("the", "queen")), verb("sell"), "present", obj(pronoun(phrase("a", "ring"))), to(SISTER)),
        ("she sells it to her sister", "sie verkauft ihn ihrer Schwester"),
    ),
    (
        main(phrase("two", "young", "cook", plural=True), verb("carry"), "past", obj(phrase("this", "table"))),
        ("two young cooks carried this table", "zwei junge Köche trugen diesen Tisch"),
    ),
    (
        main(TEACHER, verb("repair"), "want-past", obj(phrase("the", "ship")), with_(phrase("his", "brother"))),
        (
            "the old teacher wanted to repair the ship with his brother",
            "der alte Lehrer wollte mit seinem Bruder das Schiff reparieren",
        ),
    ),
    (
        main(I, verb("find"), "present", obj(phrase("the", "key")), negated=True),
        ("I do not find the key", "ich finde den Schlüssel nicht"),
    ),
    (
        main(TEACHER, verb("work"), "present", location("in", phrase("the", "big", "garden")), negated=True),
        ("the old teacher does not work in the big garden", "der alte Lehrer arbeitet nicht im großen Garten"),
    ),
    (
        main(WE, verb("order"), "past", obj(phrase("", "fresh", "egg", plural=True)), for_(phrase("our", "uncle"))),
        ("we ordered fresh eggs for our uncle", "wir bestellten frische Eier für unseren Onkel"),
    ),
    (
        sub("because", "weil", be(pronoun(phrase("the", "lamp")), "present", "very old", "sehr alt")),
        ("because it is very old", "weil sie sehr alt ist"),
    ),
    (
        sub("that", "dass", clause(TEACHER, verb("help"), "can-past")),
        ("that the old teacher could help", "dass der alte Lehrer helfen konnte"),
    ),
    (
        sub("although", "obwohl", clause(WE, verb("lose"), "perfect", obj(pronoun(phrase("the", "car"))))),
        ("although we have lost it", "obwohl wir es verloren haben"),
    ),
    (
        main(I, verb("sit"), "present", location("next to", phrase("the", "dark", "house", plural=True))),
        ("I sit next to the dark houses", "ich sitze neben den dunklen Häusern"),
    ),
    (
        main(phrase("this", "friend", plural=True), verb("wash"), "present", obj(phrase("the", "cup"))),
        ("these friends wash the cup", "diese Freunde waschen die Tasse"),
    ),
]


@pytest.mark.parametrize(("made", "right"), SENTENCES, ids=[right[0] for _, right in SENTENCES])
def test_sentences_are_right(made, right):
    assert made == right


def test_no_becomes_kein_and_inversion_follows_a_subordinate_clause():
    bare, none = phrase("a", "green", "bag"), phrase("no", "green", "bag")
    c = no_object(TEACHER, verb("need"), "past", replace(bare, acc=none.acc))
    assert c.english() == "the old teacher did not need a green bag"
    assert c.inverted() == "brauchte der alte Lehrer keine grüne Tasche"


def test_first_person_forms():
    assert present(verb("smile"), "1s")[1] == "lächle"
    assert present(verb("feed"), "1s")[1] == "füttere"
    assert past(verb("wait"), "1p") == ("waited", "warteten")


def test_lexicon_is_large_and_unambiguous():
    for words, least in ((WORDS.nouns, 400), (WORDS.verbs, 200), (WORDS.adjectives, 250), (WORDS.adverbs, 100)):
        assert len(words) >= least
        for side in ("english", "german"):
            counts = Counter(getattr(w, side) for w in words)
            assert [w for w, n in counts.items() if n > 1] == []


def test_articles_and_missing_data():
    assert [with_article(w) for w in ("unusual hat", "university", "hour")] == [
        "an unusual hat",
        "a university",
        "an hour",
    ]
    with pytest.raises(ValueError, match="no_such_file"):
        data_file("no_such_file")


def test_an_answer_key_must_be_in_the_answer():
    with pytest.raises(ValueError, match="lacks"):
        Exchange("translation", (("a", "ein Haus"),), (("kein Haus",),))


def test_dice_are_reproducible_and_fair():
    dice = Dice(0)
    assert sorted(dice.shuffled(range(9))) == list(range(9))
    counts = Counter(dice.integer(1, 6) for _ in range(6000))
    assert set(counts) == set(range(1, 7)) and min(counts.values()) > 850
    assert dice.weighted("ab", (0, 1)) == "b"


def test_a_seed_gives_the_same_text_everywhere():
    dice = Dice(11)
    text = "\n".join("\n".join(translation(dice, held=i % 4 == 0).turns[0]) for i in range(200))
    assert zlib.crc32(text.encode()) == 2592542469


def test_training_and_evaluation_share_no_sentence():
    assert len(OPENINGS) + len(FOLLOW_UPS) >= 20
    assert any(held_out(pair_key(a, b)) for a in OPENINGS for b in FOLLOW_UPS)
    dice = Dice(12)
    seen = [e for _ in range(200) for e in _english(translation(dice, held=False))]
    unseen = [e for _ in range(6) for e in _english(translation(dice, held=True))]
    assert not any(held_out(sentence_key(e)) for e in seen)
    assert all(held_out(sentence_key(e)) for e in unseen)


def test_one_english_passage_has_one_translation():
    dice, known = Dice(13), {}
    for _ in range(200):
        exchange = translation(dice, held=False)
        passage = " ".join(_english(exchange))
        assert known.setdefault(passage, exchange.turns[0][1]) == exchange.turns[0][1]
        assert exchange.turns[0][1] == " ".join(exchange.expected[0])
        assert len(exchange.expected[0]) == len(_english(exchange))
