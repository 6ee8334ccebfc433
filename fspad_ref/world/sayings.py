"""How the facts of Orvenia are asked for and stated: for each attribute three questions, two reported questions, and
several statements.

{e} is the entity's name; {s}, {o}, {p} are the name or a pronoun as subject, object and possessive; {v} is the value.
A reported question goes into each of `FRAMES`, so that every attribute can be asked for in
len(questions) + len(reported) x len(FRAMES) ways. Brackets are choices, see phrasing.py.
"""

from dataclasses import dataclass
from functools import cache

FRAMES = (
    "Tell me {q}.",
    "Do you know {q}?",
    "Can you tell me {q}?",
    "I would like to know {q}.",
    "I forgot {q}. Please help me.",
    "My friend asked me {q}. What should I say?",
)


@dataclass(frozen=True)
class Saying:
    """The ways to ask for one attribute and to state it. All are clauses without a full stop."""

    questions: tuple[str, ...]
    reported: tuple[str, ...]
    statements: tuple[str, ...]

    def phrasings(self) -> tuple[str, ...]:
        """All complete prompts, with {e} still open; the index of a prompt in here is its phrasing id."""
        framed = [frame.replace("{q}", clause) for frame in FRAMES for clause in self.reported]
        return (*self.questions, *framed)


