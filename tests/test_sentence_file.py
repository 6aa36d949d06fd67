"""sentences.json."""

import json

import pytest

from datasets.sentence_file import name_as_sentence, read_sentence_file


def read(tmp_path, content):
    path = tmp_path / "sentences.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_sentence_file(path)


def test_the_long_form(tmp_path):
    file = read(
        tmp_path,
        {
            "objects": {"1": {"name": "dog", "sentences": ["the brown dog", "a dog"]}, "2": {"name": "cat"}, "3": None},
            "absent": ["a horse"],
            "synonyms": {"dog": ["puppy", "hound"]},
        },
    )
    assert file.objects == {"1": ("the brown dog", "a dog"), "2": ("the cat",), "3": ()}
    assert file.absent == ("a horse",)
    assert file.synonyms == {"dog": ("puppy", "hound")}


def test_the_short_form(tmp_path):
    file = read(tmp_path, {"1": ["the dog", "the dog"], "2": "the cat", "absent": ["a horse"]})
    assert file.objects == {"1": ("the dog",), "2": ("the cat",)}
    assert file.absent == ("a horse",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"1": ["the dog"], "1": ["the cat"]}', "the key '1' stands there twice"),
        ('{"1": ["the dog"]', "not JSON: line 1, column 18: Expecting ',' delimiter, got its end"),
        ([["the dog"]], r"expected a mapping such as \{\"objects\".* got \[\['the dog'\]\]"),
        ({"1": []}, "object '1': an empty list; write at least one text, or null to leave an object out"),
        ({"1": [" "]}, "object '1': an empty text"),
        ({"1": ""}, "object '1': an empty text"),
        ({"1": [5]}, "object '1': 5 must be a text"),
        ({"1": ["a\0b"]}, r"object '1': 'a\\x00b' must be a text without NUL"),
        ({"1": ["a \ud800"]}, r"object '1': 'a \\ud800' must be a text without NUL and half of a surrogate pair"),
        ({"1": ["x"], "absent": "y" * 10_000 + "\0"}, r"absent: 'y{30,40}\.\.\.y{30,40}\\x00' must be a text"),
        ({"1": 5}, "object '1': expected a list of texts, got 5"),
        ({"1": {}}, 'object \'1\': an empty mapping; an object has "name", "sentences" or both'),
        ({"1": {"sentence": ["x"]}}, "object '1': unknown key 'sentence'"),
        ({"1": {"sentences": []}}, "object '1': no sentence; write at least one, or null"),
        ({"objects": {"1": ["x"]}, "synonym": {}}, "unknown key 'synonym' beside `objects`; there are objects, absent"),
        ({"objects": ["x"]}, r"objects=\['x'\] must be a mapping"),
        ({"1": ["x"], "synonyms": ["x"]}, r"synonyms=\['x'\] must be a mapping from a word to a list"),
        ({"1": ["x"], "synonyms": {"dog": []}}, "synonyms of 'dog': an empty list"),
        ({"1": ["x"], "absent": [""]}, "absent: an empty text"),
    ],
)
def test_each_mistake_has_a_message_with_the_path(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path / 'sentences.json'}: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"sentences.json: no such file"):
        read_sentence_file(tmp_path / "sentences.json")


def test_names_become_sentences():
    assert name_as_sentence("traffic_light") == "the traffic light"
    assert name_as_sentence("the dog") == "the dog"
    assert name_as_sentence("a big-dog") == "a big dog"
