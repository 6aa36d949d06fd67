import pytest

from loading.text import clean_sentence, swap_left_right


@pytest.mark.parametrize(
    ("sentence", "mirrored"),
    [
        ("the dog on the left", "the dog on the right"),
        ("right person, left hand", "left person, right hand"),
        ("The Left dog, RIGHT cat", "The Right dog, LEFT cat"),
        ("leftmost and rightmost", "rightmost and leftmost"),
        ("a left-hand and a far-right one", "a right-hand and a far-left one"),
        ("the lefthand side, rightside", "the righthand side, leftside"),
        ("moves leftwards (right to left).", "moves rightwards (left to right)."),
        ("a person's left's", "a person's right's"),
        ("left", "right"),
    ],
)
def test_a_flip_swaps_left_and_right_as_words(sentence, mirrored):
    assert swap_left_right(sentence) == mirrored
    assert swap_left_right(mirrored) == sentence


@pytest.mark.parametrize("sentence", ["a bright upright copyright", "a cleft chin", "frighten", "rightful", "leftover"])
def test_a_flip_leaves_words_alone_that_only_contain_left_or_right(sentence):
    assert swap_left_right(sentence) == sentence


def test_cleaning_joins_words_with_single_blanks_and_lowers_case_if_asked():
    assert clean_sentence("  A\tDog \n runs ", lower_case=True) == "a dog runs"
    assert clean_sentence("  A\tDog \n runs ", lower_case=False) == "A Dog runs"
    assert clean_sentence(" \n", lower_case=True) == ""
