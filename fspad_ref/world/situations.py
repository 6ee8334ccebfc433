"""The situations of the word problems: what happens, what is asked, and how the answer talks about it.

{n} and {m} are persons, {s}, {o}, {p} the pronouns of {n}; {x} are things (plural); {a} to {d} the numbers in the order
of the plan; in the answer {w} is the working of one step and {r} the result. Brackets are choices, see phrasing.py.
"""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Situation:
    """One row of the table below.

    plan: the operations, such as "a+b-c". things: kinds of noun for {x}, or "=" and then plurals to choose from.
    steps: one an operation.
    """

    plan: str
    things: tuple[str, ...]
    story: str
    steps: tuple[str, ...]
    close: str
    unit: str  # what follows the result in the closing sentence


# plan / kinds of things or =literal plurals / story / one step an operation / closing sentence, which says "{r} unit"
_TABLE = """
a+b-c / =apples,pears,plums,nuts,lemons,oranges,mushrooms,berries,cherries,shells,flowers,feathers,stones,peaches / {n} [picks|gathers|collects] {a} {x} and [buys|finds|gets] {b} more. Then {s} [gives|sells|hands] {c} of them to {m}. How many {x} [does {n} have left|are left|remain]? / [with the new ones|after that|together], {s} has {w} / [without those for {m}|after the gift|after {m} takes some], there are {w} / [so|thus|in the end,] {n} [has|keeps|is left with] {r} {x} / {x}
a+b-c / =guests,passengers,tourists,pupils,children / a [train|ship|tram|bus] carries {a} {x}. At the [first stop|harbour|market|bridge] {b} more get on and {c} get off. How many {x} are on board [now|then|after that]? / [with the new ones|when the others get on|after the boarding] we [count|have|get] {w} / [then some leave|some get off|after the goodbyes it is]: {w} / [so|therefore|now] there are {r} {x} on board / {x}
a+b-c / text / a library [owns|has|holds] {a} {x}. It [buys|orders|receives] {b} [new ones|more] and lends {c} to {n}. How many {x} are [still there|on the shelves|in the library]? / the library [first|at first] has {w} / [lending some leaves|without the lent ones it is|then it keeps] {w} / [so|hence|as a result] {r} {x} are [still there|on the shelves|in the library] / {x}
a-b+c / tool clothing / a shop [has|stores|keeps] {a} {x}. {n} [buys|orders|takes] {b} of them, and later {c} new ones [arrive|are delivered|come in]. How many {x} does the shop have [now|in the end|then]? / after [the sale|{n} leaves|this purchase] we have {w} / [the delivery|the new stock|the next van] makes it {w} / [so|thus|finally] the shop has {r} {x} / {x}
a-b+c / animal / {n} [keeps|owns|has] {a} {x}. {s} [sells|gives|lends] {b} of them to {m} and [later|in spring|then] buys {c}. How many {x} does {n} [have|own|keep] now? / [without|not counting|minus] the first group [that leaves|it is|we have] {w} / [with|adding|counting] the new ones: {w} / [so|now|in the end] {n} [has|owns|keeps] {r} {x} / {x}
a-b+c / =coins / {n} has {a} coins. {s} [spends|pays|loses] {b} on a {thing} and [earns|wins|finds] {c} [at the market|from {m}|the next day]. How many coins does {s} have? / the {thing} [costs some|is paid first|comes first]: {w} / the [extra coins|new coins|other coins] [bring it to|make it|lead to] {w} / [so|therefore|in the end] {n} has {r} coins / coins
a+b+c / plant animal / in [spring|the morning|June|the first week] {n} [counts|draws|sees] {a} {x}, {m} {b}, and a [neighbour|friend|cousin] {c}. How many {x} is that [in all|altogether|together]? / {n} and {m} [together have|have|reach] {w} / [the third person|the last share|the rest] [brings us to|makes it|takes it to] {w} / [so|altogether|in all] that [makes|is|gives] {r} {x} / {x}
a+b+c / =visitors,guests,dancers,singers,cyclists / a [museum|castle|garden|fair] has {a} {x} on Friday, {b} on Saturday and {c} on Sunday. How many {x} [come|does it have] [in all|in the three days]? / Friday and Saturday [make|give|bring] {w} / [Sunday|the last day] [adds its share|lifts this|makes it]: {w} / [so|in all|altogether] {r} {x} [come|arrive|are counted] / {x}
a+b+c / =pages / {n} reads {a} pages [of a novel|of a diary|about whales] on Monday, {b} on Tuesday and {c} on [Friday|Sunday]. How many pages does {s} read? / the first two days [make|give|come to] {w} / [with|adding|including] the [last|third] day, {w} / [so|in all|altogether] {n} reads {r} pages / pages
a-b-c / text object / {n} has {a} {x}. {s} [sends|gives|sells|shows] {b} to {m} and [loses|burns|hides] {c}. How many {x} are left? / [without|leaving out|taking away] those for {m}, {s} has {w} / [the others|the second group|the missing ones] [leave|reduce it|bring it down]: {w} / [so|only|in the end] {r} {x} are left / {x}
a-b-c / =metres / {n} [has|buys|owns] a rope of {a} metres. {s} cuts off {b} metres for [a swing|a tent|{m}] and {c} metres for [a boat|a goat|the flag]. How long is the rest? / after the first cut [we have|there are|it is] {w} / [the second cut|the next piece] [leaves|gives] {w} / [so|thus|then] the rest is {r} metres long / metres
a-b-c / =miles / the [road|way|trip] from {town} to the [sea|border|mountain] is {a} miles long. {n} [rides|walks|drives] {b} miles [today|on Monday] and {c} miles [tomorrow|on Tuesday]. How many miles remain? / after the first day [there remain|we have|it is] {w} / the second day [leaves|brings it to|makes this] {w} / [so|then|thus] {r} miles [remain|are left] / miles
n*a+b / food object / {n} [fills|packs|buys|orders] {n1} [boxes|bags|crates|baskets] with {a} {x} each and [has|finds|keeps] {b} loose ones. How many {x} [are there|does {n} have] [in all|altogether]? / [the full ones|the {n1} together|these] hold {w} / [with|counting|adding] the loose ones: {w} / [so|in all|altogether] there are {r} {x} / {x}
n*a+b / =chairs,seats,benches / a [theatre|school|town hall|cinema] has {n1} rows of {a} {x} and {b} {x} [on the balcony|by the door|at the side]. How many {x} does it have? / the rows [make|give|hold] {w} / the [extra ones|others|rest] [make it|lead to|bring] {w} / [so|in all|together] there are {r} {x} / {x}
n*a+b / =coins / a [ticket|hammer|basket|lamp|hat] costs {a} coins. {n} [buys|takes|orders] {n1} of them and a {thing} for {b} coins. How many coins does {s} pay? / {n1} of them [together cost|come to|cost] {w} / the {thing} [is added|comes on top|makes it more]: {w} / [so|in all|therefore] {n} pays {r} coins / coins
n*a-b / =tulips,carrots,cabbages,roses,oaks,firs,sunflowers,onions,pumpkins,birches,herbs,potatoes,palms,lime trees / {n} [plants|sets|lays out] {n1} [rows|lines|beds] of {a} {x}. [The frost|A goat|The wind|A storm] [ruins|destroys|spoils] {b} of them. How many {x} [survive|are left|remain]? / [at first|before that|in the beginning] there are {w} / [the damage|the loss|this mishap] [leaves|brings us to|reduces it to] {w} / [so|only|in the end] {r} {x} [survive|are left|remain] / {x}
n*a-b / =coins / {n} works for {n1} [days|weeks|hours] and earns {a} coins [each time|for each]. {s} [spends|pays] {b} coins on [food|rent|a {thing}|presents]. How many coins [remain|are left|does {s} keep]? / the [work|whole wage|labour] [brings|gives|earns] {w} / [after|without|minus] the [spending|costs|expense]: {w} / [so|thus|in the end] {r} coins [remain|are left] / coins
n*a-b / =biscuits,cakes,loaves,pies,tarts,pancakes / a [baker|cook|confectioner] named {n} [bakes|makes|prepares] {n1} trays of {a} {x}. The [guests|children|twins|pupils] eat {b} of them. How many {x} are left? / the trays [hold|give|carry] {w} / after the [meal|party|feast|snack] [we have|there are] {w} / [so|then|only] {r} {x} are left / {x}
(a+b)*n / =coins / a [pen|kite|cap|mirror] costs {a} coins and a [ball|drum|flute|scarf] {b} coins. {n} buys {n1} of each. How many coins does {s} [pay|need|spend]? / one of each [costs|comes to|makes] {w} / {n1} [such pairs|pairs|of these] [cost|come to|make] {w} / [so|in all|therefore] {n} [pays|needs|spends] {r} coins / coins
(a+b)*n / =minutes / every [day|morning|evening] {n} [swims|reads|paints|sings] for {a} minutes and [runs|cooks|dances|writes] for {b} minutes. How many minutes is that in {n1} days? / one day [takes|makes|has] {w} / {n1} days [take|make|come to] {w} / [so|in all|altogether] it is {r} minutes / minutes
(a+b)*n / food plant / each of {n1} [baskets|tables|carts|shelves] [holds|carries|gets] {a} [big|fresh|cheap|good] and {b} [small|old|dear|ugly] {x}. How many {x} are there [in all|altogether]? / one of them [holds|carries|has] {w} / {n1} of them [hold|carry|have] {w} / [so|in all|altogether] there are {r} {x} / {x}
(a-b)*n / =coins / a {thing} costs {a} coins, but [today|in autumn|for friends] it is {b} coins cheaper. What do {n1} of them cost {n}? / the [new|lower|reduced] price is {w} / for {n1} [of them|pieces], [this makes|we get] {w} / [so|therefore|thus] {n} pays {r} coins / coins
(a-b)*n / =litres / a [tank|barrel|pond|tub] [gets|takes in|receives] {a} litres [an hour|every hour] and loses {b} litres in the same time. How many litres does it gain in {n1} hours? / [each|every|one] hour [it gains|it keeps|brings] {w} / {n1} [times that|hours|such hours] [make|give|bring] {w} / [so|in all|therefore] it gains {r} litres / litres
q/n+b / object food / {n} [shares|divides|splits] {q1} {x} equally among {n1} [friends|children|cousins|pupils], {m} among them. {m} [already has|has|owns] {b} {x}. How many {x} does {m} have [now|then|in the end]? / each [share|part|portion] [is|has|counts] {w} / [with|adding|counting] the earlier ones: {w} / [so|now|in the end] {m} has {r} {x} / {x}
q/n+b / =coins / {n1} [friends|brothers|sailors|miners] [find|win|earn] {q1} coins and share them [equally|fairly]. {n}, [one of them|who is among them], had {b} coins [before|at home|already]. How many coins has {n} now? / [each share|one share|every part] is {w} / [together with|added to|beside] the old coins [we get|this is|it makes] {w} / [so|now|thus] {n} has {r} coins / coins
n*a+b-c / object tool / {n} [buys|orders|gets] {n1} [boxes|crates|packs] of {a} {x}, [finds|adds|borrows] {b} more and [sells|lends|gives] {c} to {m}. How many {x} does {n} [have|keep] in the end? / [all of those|the full ones|the {n1} together] hold {w} / [with the others|then more come|adding the rest]: {w} / [without those of {m}|some go to {m}|then some go away]: {w} / [so|finally|in the end] {n} [has|keeps] {r} {x} / {x}
n*a+b-c / =passengers,workers,tourists,guests / {n1} [buses|boats|ferries|wagons] with {a} {x} each [arrive|come], and {b} {x} come on foot. [Later|After lunch|At noon] {c} {x} leave. How many {x} [stay|remain]? / those who [ride|travel by vehicle] [are|make|number] {w} / the [walkers|others] make it {w} / [when some leave|after the farewell|then the place keeps]: {w} / [so|thus|finally] {r} {x} [stay|remain] / {x}
n*a+m*b / food clothing / {n} [packs|buys|sorts|brings] {n1} [boxes|bags|cases] of {a} {x} and {m1} [baskets|sacks|drawers] of {b} {x}. How many {x} [is that|are there] [in all|altogether]? / the first kind [holds|gives|has] {w} / the second kind [holds|gives|has] {w} / [together|both|the sum]: {w} / [so|in all|altogether] there are {r} {x} / {x}
n*a+m*b / =coins / [tickets|seats|rooms|meals] cost {a} coins for [adults|men|women] and {b} coins for [children|pupils|babies]. What do {n1} of the first and {m1} of the second kind cost {n}? / the dear ones [cost|come to|make] {w} / the others [cost|come to|make] {w} / [together|both|the sum]: {w} / [so|in all|altogether] {n} pays {r} coins / coins
a-b+c / =litres / a [tank|barrel|cistern|boiler] [holds|contains] {a} litres of [water|oil|milk|wine]. {n} [takes|draws|uses] {b} litres, and {m} [pours in|adds|fills in] {c}. How many litres are in it now? / what {n} takes [leaves|gives|brings us to] {w} / what {m} adds [makes|gives|leads to] {w} / [so|now|at last] it [holds|contains] {r} litres / litres
a+b-c / =points / {n} [wins|scores|gets] {a} points in the first [round|game|match] and {b} in the second, but loses {c} in the [third|last]. How many points does {s} have? / the first two [make|give|bring] {w} / the [bad|unlucky|poor] end [leaves|makes it|takes some]: {w} / [so|finally|in the end] {n} has {r} points / points
a+b+c / =miles / a [postman|pilot|sailor|driver] named {n} [travels|covers|goes] {a} miles to {town}, {b} miles to {town2} and {c} miles [home|back]. How many miles is that? / the first two [trips|legs|parts] [make|are|give] {w} / the [way back|last part] [makes it|brings it to|adds to this]: {w} / [so|in all|altogether] {n} [travels|covers|goes] {r} miles / miles
"""  # noqa: E501 - a table reads best with one row a line


@cache
def situations() -> tuple[Situation, ...]:
    """The rows of the table."""
    made = []
    for row in _TABLE.strip().splitlines():
        plan, things, story, *steps, close, unit = row.split(" / ")
        choices = ("=", *things[1:].split(",")) if things.startswith("=") else tuple(things.split())
        made.append(Situation(plan, choices, story, tuple(steps), close, unit))
    return tuple(made)
