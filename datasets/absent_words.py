"""Short noun phrases of everyday things, to stand for what is not in a video, and which words mean related things.

A line below is a family of things that are easily called by each other's names: "|" separates the phrases that
are used from further words of the family. A video whose sentences use one word of a family gets no phrase of it.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache

_ANIMALS = """
a dog, a puppy | hound, retriever, terrier, poodle, beagle, labrador, pup, doggy
a cat, a kitten | kitty, tabby
a horse, a pony | foal, mare, stallion
a cow, a bull | calf, ox, cattle
a sheep, a lamb, a goat | ram
a pig | piglet, hog, boar
a rabbit, a hamster | bunny, hare, mouse, rat, guinea
an elephant, a rhinoceros | rhino
a lion, a tiger, a leopard | cheetah, panther, cub
a bear, a panda |
a wolf, a fox | coyote
a monkey, a gorilla | ape, chimpanzee
a giraffe, a zebra, a camel | llama, alpaca
a deer, a kangaroo | moose, elk, antelope
a parrot, an eagle, an owl, a pigeon | bird, hawk, sparrow, crow, gull, seagull
a swan, a duck, a penguin | goose, geese, duckling, flamingo, hen, chicken, rooster, turkey
a snake, a lizard, a crocodile | alligator, gecko, reptile
a turtle, a frog | tortoise, toad
a fish, a shark, a dolphin, a whale | goldfish
a butterfly, a bee, a spider | insect, bug, fly, ant
"""

_PEOPLE_AND_THINGS = """
a man, a woman, a boy, a girl, a baby | person, people, human, child, children, kid, guy, lady, men, women, toddler, \
player, rider, driver, dancer, skater, surfer, cyclist, biker, skier, teenager, adult, pedestrian, worker, girlfriend
a car, a taxi, a van, a pickup truck, a bus | truck, lorry, jeep, suv, sedan, limousine, vehicle, minivan, ambulance
a tractor, a bulldozer, an excavator | digger, crane
a train, a tram | locomotive, subway, railcar
a bicycle, a motorcycle, a scooter | bike, motorbike, moped, tricycle
an airplane, a helicopter | plane, jet, aircraft, drone, glider
a boat, a ship, a canoe | kayak, yacht, sailboat, ferry, raft, canoeist
a skateboard, a surfboard, a snowboard | board, ski, skis, longboard
a chair, an armchair, a sofa, a stool | couch, bench, seat, settee
a table, a desk | counter, workbench
a bed, a mattress | bunk, crib, cot, bedding, bedframe
a wardrobe, a bookshelf, a chest of drawers | cupboard, cabinet, shelf, shelves, closet, dresser, drawer, furniture
a lamp, a chandelier | light, lantern, lampshade
a mirror |
a curtain, a carpet | rug, drapes, blinds, mat
a pillow, a blanket | cushion, quilt, duvet, sheet, towel
a television, a laptop, a computer keyboard | tv, computer, monitor, screen, tablet
a telephone, a smartphone | phone, mobile, cellphone
a camera | camcorder
a clock, a wristwatch | watch
a refrigerator, an oven, a microwave | fridge, freezer, stove, toaster, cooker
a washing machine | washer, dryer
a sink, a bathtub, a toilet | basin, bath, shower
a cup, a mug, a wine glass, a bottle | glass, jar, jug, can, drink, beer, wine, coffee, tea
a plate, a bowl | dish, saucer, tray
a fork, a spoon, a knife | cutlery, ladle
a frying pan, a teapot | pan, pot, kettle
an apple, a banana, a strawberry | fruit, pear, lemon, berry
a carrot, a tomato, a pumpkin | vegetable, potato, broccoli, cabbage
a pizza, a hamburger, a sandwich | burger, food, hotdog, bread, toast
a birthday cake, an ice cream | cake, cookie, dessert, pie, donut, chocolate
an egg |
a ball, a balloon | football, basketball, soccer
a tennis racket, a baseball bat, a golf club | racquet, racket, bat, club, stick
a guitar, a piano, a violin, a drum | instrument, trumpet, cello, banjo, drums
a book, a newspaper | magazine, notebook
a pencil, a pair of scissors | pen, crayon
a suitcase, a backpack, a handbag | bag, luggage, purse, rucksack
an umbrella | parasol
a hat, a helmet | cap, hood
a shoe, a pair of boots | boot, shoes, sneaker, sandal
a coat, a red dress, a necktie | jacket, shirt, tie, skirt, clothes, trousers, jeans, suit, sweater
a pair of sunglasses | glasses, goggles, eyeglasses
a teddy bear, a doll | toy, bear, puppet, robot
a candle, a campfire | fire, flame
a flower, a potted plant, a cactus | plant, rose, tulip, flowers, vase
a palm tree, a tree trunk | tree, bush, trees, forest, branch
a bridge, a tower, a castle | church, building, house, skyscraper
a tent | canopy
a traffic light, a stop sign | sign, signal, lamppost
a fire hydrant | hydrant
a mailbox, a trash can | bin, can, box, letterbox
a ladder | stairs, staircase
a fountain, a statue | sculpture, waterfall
a flag, a kite | banner
a hammer, a screwdriver, a drill | tool, saw, wrench
a vacuum cleaner, a broom | hoover, mop
a wheelchair, a baby stroller | pram, stroller, pushchair, buggy, cart
"""

_HELD_BACK = 4
"""Every fourth family is kept for evaluation, so that refusing is measured on phrases that were not trained on."""


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GENERAL_WORDS = _word_set("""
animal creature person people human child children kid adult bird insect vehicle plane boat furniture food fruit
vegetable instrument tool toy plant clothes cutlery luggage thing object
""")
"""Words for everything of a family: "the person" may be the girl of another sentence."""

_FUNCTION_WORDS = _word_set("""
a an the this that these those of on in at to by with without from into onto over under behind before beside besides
between near next above below across along around against through towards toward up down off out and or but while as
it its his her their who which what where is are was were be been being has have had do does there here one two
three first second last other another some any all both each no not very
""")
_DESCRIBING_WORDS = _word_set("""
black white grey gray red green blue yellow orange brown pink purple golden dark light bright big small large little
tall short long tiny huge old young new left right middle center centre top bottom front back side upper lower far
close closest nearest furthest leftmost rightmost foreground background wooden striped spotted
""")
_IRREGULAR = {
    "men": "man", "women": "woman", "buses": "bus", "knives": "knife", "wolves": "wolf", "calves": "calf",
    "shelves": "shelf", "mice": "mouse",
}  # fmt: skip
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_LONGEST_NOUN_IN_ING = 5
"""Longer words in -ing are taken for verbs: "walking", but not "ring" or "swing"."""


def content_words(sentence: str) -> frozenset[str]:
    """The words that carry meaning, in lower case and singular: all but articles, prepositions and the like."""
    return frozenset(_singular(word) for word in _words(sentence) if word not in _FUNCTION_WORDS)


def is_function_word(word: str) -> bool:
    """Whether a word, with the punctuation that may be around it, says nothing by itself."""
    return not content_words(word)


def nouns(sentence: str) -> frozenset[str]:
    """The words that may name things, singular and plural alike.

    What is left after function words, colours, sizes, places and words in -ing; no grammar is known, so a verb may be
    among them.
    """
    return frozenset(
        word
        for word in content_words(sentence) - _DESCRIBING_WORDS
        if not (word.endswith("ing") and len(word) > _LONGEST_NOUN_IN_ING)
    )


def absent_phrases(present: Iterable[str], *, for_training: bool) -> tuple[str, ...]:
    """Phrases about things that none of the sentences about a video mentions.

    Args:
        present: sentences about the video, and their synonyms.
        for_training: three quarters of the families are for training, the others for evaluation.
    """
    mentioned = frozenset().union(*map(nouns, present))
    return tuple(
        phrase
        for index, (phrases, family) in enumerate(_families())
        if (index % _HELD_BACK != _HELD_BACK - 1) == for_training and family.isdisjoint(mentioned)
        for phrase in phrases
    )


def with_other_nouns(sentence: str, phrases: Sequence[str], *, most: int) -> tuple[str, ...]:
    """The sentence with a noun of the list replaced by one of another thing: "a black dog" from "a black swan".

    What is left of the sentence is no cue then: the noun decides. A sentence without a noun of the list gives none.

    Args:
        sentence: about an object.
        phrases: of `absent_phrases`, for the video of the object.
        most: sentences to make, with phrases from all over the list.
    """
    known = frozenset[str]().union(*(family for _, family in _families())) - _GENERAL_WORDS
    words = sentence.split()
    places = [index for index, word in enumerate(words) if not known.isdisjoint(nouns(word))]
    if not places or not phrases:
        return ()
    made = []
    for number in range(most):
        article, _, noun = phrases[(number * len(phrases) // most + len(sentence)) % len(phrases)].partition(" ")
        place = places[number % len(places)]
        changed = [*words[:place], noun, *words[place + 1 :]]
        if place and changed[place - 1].lower() in ("a", "an"):
            changed[place - 1] = article
        made.append(" ".join(changed))
    return tuple(dict.fromkeys(made))


def may_fit(sentence: str, mentioned: frozenset[str]) -> bool:
    """Whether a sentence about another video may be true of this one.

    Args:
        sentence: about an object of another video.
        mentioned: nouns of the sentences about this video, and of their synonyms.

    Returns:
        Whether they share a noun, or one of them has a word that stands for the whole family of the other's.
    """
    own = nouns(sentence)
    if not own.isdisjoint(mentioned):
        return True
    return any(
        (own & family and mentioned & family and (own | mentioned) & family & _GENERAL_WORDS)
        for _, family in _families()
    )


def says_no_more(shorter: str, sentence: str) -> bool:
    """Whether a sentence has no word beyond another one, so that it fits whatever that one is about.

    Args:
        shorter: perhaps the other one with fewer words.
        sentence: about an object. "The person" says no more than "the girl with the hat": words for the whole family of
            one of its nouns count as its own.
    """
    own = content_words(sentence)
    mentioned = nouns(sentence)
    general = (family & _GENERAL_WORDS for _, family in _families() if not family.isdisjoint(mentioned))
    return content_words(shorter) <= own.union(*general)


@cache
def _families() -> tuple[tuple[tuple[str, ...], frozenset[str]], ...]:
    """Phrases, and all nouns of their family."""
    families = []
    for lines, general in ((_ANIMALS, "animal creature"), (_PEOPLE_AND_THINGS, "thing object")):
        for line in lines.strip().splitlines():
            phrases, _, others = line.partition("|")
            own = tuple(phrase.strip() for phrase in phrases.split(","))
            families.append((own, frozenset[str]().union(nouns(others), nouns(general), *map(nouns, own))))
    return tuple(families)


def _words(sentence: str) -> list[str]:
    return [word.lower().removesuffix("'s") for word in _WORD.findall(sentence)]


def _singular(word: str) -> str:
    """A plural without its ending."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > len("dies"):
        return f"{word[:-3]}y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    is_plural = word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > len("gas")
    return word[:-1] if is_plural else word
