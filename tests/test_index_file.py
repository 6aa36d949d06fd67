"""Reading index files: whatever stands in one, there is what it says, or one message."""

from pathlib import Path
from typing import Any

import pytest

from datasets.index_file import (
    AnyMapping,
    Entries,
    Id,
    IndexEntry,
    NameId,
    Place,
    Sentence,
    UniqueNames,
    WholeNumber,
    read_json,
    validate,
)
from datasets.index_text import IndexFileError, is_blank, read_csv, read_names, read_text, shown, shown_name


class Video(IndexEntry):
    """As in meta_expressions.json."""

    frames: UniqueNames
    expressions: Entries


class Image(IndexEntry):
    """As in COCO."""

    id: Id
    height: WholeNumber
    caption: Sentence = "x"
    name: NameId = 0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON: line 1, column 1: Expecting value, got its end; it may be cut off"),
        (b'{"a":\n 1', "not JSON: line 2, column 3: Expecting ',' delimiter, got its end"),
        (b"<html>", "not JSON: line 1, column 1: Expecting value, got '<html>'"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        (b'{"a":\n' + b"9" * 5000 + b"}", "line 2: got a whole number of 5000 digits, expected at most 4300"),
        (b"\xff\xfe{\x00}\x00", "text in UTF-16, expected UTF-8; save it as UTF-8"),
        (b'{"a":\n"th\xe9"}', 'line 2: not UTF-8 text, expected UTF-8: byte 0xe9 in b\'{"a":\\n"th\\xe9"}\''),
        (b'{"v": {"w": [{"a": 1, "a": 2}]}}', "v.w.0: the key 'a' stands there twice, a duplicate"),
        (b'{"a": 1, "a": 2}', "the file: the key 'a' stands there twice"),
    ],
)
def test_what_is_no_json_is_said_in_one_short_message(path, content, message):
    path.write_bytes(content)
    with pytest.raises(IndexFileError) as caught:
        read_json(path)
    assert caught.value.detail.startswith(message)
    assert str(caught.value) == f"{path}: {caught.value.detail}"
    assert len(caught.value.detail) < 200
    assert caught.value.detail.isprintable()


def test_a_byte_order_mark_and_other_letters_are_read_whatever_the_locale(path):
    path.write_bytes(b"\xef\xbb\xbf" + '{"exp": "der grüne Stern 🐕"}'.encode())
    assert read_json(path) == {"exp": "der grüne Stern 🐕"}
    assert read_text(path).startswith("{")


def test_files_that_are_none_or_too_large_are_named(tmp_path, path, monkeypatch):
    with pytest.raises(ValueError, match=r"index\.json: no such file"):
        read_json(path)
    with pytest.raises(ValueError, match="a folder, expected a file"):
        read_json(tmp_path)
    with pytest.raises(ValueError, match="a device or socket, expected a file"):
        read_json(Path("/dev/zero"))
    path.write_bytes(b" " * 1_100_000 + b"{}")
    assert read_json(path) == {}
    monkeypatch.setenv("SOC_MAX_INDEX_MB", "1")
    with pytest.raises(ValueError, match=r"index\.json: 1 MB, expected at most 1 MB; SOC_MAX_INDEX_MB=N raises"):
        read_json(path)
    monkeypatch.setenv("SOC_MAX_INDEX_MB", "-1")
    with pytest.raises(ValueError, match="SOC_MAX_INDEX_MB='-1': expected a whole number of megabytes"):
        read_json(path)


