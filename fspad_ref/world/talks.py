"""What people chat about, apart from stories: advice, roles, memory, comparisons, verses, letters, how-to, opinions."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Talk:
    """One kind of two-turn talk.

    slots: what is drawn first, "list name name; list name"; opening and answer: patterns of the first turn; named:
    slots that the first answer must contain; follow: (question, answer, slots that the answer must contain).
    """

    slots: str
    opening: str
    answer: str
    named: str
    follow: tuple[tuple[str, str, str], ...]


LISTS = {
    "trade": "baker, sailor, teacher, farmer, doctor, nurse, painter, tailor, miller, gardener, shepherd, fisher, "
             "guard, cook, writer, driver, judge, carpenter, hunter, king, clown, smith, dancer, student, pilot, "
             "butcher",
    "thing": "map, key, lamp, letter, ring, coin, clock, bell, box, book, rope, mirror, hat, violin, coat, candle, "
             "bottle, basket, knife, drum, crown, umbrella, spoon, watch, scarf, chest, kite, mask, flag, shoe",
    "where": "by the river, in the forest, at the harbour, in an old mill, behind the church, on a hill, at the "
             "market, at the station, in the snow, under a bridge, near the sea, in the garden, on the roof, in a "
             "cave, at the edge of town, in the library, in the desert, on an island, in the mountains, at the lake",
    "hobby": "swimming, painting, chess, cooking, dancing, reading, fishing, singing, climbing, sewing, gardening, "
             "football, sailing, hiking, baking, photography, running, drawing, riding, tennis, camping, writing",
    "relative": "mother, father, sister, brother, aunt, uncle, grandmother, grandfather, neighbour, teacher, boss, "
                "cousin, best friend, daughter, son, wife, husband",
    "food": "apples, pears, eggs, potatoes, tomatoes, carrots, onions, lemons, beans, peas, cucumbers, mushrooms, "
            "pumpkins, noodles, sausages, nuts, plums, peppers, olives, lentils, cherries, grapes, leeks, beets, "
            "radishes, fish fillets",
    "person": "old, young, clever, shy, brave, lazy, kind, tired, curious, poor, proud, quiet, busy, honest, lonely, "
              "cheerful, nervous, gentle, careful, funny, patient, stubborn, hungry, famous",
    "beast": "small, hungry, wet, lame, white, black, grey, noisy, fat, thin, wild, tame, sleepy, clever, strange, "
             "huge, dirty, wounded",
    "object": "golden, rusty, broken, heavy, tiny, strange, silver, forgotten, magic, wooden, shining, stolen, dusty, "
              "precious",
    "gift": "a book, a plant, a scarf, a cake, a lamp, a calendar, a box of tea, concert tickets, a basket of fruit, "
            "a warm blanket, a board game, a photo album, a pair of gloves, a good knife, a picture frame, a jar of "
            "honey",
    "colour": "red, blue, green, yellow, black, white, orange, purple, brown, grey, pink, silver",
    "role": "a ship's captain, an old king, a robot, a friendly ghost, a detective, a museum guard, a tired waiter, a "
            "dragon, a weather reporter, a clock maker, a train driver, a fortune teller, a mountain guide, a pirate, "
            "a lighthouse keeper, a circus clown, a court judge, a space traveller",
    "weather": "rain, snow, fog, wind, heat, frost, thunder, sunshine, hail, drizzle",
    "theme": "autumn, the sea, friendship, winter, my garden, the moon, coffee, a train ride, hope, the night, my old "
             "house, spring, the wind, a lost key, time, bread, a mountain, silence, summer, the city",
    "event": "birthday, wedding, garden party, school concert, picnic, house warming, farewell party, dinner, game "
             "night, dance, exhibition, reading",
    "topic": "working from home, living in a big city, getting up early, keeping pets, homework, electric cars, "
             "school uniforms, night trains, small shops, long holidays, mobile phones at school, cold showers, "
             "learning Latin, living alone, fast food, camping, watching sport, public libraries, loud music, zoos",
    "trouble": "cannot sleep, am always late, forget names, have too much work, feel lonely, am afraid of flying, "
               "lost my keys again, argue with my brother, eat too much sugar, cannot save money, hate Mondays, am "
               "bored, miss my old town, am nervous before exams, never finish books, have a messy desk",
    "pair": "tea, coffee, the train, the car, summer, winter, a book, a film, the city, the village, cats, dogs, the "
            "sea, the mountains, mornings, evenings, soup, salad, chess, football, a bicycle, a bus, letters, phone "
            "calls",
    "day": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    "task": "plant a tree, bake bread, write a letter, paint a wall, wash a dog, make tea, mend a tyre, clean a "
            "window, learn a song, pack a suitcase, build a fire, iron a shirt, cook rice, make a kite, dry herbs, "
            "fold a paper boat, sew on a button, hang a picture, grow tomatoes, make jam",
}
BANKS = {
    "sure": "[Gladly|Of course|With pleasure|Sure|Happy to help|Good question|Let me see|Let me think|Why "
            "not|Certainly|Very well|All right|Well|Fine|A nice idea]",
    "nice": "[simple|cheap|quick|warm|lovely|light|tasty|cheerful|solid|colourful|fresh|honest|pleasant|modest|fine]",
    "bye": "[Enjoy it|Good luck|Have fun|Let me know how it goes|You will see|Take your time|Trust me|Do not worry|Be "
           "brave|Stay patient|That should do|The rest is luck|Tell me later]|[If you like|If need be|Later "
           "on|Tomorrow|When you are free], [ask me again|tell me more|we can go on|I can say more|let us talk about "
           "it]|[Remember|Just remember|One last thing|And never forget]: [patience|good company|a calm mind|a warm "
           "heart|a bit of luck|a joke|good sleep] [helps|does wonders|goes a long way|is half the work]",
    "think": "[I think|I believe|in my view|it seems to me|I would say|if you ask me|to be honest|I feel|my guess is]",
    "herb": "[garlic|pepper|salt|butter|parsley|mustard|cream|olive oil|fresh herbs|a little "
            "sugar|vinegar|ginger|chilli]",
    "do": "[visit|look at|stroll through|explore|start with|spend an hour in|do not miss|drop by]",
    "sight": "the [old|famous|little|busy|quiet|noisy|sunny] "
             "[harbour|market|museum|castle|church|park|bridge|theatre|library|tower|bakery|gallery|zoo|garden]",
    "reason": "[it costs little|it lasts long|it makes people smile|anybody can use it|it is personal|it needs no "
              "space|few people expect it|it brings back memories|it fits in any bag|it never gets old|it smells of "
              "home|it is easy to find]",
    "good": "[cheaper|calmer|healthier|faster|warmer|more exciting|more honest|friendlier|easier|more useful|less "
            "trouble|kinder to the nerves|better for thinking|good for the soul]",
    "image": "[A lamp|A bird|The rain|A boat|The grass|A song|The clock|An old door|The river|A leaf|My heart|The "
             "street|A child|The sky] "
             "[sleeps|waits|sings|trembles|wanders|shines|forgets|whispers|breathes|turns|listens|grows old]",
    "how": "[without a sound|in the cold|like a friend|for no one|until dawn|under the stars|once more|far from "
           "home|like gold|in silver light|and knows no fear|in the dust]",
    "step": "[take your time|work slowly|clear the table|read the label|ask a friend to hold things|look for good "
            "light|choose good tools|wash your hands|measure twice|put on old clothes|open a window|breathe "
            "deeply|have water ready|keep a cloth at hand]",
    "mid": "[try a small part first|go on step by step|do not hurry|keep everything clean|follow the edges|count to "
           "twenty|use both hands|check it from time to time|stop when it feels right|begin at the top|turn it gently|"
           "add a little water|leave it alone for ten minutes|start again if it goes wrong]",
    "fin": "[let it rest|clean up|show it to somebody|be proud of it|put everything away|wait an hour|enjoy the "
           "result|make a note for next time|take a photo|sit down with a cup of tea|give thanks to your helpers]",
    "tip": "[take a walk|write a list|drink some water|call an old friend|go to bed early|set two alarms|put the "
           "phone away|ask for help|take three deep breaths|begin with five minutes|make a plan in the evening|laugh "
           "about it|open the window|listen to slow music|cook something warm|keep a diary]",
    "roletalk": "[the stars|the wages|the weather|my old knees|strange guests|the long nights|the noise|bad soup|my "
                "uniform|lost children|the silence|cold hands|the view|people's questions|broken promises|the smell "
                "of oil|rumours]",
    "sky": "[grey|blue|heavy|clear|wild|pale|golden|dark|bright|restless]",
    "verb": "[sleeps|waits|sings|trembles|wanders|shines|forgets|whispers|listens]",
    "image2": "[a bird|the rain|a boat|the grass|a song|the clock|the river|a leaf] "
              "[sleeps|waits|sings|shines|turns|listens]",
    "colour": "[red|blue|green|yellow|warm|dry|old|soft]",
    "c2": "[morning|evening|soft|grey|golden]",
}
MORE = "[Why that one|Why|Why do you say so|What makes you say that|How so|Why do you think that|Are you sure]?"
TALKS = (
    Talk("food a b c", "[What can I|What should I|Can I|How can I] cook [with|from|something with] {a} and {b}[ "
                       "tonight| for four| for my family|]?|I [only|] have {a} and {b}[ at home|]. What [can I "
                       "cook|shall I make|is for dinner]?",
         "{sure}! [Cut|Chop|Slice|Clean|Wash] the {a} and [fry|cook|boil|roast|bake] them [gently|in a pan|for ten "
         "minutes|slowly] with {herb}. [Add|Stir in|Then add|Mix in] the {b}[ and {herb}|], [wait a little|cover the "
         "pan|taste it|season it well], and [you have|you get|there is] a~ {nice} [meal|supper|dish|stew|bake|plate]. "
         "{bye}.", "a b",
         (("[I have no|I do not like|I am allergic to] {b}[.|!]|What if I have no {b}?",
          "[No problem|That is easy|Then we change it|Never mind]: [take|use|try] {c} instead of the {b}. "
          "[Cook|Fry|Roast|Bake] them with the {a} [for a short time|until soft|over a low fire], [and add|and finish "
          "with|and serve with] {herb} [or|and] {herb}. It will be a~ {nice} [dish|meal|change], [I promise|you will "
          "see|and new to most]. {bye}.", "a c"),
          ("[Can you make it|How do I make it] [cheaper|quicker|hotter|lighter]?|Make it [cheaper|quicker|lighter], "
           "please.",
           "{sure}: leave out [the {b}|half of the {a}] and [use|add] {herb}. [Leftover|Boiled|Cold] {a} [are "
           "fine|work well|taste good too], and [a spoon of|a little|some] {herb} [helps|gives taste|does wonders]. "
           "[Serve it|Eat it] with [bread|rice|noodles|{c}]. {bye}.", "a"))),
    Talk("town w; hobby h g; first n", "[Plan|Help me plan] a~ [weekend|day|short trip] in {w} for [two|a family|{n} "
                                       "and me][, please|].|Can you plan a~ [weekend|day|trip] in {w} [with|for] "
                                       "{n}?|[What can we|What should I] do [on a weekend|in two days|on Sunday] in "
                                       "{w}?",
         "{sure}! [On the first morning|First|To begin with|Early in the day], {do} {sight} of {w}, [then|and "
         "afterwards|and before noon] {do} {sight}. [Have lunch|Eat|Rest] [by the river|in a small cafe|under the "
         "trees|at the station], [and leave time for|and try some|perhaps with a little] {h}. [In the evening|At "
         "night|Later], {do} {sight}.", "w",
         (("[Make it|I need it] [cheaper|less expensive|cheap][, please|].|Can it be cheaper?",
          "[Then|In that case|To save money], [walk|go on foot|rent a bicycle] and [take|bring] [bread and fruit|a "
          "picnic|your own tea]. In {w}, {sight} [costs nothing|is free|asks no money], and {g} [by the river|in the "
          "park|on the beach] is [free too|fun for all]. {bye}.",
            "w"),
          ("[What if it rains|And in the rain|What about bad weather]?|It may rain.",
           "[Then|In that case|No problem,] {do} {sight} [first|instead], [where it is dry|for it has a roof|and stay "
           "long]. [Rain|A wet day] suits {w}: [the cafes are warm|the streets shine|nobody hurries|the crowds stay "
           "away]. [Take a good coat|Bring a book|Pack dry socks], and [save|keep] {sight} for [the evening|the "
           "sun|later]. {bye}.", "w"))),
    Talk("relative r; hobby h; gift a b c", "[What can I|What should I|What would you] [give|buy] my {r}, who "
                                            "[loves|likes|enjoys] {h}?|I need a [present|gift] for my {r}, who "
                                            "[likes|loves] {h}.",
         "{sure}! [For somebody who|If your {r}|As your {r}] [likes|loves|enjoys] {h}, [I would take|I would choose|a "
         "good choice is|I suggest] {a}[, because {reason}|]. [Or|Perhaps|If not, then|Otherwise] {b}, [for|since] "
         "{reason}. [Add a card|Wrap it well|Hide it well|Put a ribbon on it], [and smile|and your {r} will smile|and "
         "it will be a success].", "h a",
         ((MORE, "[Because|I say so because|Simply because|Well,] {reason}, and {reason}. [Your {r} can use {a}|I see "
                 "{a} as something for your {r}] [every day|for years|after {h}|at home], [while|whereas|but] {c} "
                 "[may|might] [end in a drawer|be too much|be boring|break soon]. {bye}.", "r a"),
          ("[Make it|Something] [cheaper|smaller|more personal][, please|].",
           "[Then|In that case|All right, then] take {c}. [It is {nice}|The price is low], [and|because] {reason}. "
           "[You could also|Or] [write a poem|cook a meal|bake something|plan a day out] for your {r}, with [a "
           "little|some|much] {h} [in it|afterwards|for both]. {bye}.", "c r"))),
    Talk("role r; town w; first n m", "[Be|Play|Pretend to be|You are|Talk like] {r} [from|in|near] {w}[ and tell me "
                                      "about your day| and greet me|]."
         , "[Welcome|Good evening|Greetings|Hello|Come in|Sit down], [stranger|my friend|traveller|dear guest]! I am "
           "{n}, {r} [of|from|near] {w}. [All day|Every morning|At night|Too often|Year after year] I [think "
           "about|complain about|put up with|dream of|talk about] {roletalk}, [and|but] {roletalk} can [keep me "
           "awake|make me laugh|be worse|ruin a day|teach you patience]. [But|Still,] what [brings|leads|moves] you "
           "here[, my dear|]?",
          "r w",
         (("[What is your name|Who are you again|And what do they call you]?|I forgot your name.",
          "[They call me|My name is|I am|You may call me] {n}, [as my father was|after my grandmother|though few "
          "remember it|and I am proud of it]. [Everybody in|Half of|Nobody in] {w} [knows it|shouts it|forgets it], "
          "[except|even] {m}, who [only|often] [talks|asks|jokes] about {roletalk}.", "n w"),
          ("[What do you fear most|What do you love most|What makes you happy|What is hardest]?",
           "[Ah|Oh|Well], [that is easy|good question|I rarely say this]: {roletalk}, [and after that|and also|and "
           "next] {roletalk}. [You see,|Of course,|Sadly,] {r} [must not|should never|may not] [show "
           "fear|sleep|complain|lie|laugh], [but|yet] [in|at night in] {w} [I|even I] [weep a little|sing loudly|talk "
           "to the moon|count my coins|think of {m}].", "r w"))),
    Talk("first n; hobby h g; town w; colour c", "[Hello|Hi|Good morning|Good evening], [I am|my name is] {n} [and|,] "
                                                 "I [like|love|enjoy] {h} and {g}. [How are you|What do you think|Any "
                                                 "idea for today|What shall I do in {w}]?|[My name is|I am] {n} "
                                                 "[from|and I live in] {w}, and I [love|like] {h} and {g}. [And "
                                                 "you|What do you say]?",
         "[Hello|Hi|Welcome|Nice to meet you|Good to see you], {n}! {h} and {g} [go well together|are fine "
         "hobbies|keep you young|sound like fun]. [Today|Tonight|This week] [you could|why not|I would] [teach a "
         "friend|try something new|rest first|find a club|start early], [and then|or] [drink tea|call somebody|go out "
         "into the {c2} light|walk around|buy new shoes]. {bye}.",
         "n",
         (("[What is my name|Do you remember my name|Who am I|What was my name again]?",
          "[Of course|Yes|I do|Certainly]: [you are|your name is|you said you are] {n}, [the one|the person|a friend] "
          "who [likes|loves|enjoys] {h} [and|as well as] {g}. [I never forget|I listen well|My memory is good|That "
          "was easy], [at least|but only] [today|for now|so far]. {bye}.",
            "n h g"),
          ("[What do I like|What are my hobbies|Do you remember what I like|What did I tell you]?",
           "[You said|You told me|You mentioned|I remember] that you [like|love|enjoy] {h} and {g}, {n}. [Both|These "
           "two] [are|sound] [{good}|{nice}] [in my eyes|for me|to me], [and|though] {h} [needs|takes] "
           "[patience|time|courage|good shoes|friends]. {bye}.", "n h g"))),
    Talk("pair a b", "[Which is better|What is better|What do you prefer], {a} or {b}?|[Compare|Please compare|Can "
                     "you compare] {a} and {b}[ for me|].|{a} or {b}?",
         "{think} {a} [can be|would be] {good} and {good}, [while|whereas|but] {b} [can be|would be] {good}. [On|In] "
         "[bad|long|cold|lazy] days I [would choose|would go for|prefer] [{a}|{b}], [yet|but] [it depends on|much "
         "hangs on|that changes with] [your mood|the season|your money|the hour|the company|your age]. {bye}.",
          "a b",
         ((MORE, "[Because|Well,|Simply because] {a} [would be|can be] {good}, [and|which is why] "
                 "[many|old|young|busy|wise] people [choose|praise|prefer] {a}. [Yet|But|Still,|Then again,] {b} can "
                 "be {good}, so [nobody is wrong|I may change my mind|try both|the race is open]. {bye}.", "a b"),
          ("[And for children|And on holiday|And in winter|And for old people|And after work]?",
           "[Then|In that case|There,] {think} {b} [would win|might be better|comes first], [since|because] [it can "
           "be|it may be] {good} [and|or even] {good}. [Still|Even so], {a} [has its charm|should not be "
           "forgotten|remains a fine choice|would do too]. {bye}.", "a b"))),
    Talk("theme t; first n", "[Write|Can you write|I would like|Please write] a [short|little] poem about {t}[ for "
                             "{n}|][, please|].",
         "[Here it is|Gladly, here is one|I will try|As you wish], [a poem|a few lines|a verse|some words] [about|on] "
         "{t}:\n{image} {how},\n[and|while|when] {t} [comes|waits|calls|is near] {how}.\n{image}, {image2}\n[and all "
         "is|till all is|and I am] [well|still|new|gone|light|free].", "t",
         (("[One more verse|Add a verse|Please go on|And another verse|Make it longer][, please|].",
          "[Very well|Gladly|Another one|Here it comes]:\n{image} {how},\n{image2} {how}.\n[For|With|Like] {t}, "
          "[stay|wait|sing|tell me|hold on] [a while|once more|with me|tonight],\n[until|before] {image2} "
          "[in|without] [peace|light|tears|sleep],\n[and|for] {image2} {how}.",
            "t"),
          ("[What does it mean|What did you want to say|What is it about]?|Explain it, please.",
           "{think} it [speaks of|is about|circles around] {t} [and|as well as] [time|loss|home|patience|joy|growing "
           "old]. [The image|One line] says that [something|somebody] {verb}, and [that is|this shows] [how|what] we "
           "[feel|are|fear|hope for] when [nobody looks|night falls|we are alone]. {bye}.",
            "t"))),
    Talk("first n m; event e; town w; day d", "[Write|Please write|Help me write] an invitation to [my|our] {e} in "
                                              "{w} on {d}[ for {n}|].|[Invite|Please invite] {n} to [my|our] {e} on "
                                              "{d} in {w}.",
         "Dear [friends|guests|all|neighbours], [on {d}|this {d}] [we celebrate|there will be|I am giving|we plan] a~ "
         "{e} in {w}[, and you are welcome|]. [There will be|We promise|Expect|Look forward to] [cake|music|good "
         "food|games|old songs|a fire|dancing] and [laughter|long talks|hot soup|a surprise|cold drinks|stars]. "
         "[Bring|Please bring|Do bring] [a chair|good mood|a friend|warm clothes|your guitar|a salad]. [Yours|Warm "
         "greetings|See you soon], {m}", "e w d",
         (("[Make it|I want it] [shorter|more formal|funnier|warmer].",
          "[You are invited to|Please be our guest at|Be welcome at] our {e} in {w} on {d}. [Come|Please come] "
          "[early|hungry|as you are|in blue|with time], [and leave|but leave] [your worries|the dog|the phone|your "
          "tie] at home. [There will "
          "be|We have] [cake|music|soup|games|plenty]. [Kindly|Love|Greetings], {m}", "e w d"),
          ("[When and where is it|Where is it again|When was it|What day is it]?",
           "[The|Your|This] {e} [is|takes place|will be] in {w}, on {d}. [So|Therefore] [keep the day free|buy the "
           "drinks early|write it down|order a cake in time], [and|and please] [tell|remind|ask] {m}, [who|for {m}] "
           "[forgets everything|loves a good {e}|may be late|wants to help]. {bye}.",
            "w d"))),
    Talk("task t; thing x; first n", "[How do I|How can I|What is the best way to] {t}?|[Tell me|Explain] how to "
                                     "{t}[, please|].|I [want|have|would like] to {t}. [How|What do I do]?",
         "{sure}. To {t}, first {step} and {step}. [Then|Next|After that|Now] {mid}, [and|and then|but] {mid}. "
         "[Finally|At the end|Last of all|When all is done], {fin}, [and|or] {fin}. {bye}.", "t",
         (("[What if it goes wrong|And if I fail|What can go wrong]?|I am afraid to fail.",
          "[Nobody|No one|As we know, hardly anybody] can {t} [at once|at the first try|without mistakes]. "
          "[Simply|Just|Then] {mid}, {step} and [try again|start over]. [If it helps|If need be], {tip} "
          "[before|before] you [give up|go on|ask me again]. {bye}.", "t"),
          ("[Make it shorter|Say it in one sentence|Shorter, please|Sum it up].",
           "[In short|In one breath|Briefly|Simply put]: [to|if you want to] {t}, {step}, {mid}, {mid} and {fin}. "
           "[That is all|No more is needed|It is that simple|The rest is practice|All else is decoration], [believe "
           "me|I promise|as my aunt says|as {n} would say]. {bye}.", "t"),
          ("[What do I need|Which tools do I need|What should I buy]?",
           "To {t}, you need [patience|good light|an hour|clean hands|a free table|some help], [a cloth|warm "
           "water|old paper|a sharp knife|a strong rope|a bucket] and[, oddly enough,| perhaps|, if possible,] a~ "
           "{x}. [Before you start|To begin|On the day], {step}. [A neighbour|{n}|Any shop] [may|can] lend you a~ "
           "{x}. {bye}.", "t x"))),
    Talk("topic t; first n", "[What do you think|What is your opinion|How do you feel] about {t}?|[Are you for or "
                             "against|Is there a case for|Do you like] {t}?",
         "{think} {t} [may have two sides|can be a mixed blessing|might be better than people say|can go too "
         "far|should get a chance]. [On the one hand|For one thing], [this may be|this can be] {good} [and|or] "
         "{good}; [on the other|then again], [it costs|it takes|some lose] [time|money|sleep|patience|peace]. [Ask "
         "{n}|Ask me again] [in winter|next year|after dinner|tomorrow]. {bye}.",
          "t",
         ((MORE, "[Because|Well,|I admit that] {t} [changed|shaped|divided] [many|whole] "
                 "[lives|families|towns|evenings|debates]. [Some|Old friends|Neighbours] [find this|call that] "
                 "{good}, [others|teachers|parents] [shake their heads|sigh|disagree|laugh]. [In the end|All in all], "
                 "{tip} [and|, then] [decide|judge|choose] for yourself. {bye}.", "t"),
          ("Give me one argument against it.|[What speaks against it|And what is bad about it]?",
           "[One thing against|What speaks against|The trouble with] {t} is [the price|the noise|the loss of time|the "
           "habit|the waste|the stress|what others say]. [It is|Some find it] [tiring|lonely|risky|dull|unfair] "
           "[after a while|for beginners|in winter|for children]. [Still|Even so|But], [something else|the opposite] "
           "is [hardly|rarely|not always] {good}. {bye}.", "t"))),
    Talk("weather x y; town w; day d; hobby h", "[We have|There is|I see] [nothing but|so much|a lot of] {x} in {w} "
                                                "[today|again|this {d}].|[What do you say to|How do you like] the {x} "
                                                "in {w}[ this {d}|]?",
         "[Oh|Ah|Well|Dear me], {x} in {w}! The sky [must be|is surely|looks] {sky} [then|today]. [My advice|What "
         "helps|A plan|If you are free]: {tip} or {tip}. [People say|They say|An old saying has it] that after {x} "
         "[there comes|there will be|we get] {y}, [and then|but before that] [a~ {sky} evening|a~ {sky} week|better "
         "days|a quiet night].", "x w",
         (("[What should I wear|What shall I put on|Which clothes do I need]?",
          "[For|Against|With] {x}, [take|wear|put on] [a thick coat|a hat|good boots|two jumpers|light clothes|a "
          "scarf|an umbrella] and [gloves|dry socks|sunglasses|a smile|something {colour}]. In {w} [you never "
          "know|people dress simply|nobody will stare], and "
          "{y} may [come|follow] [by night|tomorrow|soon]. {bye}.", "x w"),
          ("[What can I do in such weather|And what can one do then|Any ideas for today|How shall I spend the day]?",
           "{sure}: [in|during|with] such {x}, [try|I suggest|go for|how about] [a bit of|some] {h}, or {tip}. "
           "[Later|Afterwards|Towards evening], {do} {sight} in {w}. Even {x} [has an end|can be a friend|must "
           "pass|cannot stop you]. {bye}.", "x w"))),
    Talk("trouble t; first n", "I {t}. [What can I do|Any advice|What would you do|Can you help|What helps]?|[Help "
                               "me|I need advice]: I {t}.",
         "[I am sorry|That happens|I know the feeling|You are not alone|Poor you]. [When|If] people say \"I {t}\", I "
         "[tell them|answer|advise]: {tip}, then {tip}. [It also helps|It may help] [to be kind to yourself|to "
         "wait|to sing|to talk about it|to rest], and [after a week|step by step|with time] [things change|it gets "
         "easier|you will smile]. {bye}.", "t",
         (("[I tried that already|That did not help|That is not for me|Something else, please].",
          "[Then|In that case|All right, then] {tip} [every day|tonight|before noon|at least once], and {tip} [as "
          "well|too|on Sundays]. [My friend|My cousin|A man called] {n} [used to say|once told me|often said]: \"I "
          "{t}\", [and today|but now] [all is well|it is forgotten|things are fine].", "t"),
          ("[What was my problem|Can you repeat my problem|What did I say]?",
           "You said: \"I {t}.\" [So I advise you|I advise you] to {tip}, [and also|or better] to {tip}. [Do "
           "not|Never] [lose heart|be hard on yourself|give up], [many|all sorts of] people [say the same|know "
           "this|feel like that] [on some days|in winter|at times]. {bye}.", "t"))),
)
