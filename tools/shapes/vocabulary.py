"""Every word of Referring Shapes, whatever the clips: models trained on one set read the sentences of another."""

from collections.abc import Iterator

from tools.shapes.claims import BORDER, CHANGES, MOTIONS, POSITIONS, RELATIONS
from tools.shapes.plurals import PREDICATES, plural_of
from tools.shapes.scene import COLOURS, SHAPES
from tools.shapes.sentences import SIZES


def example_sentences() -> Iterator[str]:
    """Sentences that use every noun and every phrasing at least once."""
    nouns = [f"{colour} {shape}" for colour in COLOURS for shape in (*SHAPES, "shape")]
    for noun in (*nouns, *(f"{size} {noun}" for size in SIZES for noun in nouns)):
        yield f"the {noun}"
        yield f"the {plural_of(noun)}"
    for claim in (*POSITIONS, *MOTIONS, *CHANGES, *BORDER):
        for template in claim.templates:
            yield from (template.format(f"the {noun}") for noun in nouns)
    for relation in RELATIONS:
        for template in relation.templates:
            yield from (template.format(f"the {noun}", f"the {noun}") for noun in nouns)
    for _, _, words in PREDICATES:
        yield from (f"the {plural_of(noun)} {words}" for noun in nouns)
    yield from (f"the {shape} that is {colour}" for colour in COLOURS for shape in SHAPES)