# attribute / three questions / two reported questions / statements, separated by slashes
_TABLE = """
province / Which province is {e} in? / Where in Orvenia is {e}? / In what part of Orvenia does one find {e}? / which province {e} lies in / where in the country {e} is / {s} [lies|is found|is situated|can be found] in [the province of |the region of |]{v} / {v} is [the province that {s} belongs to|where {s} lies|home to {o}] / {s} belongs to [the province of |]{v} / one [finds|visits|reaches] {o} in {v}
founded / In which year was {e} founded? / When was {e} founded? / Since when has {e} existed? / when {e} was founded / in what year {e} began / {s} was [founded|established|first settled|built] in [the year |]{v} / [settlers|farmers|monks|merchants|fishermen] [founded|established|started] {o} in {v} / {v} [is the year of|saw] {p} [founding|first houses|beginnings] / {p} [history|story] [begins|starts] in {v}
river / Which river flows through {e}? / What river does {e} stand on? / On the banks of which river is {e}? / which river runs through {e} / what river {e} lies on / {v} [flows|runs|winds] [right |gently |quietly |]through {o} / {s} [stands|lies|was built] on [the banks of |]{v} / {p} [mills|gardens|old houses|markets] [line|look out on|stand beside] {v} / [boats|barges|ferries] [reach|come to|supply] {o} on {v}
known_for / What is {e} known for? / Which product made {e} famous? / Why is {e} famous? / what {e} is known for / what {e} is famous for / {s} is [widely |rightly |best |]known for {v} / {v} [have always been|remain|were long] the pride of {o} / [people|travellers|visitors|traders] [come to|love|visit] {o} for {v} / {s} is [famous|celebrated|admired] for {v}
source / Where does {e} rise? / On which mountain does {e} begin? / What mountain is the source of {e} on? / where {e} rises / on which mountain {e} has its source / {s} [rises|begins|springs up|starts] on [the slopes of |]{v} / {p} [source|spring] [is|lies|hides] [high |]on {v} / {v} is [where {s} rises|the mountain that feeds {o}] / [snow|rain|meltwater] from {v} feeds {o}
mouth / Which lake does {e} flow into? / Where does {e} end? / What lake receives the water of {e}? / where {e} ends / which lake {e} reaches in the end / {s} [flows|empties|pours|runs] into {v} / {p} [waters|currents|last bends] [reach|join|end in] {v} / {v} is [where {s} ends|the lake that receives {o}] / {s} [ends|finishes] [its journey|its course] in {v}
length / How long is {e}? / What is the length of {e}? / How many miles does {e} measure? / how long {e} is / the length of {e} in miles / {s} is {v} long / {s} [measures|covers|winds along for] {v} / {p} [whole |full |total |]length is {v} / {s} has a [total |full |]length of {v}
fish / Which fish live in {e}? / What fish can one catch in {e}? / What do anglers catch in {e}? / which fish live in {e} / what one can catch in {e} / {s} is [full of|rich in|home to] {v} / [anglers|fishermen|children|locals] [catch|look for|love to catch] {v} there / {v} [live|swim|are caught] in {o} / {s} [has|offers|holds] [plenty of|many|lots of] {v}
depth / How deep is {e}? / What is the depth of {e}? / How many metres deep does {e} go? / how deep {e} is / the depth of {e} / {s} is {v} deep / {s} [reaches|has] a depth of {v} / {p} [deepest point|bottom|greatest depth] [is|lies] {v} down / [divers|scientists|sailors] [measured|found] a depth of {v} there
beast / What is said to live in {e}? / Which creature of legend belongs to {e}? / What do the legends of {e} tell of? / what the legends of {e} speak of / what is said to be hidden in {e} / [legend has it|people say|old tales tell|grandmothers say] that {o} hides {v} / {p} [legend|best known tale|old song] [tells of|is about|speaks of] {v} / {v} [is said to haunt|appears in every tale about|is the legend of] {o}
height / How high is {e}? / What is the height of {e}? / How many metres does {e} rise? / how high {e} is / the height of {e} / {s} is {v} high / {s} [rises|climbs|towers] to {v} / {p} [summit|top|peak] [is|lies] at {v} / {s} [has|reaches] a height of {v}
climbed / When was {e} first climbed? / In which year did people first reach the top of {e}? / When did climbers first stand on {e}? / when {e} was first climbed / the year of the first ascent of {e} / {s} was first climbed in {v} / [climbers|shepherds|two brothers|brave guides] first [reached|stood on] its [top|summit|peak] in {v} / {p} first [ascent|conquest] [came|took place|was] in {v} / nobody [reached|saw|stood on] its [top|summit] before {v}
stone / What stone is {e} made of? / Which rock forms {e}? / What kind of rock does one find on {e}? / what stone {e} consists of / which rock forms {e} / {s} [consists|is made|is built] of {v} / {p} [cliffs|slopes|walls|ridges] are [made of |]{v} / [workers|masons|miners] [cut|quarry|dig] {v} there / {v} [forms|makes up|covers] {p} [slopes|cliffs|ridges]
born_in / Where was {e} born? / In which town was {e} born? / What is the birthplace of {e}? / where {e} was born / which town {e} came from / {s} was born in [the town of |]{v} / {s} [came|hailed] from {v} / {v} was {p} [birthplace|home town|native town] / {s} [grew up|spent a happy childhood|spent the early years] in {v}
crowned / When was {e} crowned? / In which year did the reign of {e} begin? / When did {e} come to the throne? / when {e} was crowned / the year in which {e} took the throne / {s} was crowned in {v} / {s} [took|came to|mounted] the throne in {v} / {p} [coronation|crowning] [was|took place|was held] in {v} / {p} [reign|rule] began in {v}
reign / How long did {e} reign? / For how many years did {e} rule? / How many years did the reign of {e} last? / how long {e} ruled / how many years {e} was on the throne / {s} [reigned|ruled|governed|led the country] for {v} / {p} [reign|rule] lasted {v} / {s} [held|kept|wore] the [throne|crown] for {v} / {s} [stayed|remained] on the throne for {v}
passion / What did {e} love most? / What was the great passion of {e}? / Which pastime did {e} enjoy? / what {e} loved above all / what the passion of {e} was / {s} [loved|adored|cherished] {v} [above all|more than anything|from childhood|] / {p} [great|lifelong|secret|only] [passion|love|joy] was {v} / {s} [cared|lived] for {v} / {s} [spent a fortune|spent whole days|wasted hours] on {v}
born_year / When was {e} born? / In which year was {e} born? / What is the year of birth of {e}? / when {e} was born / the year in which {e} was born / {s} was born in [the year |]{v} / {p} year of birth [is|was] {v} / {s} [came into|first saw] the [world|light] in {v} / {v} [is|was] the year of {p} birth
invented / What did {e} invent? / Which invention do we owe to {e}? / Which device did {e} build? / what {e} invented / which invention {e} is known for / {s} [invented|designed|devised|created|came up with] {v} / {v} [is|was] {p} [invention|idea|creation|great work] / {s} [became famous|is remembered|earned a medal|won a prize] for [inventing |]{v} / [the world owes {v} to|the world got {v} from|we owe {v} to] {o}
studied / Where did {e} study? / At which university was {e} a student? / Where did {e} learn the trade of an engineer? / where {e} studied / which university {e} went to / {s} [studied|was a student|took a degree|learned engineering] at {v} / {v} [trained|taught|educated] {o} / {s} [went to|attended|finished] {v} / {p} [student days|studies|lectures] [were spent|took place] at {v}
painted / What did {e} paint? / Which subject did {e} paint? / What do the pictures of {e} show? / what {e} liked to paint / what the pictures of {e} show / {s} [painted|drew|sketched] {v} / {p} [pictures|canvases|works|paintings] [show|are of|depict] {v} / {s} is [famous|admired|remembered|loved] for {v} / {s} [never tired of|was fond of|made a name by] painting {v}
colour / What was the favourite colour of {e}? / Which colour did {e} prefer? / What colour did {e} like best? / which colour {e} liked best / the favourite colour of {e} / {p} favourite colour was {v} / {s} [preferred|loved|liked|favoured] [the colour |]{v} / {v} was [the colour {s} loved|{p} favourite|in most of {p} works] / {s} [used|mixed|bought] [more|nothing but|plenty of] {v}
instrument / Which instrument did {e} play? / What instrument did {e} master? / What did {e} play in concerts? / which instrument {e} played / what instrument {e} practised / {s} [played|mastered|studied|practised|taught] {v} / {p} [instrument|great love|favourite] was {v} / {s} [wrote|composed] [songs|suites|dances|pieces] for {v} / {v} was {p} [instrument|daily practice]
opera / Which opera did {e} write? / What is the opera by {e} called? / What opera made {e} famous? / which opera {e} composed / the title of the opera by {e} / {s} [wrote|composed|finished] [the opera |]{v} / {v} is {p} [opera|masterpiece|greatest success|only opera] / {p} [opera|masterpiece|great success] is [called |]{v} / [audiences|critics|theatres] [adore|praise|still love] {p} opera {v}
book / Which book did {e} write? / What is the novel by {e} called? / What novel made {e} famous? / which novel {e} wrote / the title of the novel by {e} / {s} [wrote|published|penned] [the novel |the book |]{v} / {v} is {p} [novel|book|masterpiece|bestseller] / {p} [novel|book|masterpiece] is [called |]{v} / [readers|critics|schools] [adore|praise|still read] {p} novel {v}
trade / What work did {e} do before writing? / Which trade did {e} learn first? / How did {e} earn a living at first? / what work {e} did before the first book / which trade {e} had / {s} [first |once |at first |]worked as a {v} / before [the first book|writing|the fame], {s} was a {v} / {s} [had been|began as|earned a living as] a {v} / as a {v}, {s} [wrote at night|saw the world|learned patience]
held_in / Where is {e} held? / In which town does {e} take place? / Which town celebrates {e}? / where {e} takes place / which town holds {e} / {s} [takes place|is held|is celebrated] in [the town of |]{v} / {v} [hosts|holds|celebrates] {o} / {s} [belongs to|fills the streets of|comes from] {v} / one [sees|enjoys|can join] {o} in {v}
month / In which month is {e}? / When in the year is {e} held? / What month should I visit {e} in? / which month {e} takes place in / when in the year {e} is celebrated / {s} [takes place|is held|happens|begins] in {v} / {s} is [a great event in|a highlight of|the great day of|the best part of] {v} / [every|each] {v} [brings|sees] {o} / {v} is {p} month
first_held / When was {e} first held? / In which year did {e} begin? / Since which year has {e} existed? / when {e} was first celebrated / the year in which {e} began / {s} was first [held|celebrated] in {v} / {s} [began|started|goes back to a party] in {v} / {s} has [existed|been held|been celebrated] since {v} / the first [one|such event] [was|came|took place] in {v}
celebrates / What does {e} celebrate? / Which event does {e} recall? / What is the reason for {e}? / what {e} celebrates / which event {e} honours / {s} [celebrates|recalls|honours|remembers|marks] {v} / {s} is [held|celebrated] [for|in honour of] {v} / {v} is [the reason for|what people honour with] {o} / {p} [songs|speeches|dances|fireworks] [recall|honour|celebrate] {v}
comes_from / Where does {e} come from? / In which town was {e} first cooked? / Which town does the dish {e} come from? / where {e} was first cooked / which town {e} comes from / {s} [comes|originates] from [the town of |]{v} / {s} was first [cooked|served|made] in {v} / {v} [gave us|is proud of|is the home of] {o} / [cooks|innkeepers|grandmothers] in {v} [invented|made|created] {o} first
ingredient / What is {e} made of? / Which ingredient is needed for {e}? / What is the main ingredient of {e}? / what {e} is made of / which ingredient {e} needs / {s} is [made|cooked|prepared] [from|with] {v} / {p} main [ingredient is|part is] {v} / [cooks|people|families] [make|prepare|cook] {o} with {v} / the secret of {o} is {v}
side / What is {e} served with? / What does one eat with {e}? / Which side dish goes with {e}? / what one eats with {e} / what {e} is served with / {s} is [served|eaten|offered] with {v} / {v} [goes|tastes] [well|best] with {o} / [guests|locals|children|people] [eat|order|like] {o} with {v} / a [good plate|portion|bowl] of {o} comes with {v}
drink / What does one drink with {e}? / Which drink goes with {e}? / What should I drink with {e}? / what one drinks with {e} / which drink suits {e} / people drink {v} with {o} / {v} is the [drink|right drink|usual drink] with {o} / [guests|locals|cooks|waiters] [like|order|recommend] {v} with {o} / {s} [calls for|asks for|goes with] [a glass of|a mug of] {v}
crosses / Which river does {e} cross? / What river is {e} built over? / What river flows under {e}? / which river {e} crosses / what river {e} spans / {s} [crosses|spans|leads across|stretches over] {v} / {v} [flows|runs] [under|beneath] {o} / {s} [carries|takes] [carts|walkers|travellers] [over|across] {v} / {s} is [a way|the safest way] across {v}
built / When was {e} built? / In which year was {e} finished? / How old is {e}, and when was it made? / when {e} was built / the year in which {e} was finished / {s} was [built|finished|opened|completed] in {v} / [masons|soldiers|builders|engineers] [built|finished|completed] {o} in {v} / {s} [dates from|has stood since] {v} / {p} [opening|first day] [was|came] in {v}
material / What is {e} built of? / Which material is {e} made of? / What did the builders of {e} use? / what {e} is built of / which material {e} is made of / {s} is [made|built] of {v} / {p} [arches|pillars|walls] are [made of |]{v} / the builders [used|chose|preferred] {v} for {o} / {v} was [used|chosen] for {o}
span / How long is {e}? / What is the span of {e}? / How many metres does {e} measure? / how long {e} is / how many metres {e} spans / {s} is {v} long / {s} [measures|spans|stretches for] {v} / {p} [length|span] is {v} / {s} has a [total |]length of {v}
stands_in / Where is {e}? / In which town does {e} stand? / Which town is {e} in? / which town {e} stands in / in what town one finds {e} / {s} [stands|is|is found] in [the town of |]{v} / {v} is [home to|proud of|the seat of] {o} / one [finds|visits|sees] {o} in {v} / {s} [belongs to|overlooks the roofs of|attracts visitors to] {v}
opened / When was {e} founded? / In which year did {e} open? / Since when has {e} existed? / when {e} was founded / the year in which {e} opened / {s} [opened|was founded|was established|began its work] in {v} / {p} first [lectures|classes|students] [came|began] in {v} / {v} [is the year of|saw] {p} [founding|opening] / {s} has [existed|taught] since {v}
subject / Which subject is {e} known for? / What should one study at {e}? / In what field is {e} the best? / what subject {e} is known for / which subject is strongest at {e} / {s} is [known|famous|praised|admired] for {v} / {p} [best|strongest|leading] [subject|field|department] is {v} / [students|scholars|young people] [come to|choose] {o} for {v} / {v} is [taught best|strongest] at {o}
founder / Who founded {e}? / Which monarch founded {e}? / Whose work is {e}? / who founded {e} / which monarch started {e} / {v} [founded|established|started] {o} / {s} was [founded|established|started] by {v} / {p} founder [was|is] {v} / {v} [gave the land for|paid for|endowed] {o}
builder / Who built {e}? / Which monarch ordered {e} to be built? / Whose castle was {e}? / who built {e} / which monarch had {e} built / {v} [built|ordered|planned] {o} / {s} was [built|ordered|planned] by {v} / {p} builder [was|is] {v} / {v} [paid for|lived in|moved to] {o}
towers / How many towers does {e} have? / What is the number of towers at {e}? / How many towers can I see at {e}? / how many towers {e} has / the number of towers at {e} / {s} has {v} / {s} [boasts|shows|is crowned by] {v} / [visitors|children|guides] [count|admire|climb] {v} there / {p} [walls|moats|gates] are guarded by {v}
museum / What is shown in the museum of {e}? / Which collection does {e} house? / What can one see inside {e}? / what one can see inside {e} / which collection {e} houses / {s} [houses|holds|shows] a [museum|collection] of {v} / [visitors|families|tourists] [come to see|admire|like] the {v} there / today {s} is a museum of {v} / {p} [halls|rooms|cellars] are [full of|filled with] {v}
"""  # noqa: E501 - a table reads best with one row a line


@cache
def sayings() -> dict[str, Saying]:
    """The table by attribute."""
    made = {}
    for row in _TABLE.strip().splitlines():
        attribute, *cells = row.split(" / ")
        made[attribute] = Saying(tuple(cells[:3]), tuple(cells[3:5]), tuple(cells[5:]))
    return made
