"""Short stories told on demand: their openings, plot elements and endings, and what may be asked of them next.

Slots: {n} and {m} are people, {p}/{po}/{pd} the pronouns of {n}, {a} an animal, {t} a thing, {j} a trade, {w} a place.
"""

from fspad_ref.world.talks import Talk

STORY_BANKS = {
    "once": "[One|On a~] [cold|warm|grey|windy|quiet|foggy|bright|rainy|frosty|hot] [morning|evening|night|afternoon|"
            "Sunday]|[Long ago|Many years ago|Once|Last winter|One spring|Last summer|In a bad year|Some time ago|"
            "Before the war|When the moon was full|After the great storm|On the first day of autumn]",
    "feel": "happy|proud|sad|relieved|angry|grateful|surprised|ashamed|afraid|calm|tired|brave|lonely|rich",
    "met": "met|found|saw|came across|heard|was woken by|stumbled over|ran into|caught sight of|was followed by",
    "plot": "{pn} [wanted|hoped|tried|had promised|planned] to [find|sell|hide|bring home|mend|steal back] a~ "
            "{object} {t}, but [the road was long|snow was falling|nobody would help|a thief came first|night fell "
            "early|the map was wrong|the door was locked]|[The animal|The {a}] [carried|was guarding|had "
            "swallowed|pointed to|slept on|played with] a~ {object} {t}, [which had belonged to|once lost by|stolen "
            "from|meant for] [a king|a poor widow|the mayor|an old sailor|a queen|the village school|two "
            "sisters]|[Together|Side by side|Without a word|Full of hope] they "
            "[followed|crossed|searched|climbed|left] [the frozen river|a dark tunnel|the empty market|a steep "
            "path|the burning field|the old bridge|seven hills], [looking for|carrying|talking about|dreaming of] a~ "
            "{object} {t}|[Hunger|Fear|A storm|Bad luck|A loud noise|Thunder] [drove|forced|led] them into [a cave|a "
            "barn|a tower|an empty house|a church|a boat], where a~ {object} {t} [was waiting|lay in the dust|hung on "
            "the wall|began to glow|suddenly moved]|{pn} [shared|gave away|offered] {pd} last "
            "[bread|apple|coat|coin|blanket|soup], and [in return|as thanks|that same night] the {a} [showed "
            "{po}|brought {po}|dug up] a~ {object} {t}",
    "pn": "{n}|{n}|{p}",
    "turn": "[But|Then|Suddenly|At midnight|Just then|The next day] [a stranger|{m}|the police|a giant|a rich man|the "
            "owner|a child|{m}] [demanded|took|asked for|broke|recognized|hid|bought|laughed at] the "
            "{t}|[Soon|Later|After three days|In the end] the {t} [broke in two|fell into the water|was lost|changed "
            "everything|turned to stone|made music|opened a secret door|saved a life]|[Then|Soon|At last|By chance] "
            "{m} [came along|joined them|heard of it|opened the gate] and [offered help|told them the truth|wanted a "
            "share|began to cry|lit a fire|knew the way|made a plan]",
    "close": "[From then on|Since that day|Ever after], {n} and the {a} [were friends|lived together|shared every "
             "meal|never parted|travelled the country|kept the secret|told the story each winter]|[In the end|At "
             "last|Finally], {n} [went home|smiled|fell asleep|sold everything|forgave them all|danced|learned to "
             "wait|opened a small inn], and the {a} [stayed|ran off|sang|watched over {po}|slept by the fire|got a "
             "name]|[That night|The next morning|A year later] [everybody|the whole town|half the village|{m}] "
             "[knew|talked about|was grateful to|came to thank|envied] {n} and the {a}|{n} felt {feel}, [but|and] the "
             "{a} [only yawned|was {feel} too|was gone|wanted more|licked {pd} hand|knew better]",
}
ANSWER = ("{once}, {n}, a~ {person} {j}, {met} a~ {beast} {a} {w}. {plot}. {turn}. [{close}.|]|{once}, there lived a~ "
          "{person} {j} [called|named|by the name of] {n} [and|with] a~ {beast} {a} {w}. {plot}. {turn}. "
          "[{close}.|]|{n} was a~ {person} {j} who {met} a~ {beast} {a} {w}. {plot}. {turn}. {close}.")
