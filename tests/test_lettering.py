"""Letters on pictures: seen, or openly replaced."""

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from media import lettering as module
from media.colours import object_colour
from media.labels import Label, LabelWriter, largest_part
from media.lettering import lettering
from media.overlay import render_caption


@pytest.fixture
def fonts(monkeypatch):
    """Which fonts the system has, for the test to say."""

    def have(*files):
        monkeypatch.setattr(module, "_font_files", lambda: files)

    yield have
    lettering.cache_clear()
    module._best_font.cache_clear()
    module._said.clear()


@pytest.fixture(autouse=True)
def nothing_is_known_yet():
    lettering.cache_clear()
    module._best_font.cache_clear()
    module._said.clear()


def a_font_with(letters):
    for file in module._all_files():
        try:
            if not module._lacking(frozenset(letters), file):
                return file
        except OSError:
            continue
    return pytest.skip(f"no font here has {letters}")


def test_plain_text_is_left_as_it_is(fonts):
    fonts()
    text, font = lettering("the dog, at 0.5", 20)
    assert text == "the dog, at 0.5"
    assert font.size == 20


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("café Straße Øre", "cafe Strasse Ore"),
        ("cafe\u0301", "cafe"),
        ("the \U0001f680 on the left", "the [rocket] on the left"),
        ("the ❤\ufe0f", "the [heavy black heart]"),
        ("左边的狗", "????"),
        ("الكلب", "?????"),
        ("a\u00a0dog\u202e here\x07", "a dog here"),
        ("\uff11\uff12", "12"),
    ],
)
def test_letters_that_no_font_has_are_spelled_openly(fonts, caplog, text, written):
    fonts()
    with caplog.at_level(logging.INFO):
        shown, _ = lettering(text, 18)
        lettering(text, 24)
    assert shown == written
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (written != "a dog here"), "once, whatever the size; and not about what nobody sees"
    assert all("no font here has " in message for message in told)


def test_a_font_of_the_system_is_taken_where_it_has_the_letters(fonts, caplog):
    file = a_font_with("éЖж")
    fonts(file)
    with caplog.at_level(logging.INFO):
        text, font = lettering("é Ж ж", 18)
    assert (text, font.path) == ("é Ж ж", str(file))
    assert not caplog.records
    # and what that one lacks is still told
    assert lettering("é Ж 狗", 18)[0] == "é Ж ?"
    assert "狗" in module._said


def test_a_font_that_cannot_be_opened_is_passed_over(fonts, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    file = a_font_with("éЖж")
    fonts(tmp_path / "broken.ttf", file)
    assert lettering("éЖж", 18)[1].path == str(file)


def test_letters_from_right_to_left_need_a_library_that_sets_them(fonts, monkeypatch):
    file = a_font_with("الكب")
    fonts(file)
    monkeypatch.setattr(features, "check", lambda name: name != "raqm")
    assert lettering("الكلب", 18)[0] == "?????"


def test_plain_fonts_of_many_languages_are_tried_first(tmp_path):
    names = ["zapf.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Italic.ttf"]
    ranked = sorted((tmp_path / name for name in names), key=module._rank)
    assert [file.name for file in ranked] == [
        "NotoSansCJK-Regular.ttc",
        "NotoSans-Italic.ttf",
        "DejaVuSans.ttf",
        "DejaVuSans-Bold.ttf",
        "zapf.ttf",
    ]


def test_captions_and_labels_have_no_boxes_for_letters_that_are_missing(fonts):
    fonts()
    expected = render_caption(["the [rocket]"], width=400, found=[True])
    np.testing.assert_array_equal(render_caption(["the \U0001f680"], width=400, found=[True]), expected)
    mask = np.zeros((80, 200), dtype=bool)
    mask[40:60, 40:120] = True
    pictures = []
    for name in ("狗", "?"):
        picture = np.zeros((80, 200, 3), dtype=np.uint8)
        LabelWriter(14).draw(picture, [Label(name, 0.5, object_colour(0))], [largest_part(mask)])
        pictures.append(picture)
    np.testing.assert_array_equal(*pictures)


def test_what_is_drawn_is_what_the_font_has(fonts):
    """A caption in the font of the system differs from one in which the letters are replaced."""
    fonts(a_font_with("Ж"))
    text, font = lettering("Ж", 20)
    image = Image.new("L", (40, 40))
    ImageDraw.Draw(image).text((5, 5), text, font=font, fill=255)
    box = Image.new("L", (40, 40))
    ImageDraw.Draw(box).text((5, 5), module.NO_LETTER, font=font, fill=255)
    assert np.array(image).any()
    assert (np.array(image) != np.array(box)).any()
