"""Everyday sentences in any number: calibration inputs for sentence encoders, none of them among ``sentence_pairs``.

Patterns of news, notes, questions and descriptions are filled with words drawn from lists. What comes out is
grammatical, not always sensible; what matters is that words, lengths and constructions vary as in real sentences.
"""

from __future__ import annotations

import re

import numpy as np

from .sentence_pairs import PAIRS

_PEOPLE = (
    "man|woman|girl|boy|child|teacher|nurse|doctor|farmer|student|lawyer|pilot|tourist|neighbour|singer|baker|judge|"
    "carpenter|driver|gardener|engineer|journalist|grandmother|sailor|waiter|soldier|painter|librarian|customer|coach"
)
_ANIMALS = "dog|cat|horse|bird|cow|sheep|rabbit|monkey|elephant|fish|goat|bee|whale|fox|duck|bear|lion|parrot|turtle"
_DOING = (
    "reading|carrying|washing|painting|selling|repairing|holding|looking at|pushing|opening|drawing|cleaning|building|"
    "throwing|waiting for|talking about|pointing at|searching for|cutting|moving|photographing|hiding|lifting|wrapping"
)
_DID = (
    "bought|found|lost|sold|broke|returned|borrowed|described|forgot|ordered|delivered|stole|noticed|collected|designed|"
    "tested|destroyed|replaced|hid|donated|invented|photographed|inspected|recommended|refused|missed|packed|opened"
)
_THINGS = (
    "book|car|letter|chair|camera|cake|box|bottle|newspaper|bag|hat|table|window|piano|violin|ticket|flower|knife|lamp|"
    "computer|telephone|coat|ladder|basket|map|key|boat|kite|mirror|blanket|suitcase|helmet|watch|ring|sandwich|bicycle|"
    "fence|toy|pumpkin|tent|drum|candle|carpet|spoon|statue|package|engine|shirt|drawing|fridge|guitar|wallet|contract"
)
_LOOKS = (
    "red|old|small|heavy|expensive|broken|wooden|blue|beautiful|dirty|strange|empty|large|cheap|bright|green|famous|soft|"
    "black|white|modern|rusty|colourful|quiet|sharp|fresh|hungry|happy|tired|young|friendly|angry|nervous|tall|careful"
)
_PLACES = (
    "in the park|at the station|on the beach|in the kitchen|near the river|at school|in the garden|on the roof|at home|"
    "in the street|at the airport|in a small village|behind the house|on the bridge|in the hospital|at the market|"
    "in the forest|next to the church|under the table|in the office|at the party|on the mountain|in the middle of town"
)
_WHEN = (
    "yesterday|last night|on Friday|in the morning|after lunch|this summer|before the storm|every day|two years ago|"
    "at midnight|during the war|next week|for three hours|since March|in the afternoon|at the weekend|in winter"
)
_TOPICS = (
    "health|music|politics|the economy|science|football|education|the weather|history|travel|cooking|religion|energy|"
    "traffic|crime|housing|climate change|technology|art|medicine|farming|the election|unemployment|space|nutrition"
)
_GROUPS = (
    "government|company|city council|university|police|football club|bank|hospital|orchestra|airline|union|ministry|"
    "fire brigade|research team|school|newspaper|court|museum|navy|insurance company|charity|parliament|hotel"
)
_ACTS = (
    "announced a new plan for|rejected the report on|spent more money on|published figures about|"
    "cancelled its project on|debated|was criticised for its view of|"
    "started a campaign about|asked voters about|cut its budget for|"
    "received a prize for its work on|organised a conference on|warned of problems with|changed the rules on"
)
_MOVES = (
    "is running|is sleeping|is swimming|was hiding|jumped|is eating|walked slowly|was barking|is sitting|climbed up|"
    "is standing|fell down|was playing|is resting|is drinking water|was crying|is smiling|danced|was waiting"
)
_PATTERNS = (
    "A {people} is {doing} a {things} {places}.|The {people} {did} the {looks} {things} {when}.|"
    "The {groups} {acts} {topics} {when}.|A {looks} {animals} {moves} {places}.|Where can I buy a {looks} {things}?|"
    "How does a {people} learn about {topics}?|{number} people were {doing} a {things} {places} {when}.|"
    "There is a {looks} {things} {places}.|My {people} thinks that {topics} is more important than {topics}.|"
    "The price of a {things} rose by {number} percent {when}.|Two {looks} {animals}s and a {people} {places}.|"
    "Why was the {things} {places} so {looks}?|She {did} her {things} because it was too {looks}.|"
    "He has never {did} a {things}, but he likes {topics}.|It was {looks} {when}, and the {animals} {moves}.|"
    "What is the best {things} for a {looks} {people}?|The {people}'s {things} is {looks} and {looks}.|"
    "A group of {people}s {did} {number} {things}s {places}.|According to the {groups}, {topics} matters {when}.|"
    "If the {things} is {looks}, call the {people}.|Nobody {did} the {things} that the {people} left {places}.|"
    "They talked about {topics} while the {animals} {moves} {places}.|"
    "Please bring a {things} and {number} {things}s {when}."
)
_LISTS = {
    "people": _PEOPLE,
    "animals": _ANIMALS,
    "doing": _DOING,
    "did": _DID,
    "things": _THINGS,
    "looks": _LOOKS,
    "places": _PLACES,
    "when": _WHEN,
    "topics": _TOPICS,
    "groups": _GROUPS,
    "acts": _ACTS,
    "moves": _MOVES,
    "number": "two|three|five|twelve|twenty|a hundred|1,200|several|thousands of|four|nine|30",
}


def sentences(count: int, seed: int = 0) -> list[str]:
    """``count`` different sentences."""
    rng = np.random.default_rng(seed)
    words = {name: text.split("|") for name, text in _LISTS.items()}
    patterns = _PATTERNS.split("|")
    measured = {sentence for first, second, _ in PAIRS for sentence in (first, second)}
    found: dict[str, None] = {}
    while len(found) < count:
        pattern = patterns[len(found) % len(patterns)]
        text = re.sub(r"\{(\w+)\}", lambda m: str(rng.choice(words[m[1]])), pattern)
        text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text[0].upper() + text[1:])
        if text not in measured:
            found[text] = None
    return list(found)
