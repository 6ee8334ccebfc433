"""The kinds of short news reports: how they begin, go on and wander off, and how they are told in brief.

`lead` and `key` carry what a summary must keep; `extras` is what it may leave out. In the patterns, {who} is a
person or a firm, {town} a town, {day} a day, {n} and {m} numbers, {thing} one of `things`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """One kind of report; `numbers` are the ranges of {n} and {m}, `things` the choices of {thing}."""

    who: str
    numbers: tuple[int, int, int, int]
    things: str
    lead: str
    key: str
    extras: str
    brief: str
    brief_key: str


REPORTS = (
    Report("person", (2, 9, 20, 90), "library|bridge|school|market hall|bus station|playground|swimming pool",
           "On {day} the [town council|council] of {town} [decided|voted|agreed] to build a~ [new|larger|modern] "
           "{thing}.",
           "{who}, who leads the council, said that the work will cost {n} million crowns and take {m} weeks.",
           "The debate went on [until midnight|for five hours]. Some neighbours fear the noise. A small group waited "
           "outside with signs.|The last plan had failed [for want of money|two years ago]. Not everybody was happy. "
           "Trees must be cut down.|Coffee was served during the break. A few members stayed at home.",
           "{town} [will get|is going to have|plans|has agreed on] a~ {thing}, as its council [decided|settled] on "
           "{day}.",
           "[It will cost|The price is] {n} million crowns and [the work should last|it will take] {m} weeks, "
           "[according to|says|in the words of] {who}."),
    Report("person", (20, 90, 100, 900), "roofs|trees|cars|boats|fences|windows",
           "A~ [heavy|violent|sudden|terrible] storm [hit|struck|reached] {town} [late|early] on {day}.",
           "It damaged {n} {thing} and left {m} homes without power, [said|reported] {who} of the fire service.",
           "Nobody was hurt. Schools stayed closed [for a day|the next morning].|The wind came from the sea. Old "
           "people could not remember [such a night|anything like it].|Neighbours shared candles and soup. The sun "
           "came out again at noon.",
           "[during|in] a~ [storm|gale] on {day}, {n} {thing} were [damaged|broken|destroyed] in {town}.",
           "{who} [of|from] the fire service [says|reports|states] that {m} [homes|houses] [lost|were without] "
           "[power|electricity]."),
    Report("person", (2, 6, 0, 1), "final|cup match|first match|last game|derby",
           "[On {day}|Last {day}] the football team of {town} [won|decided|took] the {thing} by {n} goals to {m}.",
           "{who} scored [the first goal|the last goal|the winning goal|two goals] after a~ [long|brave|clever|lucky] "
           "run.",
           "The field was wet [from the rain|and slippery]. Fans sang all the way home.|The guests had a good start. "
           "A dog ran across the field.|The trainer looked pleased. Tickets had been sold out for weeks.",
           "with a score of {n} to {m}, {town} [won|took home|decided] the {thing} [in football|] on {day}.",
           "{who} was the [hero|star] of the [match|day], [with a goal|scoring] after a~ [fine|great|strong] run."),
    Report("firm", (20, 90, 5, 60), "factory|shop|office|warehouse|workshop|laboratory",
           "{who} [opened|has opened|proudly opened] a~ [new|large|modern|bright] {thing} in {town} on {day}.",
           "The [building|place] [cost|swallowed] {n} million crowns and [gives work to|will employ] {m} people.",
           "The mayor cut a red ribbon. Children got [free ice cream|balloons].|A band played [old songs|in the yard]. "
           "Many visitors came [by train|early].|The roof is made of glass. Parking is still a problem.",
           "a~ {thing} of {who} [opened|started work|was opened] in {town} on {day}.",
           "It [offers|brings|has] {m} [jobs|places of work] and [cost|was built for] {n} million crowns, "
           "[it is said|we hear|the report says]."),
    Report("person", (2, 9, 200, 900), "coins|bones|clay pots|stone tools|silver rings|swords",
           "[While digging|During work] in a field near {town}, {who} [found|discovered|came across] {m} old {thing} "
           "on {day}.",
           "[Experts|Researchers] [believe|think|are sure] that they are about {n} thousand years old.",
           "They lay under a flat stone. Rain had washed the earth away.|The museum is already making room. "
           "A guard now watches the field.|At first it looked like rubbish. The finder could hardly sleep that night.",
           "{who} [has discovered|found|dug up] {m} {thing} [close to|near|not far from] {town} on {day}.",
           "[They may be|Their age is put at|The find is thought to be] [around|about|some] {n} thousand years "
           "[old|of age], [experts|researchers] [say|believe]."),
    Report("person", (2, 5, 200, 900), "violin|piano|guitar|trumpet|harp|flute",
           "On {day} {who} gave a~ [wonderful|rare|quiet|long awaited] concert on the {thing} in {town}.",
           "About {m} [guests|listeners|people] [came|were there] and asked for {n} [more songs|extra pieces] at the "
           "end.",
           "The hall was warm and full. One string broke [early|in the middle].|A child fell asleep in the first row. "
           "Flowers covered the stage.|The lights went out [once|for a moment]. The programme had been kept secret.",
           "[some|around|about] {m} people [heard|listened to|enjoyed] {who} play the {thing} in {town} on {day}.",
           "The [audience|crowd|hall] [loved it|was delighted|was thrilled] and [would not leave|clapped] until "
           "{n} [more pieces|extra songs] had been played."),
    Report("person", (2, 9, 20, 90), "lorry|bus|tram|van|tractor",
           "A~ {thing} [slid|rolled|drove] into a [shop window|garden wall|fountain|bakery] in {town} on {day}.",
           "The driver, {who}, was not hurt, but the street was closed for {n} hours and {m} [drivers|people] had to "
           "wait.",
           "The road was covered with ice. Police are still asking questions.|A baker handed out [tea|fresh rolls]. "
           "The owner took it with humour.|The brakes may have failed. Somebody filmed it all.",
           "in {town}, {who} [had an accident|lost control|had bad luck] with a~ {thing} on {day}[, but is fine|, "
           "without getting hurt|].",
           "[For {n} hours|For some {n} hours] the street [was shut|stayed closed], and {m} [people|drivers] "
           "[could not get through|were held up|had to be patient]."),
    Report("firm", (10, 60, 5, 40), "trains|buses|bicycles|ferries|trams",
           "From {day} on, {who} will run {n} new {thing} [between {town} and the coast|in and around {town}].",
           "A ticket will cost {m} crowns, [which is less|and that is more] than [before|last year].",
           "The seats are soft and blue. Dogs travel free.|Students had asked for this for years. The old ones go to "
           "a museum.|A test ride ended in laughter. The timetable will follow soon.",
           "{who} [brings|is bringing|sends] {n} [new|fresh|modern] {thing} to {town} [from {day} on|starting on "
           "{day}].",
           "[Tickets|Rides] will [cost|be sold for] {m} crowns[, the firm promises|, if all goes well|, and the rides "
           "begin soon|, which was the main question]."),
    Report("person", (3, 20, 20, 90), "dog|cat|parrot|pony|goat|turtle",
           "After {n} days {who} of {town} [found|got back|met again] a~ [lost|missing|runaway] {thing} on {day}.",
           "It had walked {m} kilometres and was [sleeping|hiding|waiting] in [a barn|a church|an old boat|a school].",
           "Posters hung on every tree. The whole street helped.|It was hungry but well. A farmer gave the first hint.|"
           "There was cake for all. A new lock has been bought.",
           "the {thing} of {who} from {town}, [missing|gone|lost] for {n} days, [turned up|came back|was found] on "
           "{day}.",
           "It [was found|had ended up] {m} kilometres [away|from home], [tired|hungry|dirty] but "
           "[well|healthy|happy], [the report says|we read|as is told]."),
    Report("person", (2, 9, 20, 90), "novel|cookbook|book of poems|travel book|detective story",
           "{who} from {town} [won|received|was given] the [national|great|golden] book prize for a~ {thing} on {day}.",
           "The prize is worth {n} thousand crowns, and the book has [already|] been translated into {m} languages.",
           "The writer works as a nurse. A film is planned.|It was written in a kitchen at night. The jury took only "
           "an hour.|Thanks went to a patient cat. Critics had laughed at first.",
           "for a~ {thing}, {who} of {town} [was honoured with|got|took] the [book prize|prize for books] on {day}.",
           "The [winner|writer] gets {n} thousand crowns[, and the book|; it] can be read in {m} languages "
           "[by now|so far|today]."),
    Report("person", (2, 9, 20, 90), "barn|school|theatre|bakery|boat house|mill",
           "A fire [broke out|started] in a~ [old|empty|wooden] {thing} in {town} in the night to {day}.",
           "{who} saw the smoke and called for help, and {m} firefighters [needed|fought for] {n} hours to put it out.",
           "Nobody was inside. The roof is gone.|A candle may have been the cause. The smell hung in the streets.|"
           "Neighbours brought blankets and tea. The tower bell rang.",
           "in {town} a~ {thing} [burned|caught fire|was on fire] on {day}, and {who} [raised the alarm|called for "
           "help|noticed it first].",
           "It took {m} firefighters {n} hours to [put out the flames|stop the fire|end it]; "
           "[nobody was harmed|the damage is large|the cause is open]."),
    Report("person", (2, 9, 200, 900), "mayor|head teacher|judge|museum director|police chief",
           "[On {day}|Since {day}] {town} has a new {thing}: {who} was [elected|chosen] with a lead of {m} votes.",
           "The [first|main] aim for the next {n} years is [cleaner air|more trees|better schools|safer "
           "streets|cheaper homes].",
           "There was a small party. The old chief gave away the keys.|Three others had wanted the post. The count was "
           "repeated twice.|The speech was short and funny. Some had hoped for a younger face.",
           "{who} is the new {thing} of {town}, [chosen|elected] on {day} with a [lead|majority] of {m} votes.",
           "[For|In] the [next|coming] {n} years, [plans are big|much is planned|there is a clear aim], "
           "[and work starts soon|and many hopes rest on it|as was said in a speech]."),
    Report("firm", (5, 40, 20, 90), "robot|engine|medicine|lamp|battery|drone",
           "On {day} {who} [showed|presented|introduced] a~ [clever|tiny|cheap|powerful] {thing} at the fair in "
           "{town}.",
           "It took {n} months to develop and needs {m} per cent less [energy|power|water|material].",
           "Visitors stood in long lines. The first try failed.|Rivals took notes. It comes in three colours.|"
           "A price was not given. The inventor wore a green hat.",
           "at the fair in {town}, {who} [showed|unveiled|presented] a~ [new|] {thing} on {day}.",
           "[After|Following] {n} months of work it [needs|uses] {m} per cent less [than others|than usual|than "
           "before|of what was needed], [it is claimed|the makers say|we are told]."),
    Report("person", (20, 90, 100, 900), "river|lake|stream|canal",
           "After [days|a week] of rain the {thing} near {town} [rose|climbed] by {n} centimetres on {day}.",
           "{m} people had to leave their homes, and {who} [opened|offered] a gym[ for them|] as a shelter.",
           "Fields are under water. Soldiers filled bags with sand.|The old bridge held. Swans were seen in the "
           "streets.|More rain is on the way. Cellars must be pumped out.",
           "the {thing} at {town} [rose|went up|climbed] {n} centimetres on {day}, and {m} people [had to go|were "
           "moved|left their homes].",
           "{who} [gave them|found them|offered] a [place to sleep|roof|shelter] in a gym[ for the time being|"
           " until the water falls|, with beds and warm food]."),
    Report("person", (20, 90, 20, 90), "stars|birds|volcanoes|ice|whales|mushrooms",
           "{who}, a [scientist|researcher|professor] at {town}, [presented|published] a~ [new|surprising] study of "
           "{thing} on {day}.",
           "[Over|During] {n} months the team [collected|took|examined] {m} samples in [the far north|the "
           "mountains|the desert].",
           "One sledge was lost. The data fill a whole room.|Not all colleagues agree. A second trip is planned.|"
           "The food was bad. Students will help with the next step.",
           "on {day} {who} of {town} [brought out|came out with|published] [work|new findings|a study] on {thing}.",
           "[It rests|The results rest] on {m} samples, which [were gathered|took {n} months to gather] [with much "
           "patience|far from home|by a small team]."),
    Report("person", (20, 90, 20, 99), "cheese|soup|bread|cake|pancake|sausage",
           "At the festival in {town} on {day}, {who} [made|cooked|prepared] a~ {thing} for a [new|national] record.",
           "It weighed {n} kilos and was eaten by the crowd in {m} minutes.",
           "Music played until late. The recipe is a family secret.|A giant pan had to be built. Some wanted more.|"
           "The rain held off. The prize was a wooden spoon.",
           "{who} set a record at the festival in {town} on {day} with a~ {thing} [of|weighing] {n} kilos.",
           "[Hungry|Happy|Many] [visitors|guests] [finished it|ate it up|left nothing of it] [within|after|in] "
           "{m} minutes, [and wanted more|and had a good time|as the report has it]."),
    Report("person", (20, 90, 10, 60), "boat|bicycle|balloon|horse|glider",
           "{who} [reached|arrived in|came home to] {town} on {day} after [crossing|a journey across] the country by "
           "{thing}.",
           "The [trip|journey] of {m} days [brought in|raised] {n} thousand crowns for [a hospital|a school|sick "
           "children|an animal home].",
           "The worst part was the wind. A hundred people cheered.|Letters came from everywhere. The legs still hurt.|"
           "Nights were spent in a tent. The next plan is to rest.",
           "after {m} days on the way by {thing}, {who} [arrived in|got to|reached] {town} on {day}.",
           "[Along the way|With this trip|In the end], {n} thousand crowns were [collected|raised|given] [for a good "
           "cause|for people in need|to help others], [which pleased everybody|a fine result|more than hoped]."),
    Report("firm", (20, 90, 20, 90), "bread|milk|shoes|paper|furniture|toys",
           "{who}, [known for|the maker of] {thing}, will close its [plant|works] in {town} on {day}.",
           "[The firm|It] [lost|has lost] {n} million crowns, and {m} people [must look|will have to look] for [new "
           "work|other jobs].",
           "Workers heard it on the radio. The union is angry.|A buyer may still turn up. The gates were locked early.|"
           "Sales had dropped for years. The mayor asked for time.",
           "[workers|people] in {town} must say goodbye to the {thing} of {who}, [which closes|whose plant closes] on "
           "{day}.",
           "[After losses|Following a loss] of {n} million crowns, {m} [people|workers] [lose|are losing|will lose] "
           "their [jobs|posts|work], [and the town is worried|and hopes are small|unless a buyer appears]."),
)
CHATTER = (
    "[Our reporter|Our paper] will [follow|keep an eye on] the [story|matter].|More [details|news] will be given "
    "[next week|soon|tomorrow].|[People|Everybody] in the [street|cafes|market] [talked|spoke] of nothing else.|The "
    "weather was [fair|grey|cold|mild] [that day|at the time].|[It was|That was] [hard|easy] to "
    "[believe|forget].|Some [smiled|shook their heads], others [cheered|kept silent].|The [radio|local paper] "
    "[spoke|told] of it at once.|Even [the children|old friends] were [surprised|curious].|Photos can be seen [in the "
    "town hall|in our window]."
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