FOLLOW = (
    ("[And then|What happened next|How does it go on|Can you go on]?|[Please continue|Go on|Tell me more].",
     "[The next day|A week later|Soon after|That winter|When spring came|After a long sleep], {n} [and the {a} set "
     "out again|went to look for {m}|returned with the {a}|grew {feel}]. {plot}. [{m} [waited|wept|laughed|was there "
     "too]. |]{turn2}. {close}.",
      "n a"),
    ("[Tell it|Now tell it] from the [animal's|{a}'s] [side|point of view].|How did the {a} see it?|What would the "
     "{a} say?",
     "I am [only|just|] a~ {beast} {a}, [but|and yet] I [know|remember|saw] [the truth|everything|how it was]. When "
     "{n} [came to me|found me|appeared|stood there] {w}, I [was|felt] {feel}. [People think|They say|{m} believes] "
     "{animaldid}, but [in truth|really|to be honest] I [only wanted|was hoping for|had dreamt of] [a warm bed|some "
     "cheese|a friend|an easy life|peace and quiet|the {t}|a little fame].", "n a"),
    ("[Give it|I want|Make up] [another|a different|a happier|a sadder|a funny] ending[, please].",
     "[All right|Very well|Let me try|As you wish|Here it is|How about this]. {turn}. {n} [was|felt] {feel}, because "
     "[the {a} had known it all along|the {t} was worth nothing|{m} was {pd} own cousin|nothing was as it seemed|the "
     "way home was short|it had all been a dream]. [{plot}. |]{close}.", "n"),
    ("[Give it a title|Find a title][, and say why|].|[What would be a good title|What would you call it]?",
     "[I would call it|My title is|It could be called|A good title would be] \"[The {j} and the {a}|The {titleadj} "
     "{t}|{n} and the {a}|What the {a} knew|A~ {t} for {n}]\", [because|since] [everything turns on|it all begins "
     "with|the heart of it is|nobody forgets] [the {t}|this {a}|the {a}]. {n} [would|might] [like it|agree|smile] "
     "too, [and|while] {m} [would ask for|might prefer] [something shorter|a longer one|a warmer one|no title at "
     "all].", "n"),
    ("[Who was|What do we know about] [the main person|the hero|this {j}]?|Who is the story about?",
     "[The main person|The hero|It] is {n}, a~ {person} {j}[ who is often {feel}|]. [{p} [loves|fears|collects|cannot "
     "stand] [the sea|old songs|long letters|cold rain|loud people|small towns], [and|but] {p} [would do anything|has "
     "a weakness|always has time] for the {a}.] [We meet {po}|The tale finds {po}|It begins] {w}, [where {m} lives "
     "too|far from {m}|not far from {m}].", "n a"),
)
STORY_BANKS["turn2"] = STORY_BANKS["turn"].replace("{m}", "a stranger").replace("[But|Then|Suddenly|", "[Suddenly|")
STORY_BANKS["animaldid"] = ("I [stole|lost|hid|found|loved|guarded] the {t}|{n} [tamed|saved|taught|fed] me|"
                            "I [was afraid|ran away|could speak]")
STORY_BANKS["titleadj"] = "Golden|Lost|Silent|Broken|Last|Stolen|Strange|Lucky|Hidden|Magic"
SLOTS = "first n m; gender p; person person; beast beast; object object; animal a; thing t; trade j; where w"
STORIES = (
    Talk(SLOTS,
         "[Tell me|Write|Make up|I would like] a~ [short|little|funny|sad|] story about a~ {person} {j} and a~ {a}[, "
         "please|].", ANSWER, "a j", FOLLOW),
    Talk(SLOTS,
         "[Tell me|Write|Make up|I want to hear] a~ [short|little|strange|] [story|tale] [about|with] {n} and a~ "
         "{a}[, please|]."
         , ANSWER, "n a", FOLLOW),
    Talk(SLOTS,
         "[Tell|Write|Invent] a~ [story|tale|bedtime story] [about|with] a~ {j} called {n}, a~ {a} and a~ {t}.",
         ANSWER, "n a", FOLLOW),
    Talk(SLOTS,
         "Do you know a~ [bedtime story|tale|story] about a~ {a} {w}?|[I need|Give me] a~ [bedtime story|tale|story] "
         "[about|of] a~ {a} {w}[ for my daughter| for my son|].",
         ANSWER, "a w", FOLLOW),
)