@pytest.mark.parametrize(
    ("model", "content", "message"),
    [
        (Video, 5, "videos.abc: got 5, expected a mapping"),
        (Video, {"frames": ["0"]}, "videos.abc: the key 'expressions' is missing, got {'frames': ['0']}"),
        (Video, {"frames": {"0": 1}, "expressions": {"0": 1}}, "videos.abc.frames: got {'0': 1}, expected a list"),
        (Video, {"frames": "012", "expressions": {"0": 1}}, "videos.abc.frames: got '012', expected a list"),
        (
            Video,
            {"frames": [], "expressions": {"0": 1}},
            "videos.abc.frames: got [], expected a list that is not empty",
        ),
        (Video, {"frames": ["0", 1], "expressions": {"0": 1}}, "videos.abc.frames.1: got 1, expected a text"),
        (
            Video,
            {"frames": ["0", "0"], "expressions": {"0": 1}},
            "videos.abc.frames: got ['0', '0'], expected every name once; '0' stands there twice, a duplicate",
        ),
        (Video, {"frames": ["a\0"], "expressions": {"0": 1}}, "videos.abc.frames.0: got 'a\\x00', expected a text wi"),
        (Video, {"frames": ["\ud800"], "expressions": {"0": 1}}, "videos.abc.frames.0: got '\\ud800', expected a text"),
        (Video, {"frames": ["../x"], "expressions": {"0": 1}}, "videos.abc.frames.0: got '../x', expected the name of"),
        (Video, {"frames": ["0"], "expressions": {}}, "videos.abc.expressions: got {}, expected at least one entry"),
        (Video, {"frames": ["0"], "expressions": [1]}, "videos.abc.expressions: got [1], expected a mapping"),
        (
            Video,
            {"frames": ["0"], "expressions": {"a/b": 1}},
            "videos.abc.expressions: got the key 'a/b', expected the",
        ),
        (Image, {"id": True, "height": 1}, "videos.abc.id: got True, expected a whole number or a text"),
        (Image, {"id": [1], "height": 1}, "videos.abc.id: got [1], expected a whole number or a text"),
        (Image, {"id": 1, "height": "1"}, "videos.abc.height: got '1', expected a whole number"),
        (Image, {"id": 1, "height": float("inf")}, "videos.abc.height: got inf, expected a whole number"),
        (Image, {"id": 1, "height": 1, "caption": None}, "videos.abc.caption: got None, expected a text"),
        (
            Image,
            {"id": 1, "height": 1, "caption": " \u200b"},
            "videos.abc.caption: got ' \\u200b', expected a text that",
        ),
        (Image, {"id": 1, "height": 1, "name": "../x"}, "videos.abc.name: got '../x', expected the name of one file"),
        (AnyMapping, [1], "videos.abc: got [1], expected a mapping"),
    ],
)
def test_what_is_not_as_its_model_is_said_with_its_place(model, content, message):
    with pytest.raises(IndexFileError) as caught:
        validate(model, content, Place(Path("x.json"), "videos").at("abc"))
    assert caught.value.detail.startswith(message)
    assert caught.value.detail.isprintable()


def test_what_fits_is_read_as_it_stands_there():
    video = validate(Video, {"frames": ["0", "1"], "expressions": {"0": 5}, "more": 1}, Place(Path("x.json")))
    assert (video.frames, video.expressions) == (["0", "1"], {"0": 5})
    image = validate(Image, {"id": "a", "height": 480.0}, Place(Path("x.json")))
    assert (image.id, image.height) == ("a", 480)


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested


def cyclic() -> list[Any]:
    nested: list[Any] = []
    nested.append(nested)
    return nested


@pytest.mark.parametrize(
    "value",
    ["x" * 10_000, 10**6000, deep(), cyclic(), {"a": "\x1b[2J\n" * 50}, [1.5] * 1000],
    ids=["long", "endless", "deep", "cyclic", "control", "list"],
)
def test_any_value_is_shown_in_a_part_of_a_line(value):
    assert len(shown(value)) <= 80
    assert shown(value).isprintable()
    assert len(shown_name(value)) <= 40
    assert shown_name("valid00000") == "valid00000"


@pytest.mark.parametrize("text", ["", "  \t\n", "\u200b", "\x07\x7f", "\u00ad\u2028"])
def test_what_cannot_be_seen_is_blank(text):
    assert is_blank(text)
    assert not is_blank(f"{text}星")


def test_lists_of_names_and_tables_say_the_line(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a\n\n b \n")
    assert read_names(path) == ["a", "b"]
    path.write_text("a\nb\0c\n")
    with pytest.raises(ValueError, match=r"list\.txt: line 2: got 'b\\x00c', expected a name without"):
        read_names(path)
    path.write_text(f'a,b\n\n"{"x" * 200_000}",c\n')
    rows = read_csv(path)
    assert next(rows) == (1, ["a", "b"])
    with pytest.raises(ValueError, match=r"list\.txt: line 3: field larger than field limit"):
        next(rows)


def test_places_join_keys():
    assert Place(Path("x")).at("videos", "a b", 3, "x" * 100).where.startswith("videos.a b.3.'xxx")
