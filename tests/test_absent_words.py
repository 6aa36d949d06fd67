"""The list of phrases about what is not in a video."""

import pytest

from datasets.absent_words import absent_phrases, content_words, may_fit, nouns, says_no_more

ALL = {*absent_phrases([], for_training=True), *absent_phrases([], for_training=False)}


def test_there_are_enough_phrases_and_none_twice():
    assert len(ALL) >= 150
    assert len(ALL) == len(absent_phrases([], for_training=True)) + len(absent_phrases([], for_training=False))


def test_evaluation_has_phrases_of_its_own():
    training, evaluation = (set(absent_phrases([], for_training=each)) for each in (True, False))
    assert training.isdisjoint(evaluation)
    assert 0.2 < len(evaluation) / len(ALL) < 0.3


@pytest.mark.parametrize(
    ("sentence", "gone", "kept"),
    [
        ("the brown dog on the left", ["a dog", "a puppy"], ["a cat", "a man"]),
        ("two hounds", ["a dog", "a puppy"], ["a cat"]),
        ("the girl's hat", ["a girl", "a man", "a woman", "a hat", "a helmet"], ["a dog"]),
        ("a person riding a motorbike", ["a man", "a baby", "a bicycle", "a motorcycle"], ["a car"]),
        ("an animal", ["a dog", "an elephant", "a butterfly", "a swan"], ["a man", "a car"]),
        ("the suv", ["a car", "a bus"], ["a train"]),
        ("three sheep and the geese", ["a sheep", "a goat", "a swan"], ["a dog"]),
    ],
)
def test_phrases_about_what_is_mentioned_are_left_out(sentence, gone, kept):
    phrases = {*absent_phrases([sentence], for_training=True), *absent_phrases([sentence], for_training=False)}
    assert ALL.issuperset(gone)
    assert phrases.isdisjoint(gone)
    assert phrases.issuperset(kept)


def test_nouns_are_what_is_left_of_a_sentence():
    assert nouns("The brown dog is walking to the left of two buses with a man's hats") == {"dog", "bus", "man", "hat"}
    assert nouns("a ring on the swing") == {"ring", "swing"}
    assert content_words("The brown dog on the grass") == {"brown", "dog", "grass"}


def test_sentences_about_other_videos_fit_where_they_share_a_noun_or_a_general_word():
    mentioned = nouns("the girl with a dog")
    assert may_fit("a black dog", mentioned)
    assert may_fit("the dogs", mentioned)
    assert may_fit("a person", mentioned)
    assert may_fit("some animal", mentioned)
    assert not may_fit("a boy", mentioned)
    assert not may_fit("the black swan", mentioned)
    assert may_fit("a boy", nouns("a person running"))


def test_a_sentence_without_a_word_of_its_own_fits_the_other_one():
    girl = "the girl with the red hats"
    assert says_no_more("a girl", girl)
    assert says_no_more("the red hat", girl)
    assert says_no_more("a person in red", girl)
    assert not says_no_more("the boy", girl)
    assert not says_no_more("the blue hat", girl)
    assert not says_no_more("a red animal", girl)
