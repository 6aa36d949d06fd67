"""What a viewer can see in an overlay: contours, labels, colours, smooth edges."""

import cv2
import numpy as np
import pytest

from media.colours import BLACK, WHITE, ObjectColours, luminance, object_colour, readable_on
from media.labels import MOST_LABELS, Box, Label, LabelWriter, Part, choose_place, largest_part, shorten
from media.overlay import BACKGROUND, MIN_WIDTH, STRENGTH, Overlay, blend_masks, render_caption

RED = object_colour(0)


def disc(height, width, *, x, y, radius):
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def plain(height, width, colour=(100, 100, 100)):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def differs(picture, colour, by=60):
    """Where a pixel is far from a colour."""
    return np.abs(picture.astype(int) - colour).max(axis=-1) > by


# ---- tint and contour ----


def test_each_object_has_its_colour_and_what_is_far_from_it_is_untouched():
    masks = [disc(80, 120, x=30, y=30, radius=15), disc(80, 120, x=85, y=50, radius=15)]
    picture = blend_masks(plain(80, 120), masks)
    far = cv2.dilate((masks[0] | masks[1]).view(np.uint8), np.ones((9, 9))) == 0
    assert (picture[far] == 100).all()
    for index, (x, y) in enumerate(((30, 30), (85, 50))):
        expected = (1 - STRENGTH) * 100 + STRENGTH * np.array(object_colour(index))
        assert picture[y, x].tolist() == pytest.approx(expected.tolist(), abs=2)
    assert len({object_colour(i) for i in range(40)}) == 40


@pytest.mark.parametrize("colour", [RED, (30, 30, 120), (250, 240, 120)])
@pytest.mark.parametrize("around", ["same", "black", "white"])
def test_the_contour_is_seen_on_an_object_of_its_own_colour(colour, around):
    """Of line and rim at least one stands out from the object, all the way round it."""
    mask = disc(200, 200, x=100, y=100, radius=50)
    frame = plain(200, 200, {"same": colour, "black": (0, 0, 0), "white": (255, 255, 255)}[around])
    frame[mask] = colour
    picture = blend_masks(frame, [mask], [colour])
    rim = mask ^ cv2.dilate(mask.view(np.uint8), np.ones((7, 7))).astype(bool)
    if around == "same":
        seen = differs(picture, colour) & rim
        angles = np.degrees(np.arctan2(*(np.argwhere(seen) - 100).T)).round().astype(int) // 10
        assert len(set(angles)) >= 36, "seen in every direction"
    outside = picture[~mask & ~rim]
    assert (outside == frame[~mask & ~rim]).all()
    inside = picture[disc(200, 200, x=100, y=100, radius=44)]
    assert (np.abs(inside.astype(int) - colour) <= 2).all(), "an object of this colour keeps it"


def test_the_line_lies_inside_of_the_edge_in_the_colour_and_the_rim_outside():
    mask = np.zeros((200, 200), dtype=bool)
    mask[50:150, 50:150] = True
    row = blend_masks(plain(200, 200), [mask], [RED])[100, 40:60].astype(int)
    assert row[11].tolist() == pytest.approx(RED, abs=20)
    assert row[9].max() < 90, "the rim of a colour on which black is read is black"
    assert row[7].tolist() == [100] * 3
    assert row[15].tolist() == pytest.approx(((1 - STRENGTH) * 100 + STRENGTH * np.array(RED)).tolist(), abs=2)


def test_a_contour_grows_with_the_frame():
    widths = []
    for size in (240, 2160):
        mask = np.zeros((size, size), dtype=bool)
        mask[size // 4 : -size // 4, size // 4 : -size // 4] = True
        row = blend_masks(plain(size, size), [mask], [RED])[size // 2, : size // 2]
        widths.append(int((np.abs(row.astype(int) - RED).max(axis=-1) < 20).sum()))
    assert widths[0] >= 1
    assert widths[1] > 3 * widths[0]


def test_no_line_runs_along_the_border_of_the_frame():
    mask = np.zeros((100, 100), dtype=bool)
    mask[:, :50] = True
    picture = blend_masks(plain(100, 100), [mask], [RED])
    assert (picture[0, :40] == picture[50, :40]).all()
    full = blend_masks(plain(100, 100), [np.ones((100, 100), dtype=bool)], [RED])
    assert len(np.unique(full.reshape(-1, 3), axis=0)) == 1


def test_where_objects_overlap_the_later_one_is_on_top():
    masks = [disc(100, 100, x=40, y=50, radius=25), disc(100, 100, x=60, y=50, radius=25)]
    blue = (40, 40, 250)
    picture = blend_masks(plain(100, 100), masks, [RED, blue]).astype(int)
    assert picture[50, 70, 2] > picture[50, 70, 0] + 50
    assert picture[50, 50, 2] > picture[50, 50, 0]
    assert picture[50, 25, 0] > picture[50, 25, 2] + 50


def test_a_mask_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"mask of \(height, width\) \(50, 40\) for a picture of \(40, 50\)"):
        blend_masks(plain(40, 50), [np.zeros((50, 40), dtype=bool)])


def test_the_frame_and_masks_stay_as_they_were():
    frame, mask = plain(60, 60), disc(60, 60, x=30, y=30, radius=20)
    before = frame.copy(), mask.copy()
    blend_masks(frame, [mask])
    Overlay(["a"], height=60, width=60).render(frame, [mask], [True], [0.5])
    np.testing.assert_array_equal(frame, before[0])
    np.testing.assert_array_equal(mask, before[1])


# ---- smooth edges ----


def enlarged_edge(scale):
    """The edge of a disc that was enlarged, against the true disc: largest distance in pixels, and its levels."""
    size = 100
    mask = disc(size, size, x=49.5, y=49.5, radius=30)
    picture = blend_masks(plain(scale * size, scale * size, (255, 255, 255)), [mask], [(0, 0, 0)])
    middle = (scale * size - 1) / 2
    rows, columns = np.mgrid[: scale * size, : scale * size]
    radius = np.hypot(rows - middle, columns - middle)
    dark = picture[..., 0] < 128  # line of an object whose colour is black; its rim is white, as the frame
    return radius[dark].max() - scale * 30, picture


def test_masks_of_small_frames_are_enlarged_without_blocks():
    scale = 6
    error, picture = enlarged_edge(scale)
    assert abs(error) < scale / 2 + 1, "blocks of a circle stand out by up to a pixel of the mask"
    along = picture[scale * 15 : scale * 35, scale * 50, 0]
    assert ((along > 10) & (along < 245)).any(), "the edge has values in between"


def test_a_slanting_edge_has_no_steps_when_enlarged():
    size, scale = 60, 8
    rows, columns = np.mgrid[:size, :size]
    mask = columns > 20 + rows / 3
    picture = blend_masks(plain(size * scale, size * scale, (255, 255, 255)), [mask], [(0, 0, 0)])
    edge = (picture[80:-80, :, 0] < 128).argmax(axis=1)
    line = np.polyfit(np.arange(len(edge)), edge, 1)
    assert line[0] == pytest.approx(1 / 3, abs=0.02)
    assert np.abs(edge - np.polyval(line, np.arange(len(edge)))).max() < 0.4 * scale, "blocks are steps of a scale"
    assert np.abs(np.diff(edge)).max() <= 3


@pytest.mark.parametrize("scale", [1, 4])
def test_edges_have_values_in_between(scale):
    """Without them a picture of one colour and one object has four: around, rim, line and inside."""
    mask = disc(100, 100, x=50, y=50, radius=30)
    picture = blend_masks(plain(100 * scale, 100 * scale), [mask], [RED])
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


def test_a_line_of_one_pixel_is_not_lost_when_enlarged():
    mask = np.zeros((30, 30), dtype=bool)
    mask[15] = True
    picture = blend_masks(plain(150, 150, (255, 255, 255)), [mask], [(0, 0, 0)])
    assert (picture[70:85, 75, 0] < 128).any()
    assert (picture[:60] == 255).all()


# ---- colours ----


def test_text_is_black_or_white_whichever_is_read():
    assert readable_on((250, 240, 60)) == BLACK
    assert readable_on((20, 20, 150)) == WHITE
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 255, 0)) == pytest.approx(0.7152)


def choose(frame, masks, num_objects=None):
    colours = ObjectColours(num_objects or len(masks))
    colours.look([frame], [[mask] for mask in masks])
    return colours


def test_an_object_of_a_colour_gets_another_one():
    mask = disc(100, 100, x=50, y=50, radius=30)
    frame = plain(100, 100)
    assert choose(frame, [mask]).of_all() == (object_colour(0),), "grey leaves the order of the palette"
    frame[mask] = object_colour(0)
    assert choose(frame, [mask]).of_all() != (object_colour(0),)
    frame[mask] = 100
    frame[~mask] = object_colour(0)
    assert choose(frame, [mask]).of_all() != (object_colour(0),), "nor may it look like what is around"


def test_two_objects_never_share_a_colour():
    masks = [disc(200, 200, x=10 + 18 * i, y=100, radius=8) for i in range(10)]
    frame = plain(200, 200)
    frame[masks[0]] = object_colour(0)
    frame[masks[1]] = object_colour(1)
    assert len(set(choose(frame, masks).of_all())) == 10


def test_a_colour_is_kept_whatever_comes_later_and_late_objects_get_theirs():
    mask, nothing = disc(100, 100, x=50, y=50, radius=30), np.zeros((100, 100), dtype=bool)
    colours = choose(plain(100, 100), [mask, nothing])
    assert colours.chosen == (object_colour(0), None)
    red = plain(100, 100)
    red[mask] = object_colour(0)
    colours.look([red], [[mask], [nothing]])
    assert colours.chosen == (object_colour(0), None)
    blue = plain(100, 100)
    blue[mask] = object_colour(1)
    colours.look([blue], [[nothing], [mask]])
    assert colours.chosen[0] == object_colour(0)
    assert colours.chosen[1] not in (None, object_colour(0), object_colour(1))


# ---- labels ----


def filled(left, top, right, bottom):
    return Part(np.ones((bottom - top, right - left), dtype=bool), left, top)


def label_of(picture, colour):
    """Box of the rows and columns with many pixels of exactly this colour."""
    exact = (picture == np.array(colour)).all(axis=-1)
    rows, columns = np.flatnonzero(exact.sum(axis=1) > 5), np.flatnonzero(exact.sum(axis=0) > 3)
    return Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (599, 0), (0, 399), (599, 399), (300, 200), (300, 0)])
def test_a_label_lies_inside_of_the_frame(x, y):
    writer = LabelWriter(20)
    picture = plain(400, 600)
    part = filled(max(0, x - 20), max(0, y - 20), min(600, x + 20), min(400, y + 20))
    (place,) = writer.draw(picture, [Label("some object", 0.5, RED)], [part])
    assert place.left >= 0
    assert place.top >= 0
    assert place.right <= 600
    assert place.bottom <= 400
    assert not part.covered(place), "there is room beside it"
    assert (picture[place.top : place.bottom, place.left : place.right] == RED).all(axis=-1).mean() > 0.5
    picture[place.top : place.bottom, place.left : place.right] = 100
    assert (picture == 100).all(), "and nothing else is written"


def test_a_name_that_is_too_long_for_the_frame_is_cut():
    picture = plain(30, 90)
    (place,) = LabelWriter(20).draw(picture, [Label("a very long name", 0.25, RED)], [filled(10, 10, 20, 20)])
    assert 0 <= place.left < place.right <= 90
    assert shorten("the brown dog on the left side", 24) == "the brown dog on the…"
    assert shorten("x" * 30, 24) == "x" * 23 + "…"
    assert shorten("short", 24) == "short"


def test_labels_do_not_cover_each_other():
    """Six objects in one place, and in a corner."""
    for part in (filled(280, 180, 320, 220), filled(0, 0, 40, 40), filled(560, 360, 600, 400)):
        picture = plain(400, 600)
        labels = [Label(f"object {i}", 0.5, object_colour(i)) for i in range(6)]
        places = LabelWriter(20).draw(picture, labels, [part] * 6)
        assert not any(a.overlap(b) for i, a in enumerate(places) for b in places[:i])


def test_a_label_stays_at_its_place_while_the_object_moves_a_little():
    size, frame = (20, 100), (400, 600)
    place = {"frame": frame, "labels": [], "gap": 5}
    near_top = filled(200, 24, 300, 100)
    first, _ = choose_place(size, near_top, others=[], before=None, **place)
    assert first == 0, "above"
    for other in (filled(190, 0, 260, 6), filled(190, 0, 260, 4)):
        number, _ = choose_place(size, near_top, others=[other], before=0, **place)
        assert number == 0
    crowded, _ = choose_place(size, near_top, others=[filled(100, 0, 400, 24)], before=0, **place)
    assert crowded != 0


def test_the_label_is_that_of_the_object_and_shows_its_score():
    frame = plain(360, 640)
    masks = [disc(360, 640, x=150, y=180, radius=40), disc(360, 640, x=480, y=180, radius=40)]
    overlay = Overlay(["a dog", "a cat"], height=360, width=640)
    first = overlay.render(frame, masks, [True, True], [0.25, 0.75])[:360]
    for index, x in enumerate((150, 480)):
        box = label_of(first[:138], object_colour(index))
        assert abs((box.left + box.right) / 2 - x) < 3
    other = overlay.render(frame, masks, [True, True], [0.25, 0.35])[:360]
    changed = np.argwhere((first != other).any(axis=-1))
    assert len(changed)
    assert changed[:, 1].min() > 400, "the other score is written at the second object"
    without = overlay.render(frame, masks, [True, True])[:360]
    assert (without != first).any()
    named = Overlay(["a dog", "a cat"], height=360, width=640, names=["x", "y"]).render(frame, masks, [True] * 2)[:360]
    boxes = [label_of(picture[:138, :320], object_colour(0)) for picture in (without, named)]
    assert boxes[1].right - boxes[1].left < boxes[0].right - boxes[0].left


def test_an_object_that_is_not_there_has_no_label():
    frame, nothing = plain(360, 640), np.zeros((360, 640), dtype=bool)
    mask = disc(360, 640, x=150, y=180, radius=40)
    overlay = Overlay(["a dog", "a cat"], height=360, width=640)
    there = overlay.render(frame, [mask, nothing], [True, True], [0.5, 0.5])[:360]
    gone = overlay.render(frame, [nothing, nothing], [True, False], [0.5, 0.5])[:360]
    back = overlay.render(frame, [mask, nothing], [True, True], [0.5, 0.5])[:360]
    assert (there[:, 320:] == frame[:, 320:]).all()
    assert (gone == frame).all()
    np.testing.assert_array_equal(there, back)


def test_a_label_stands_right_above_what_is_below_it():
    """Of an L with its tall stroke at the left, the label is above the low part, not at the height of the stroke."""
    mask = np.zeros((400, 600), dtype=bool)
    mask[100:300, 100:120] = True
    mask[250:300, 100:500] = True
    (place,) = LabelWriter(20).draw(plain(400, 600), [Label("an L", 0.5, RED)], [largest_part(mask)])
    assert 200 < place.top < place.bottom <= 250
    assert place.left > 120
    enlarged = LabelWriter(20).draw(plain(800, 1200), [Label("an L", 0.5, RED)], [largest_part(mask, scale=2)])
    assert 450 < enlarged[0].top < enlarged[0].bottom <= 500


@pytest.mark.parametrize("scale", [1, 3])
def test_what_a_label_covers_of_an_object_is_counted_in_pixels_of_the_picture(scale):
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:30, 20:50] = True
    mask[10:20, 20:30] = False
    part = largest_part(mask, scale=scale)
    large = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    for place in (Box(0, 0, 10, 9), Box(15, 5, 35, 25), Box(24, 12, 60, 40), Box(0, 0, 80, 60), Box(45, 20, 70, 21)):
        place = Box(*(side * scale for side in place))
        assert part.covered(place) == large[place.top : place.bottom, place.left : place.right].sum()
    assert part.rows_between(20 * scale, 30 * scale) == (20 * scale, 30 * scale)
    assert part.rows_between(20 * scale, 31 * scale) == (10 * scale, 30 * scale)
    assert part.rows_between(0, 10 * scale) == part.rows_between(70 * scale, 80 * scale) == (10 * scale, 30 * scale)


def test_a_few_stray_pixels_do_not_move_the_label():
    mask = disc(360, 640, x=150, y=180, radius=40)
    mask[350:352, 600:602] = True
    assert largest_part(mask).box == Box(110, 140, 191, 221)
    line = np.zeros((50, 50), dtype=bool)
    line[7, 3] = True
    assert largest_part(line, scale=2).box == Box(6, 14, 8, 16)
    assert largest_part(np.zeros((50, 50), dtype=bool)) is None


def test_small_frames_are_enlarged_with_their_labels():
    mask = disc(60, 100, x=50, y=40, radius=10)
    overlay = Overlay(["a dog"], height=60, width=100)
    picture = overlay.render(plain(60, 100), [mask], [True], [0.5])[: 60 * overlay.scale]
    assert picture.shape[1] >= MIN_WIDTH
    box = label_of(picture[: 30 * overlay.scale - 5], object_colour(0))
    assert abs((box.left + box.right) / 2 - 50 * overlay.scale) < 6


def test_the_square_beside_the_sentence_has_the_colour_of_the_object():
    mask = disc(360, 640, x=150, y=180, radius=40)
    frame = plain(360, 640)
    frame[mask] = object_colour(0)
    overlay = Overlay(["a dog", "a cat"], height=360, width=640)
    caption = overlay.render(frame, [mask, np.zeros_like(mask)], [True, True])[360:]
    (chosen, unseen) = overlay.colours.chosen
    assert unseen is None
    assert chosen != object_colour(0)
    assert (caption == chosen).all(axis=-1).sum() > 100
    assert not (caption[len(caption) // 2 :].max(axis=-1) - caption[len(caption) // 2 :].min(axis=-1)).any(), "grey"


def test_of_very_many_objects_the_first_ones_are_labelled_and_all_have_a_colour_of_their_own():
    frame = np.full((60, 80, 3), 90, dtype=np.uint8)
    masks = [np.zeros((60, 80), dtype=bool) for _ in range(120)]
    for index, mask in enumerate(masks):
        mask[4 * (index // 12) : 4 * (index // 12) + 3, 6 * (index % 12) : 6 * (index % 12) + 5] = True
    colours = ObjectColours(len(masks))
    colours.look([frame], [[mask] for mask in masks])
    assert None not in colours.chosen
    assert len(set(colours.chosen)) == len(masks)
    labels = [Label(f"object {index}", 0.5, colour) for index, colour in enumerate(colours.of_all())]
    picture = np.full((600, 800, 3), 90, dtype=np.uint8)
    placed = LabelWriter(13).draw(picture, labels, [largest_part(mask, scale=10) for mask in masks])
    assert [place is not None for place in placed] == [index < MOST_LABELS for index in range(len(masks))]


@pytest.mark.parametrize(("height", "width"), [(1300, 3), (4000, 20), (200, 1), (1, 200), (1, 5000), (1, 1), (17, 31)])
def test_strips_are_not_enlarged_without_end_and_their_sentences_stay_legible(height, width):
    overlay = Overlay(["the thing"], height=height, width=width)
    frame = np.full((height, width, 3), 200, dtype=np.uint8)
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 2 :] = True
    canvas = overlay.render(frame, [mask], [True])
    assert canvas.nbytes < 3 * 1000 * 6000
    assert overlay.size[0] <= max(height, 2160)
    assert canvas.shape[1] == max(480, overlay.size[1])
    assert (canvas[overlay.size[0] :, :480] > 200).any(), "the sentence"
    picture = overlay.picture_in(canvas)
    assert picture.shape == (*overlay.size, 3)
    assert picture.max() > 150
    beside = (overlay.canvas_width - overlay.size[1]) // 2
    assert (canvas[: overlay.size[0], :beside] == BACKGROUND).all()


def test_ordinary_frames_fill_the_picture():
    overlay = Overlay(["the thing"], height=48, width=64)
    frame = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    canvas = overlay.render(frame, [np.zeros((48, 64), dtype=bool)], [False])
    assert overlay.size == (384, 512)
    assert canvas.shape[1] == 512
    assert np.shares_memory(overlay.picture_in(canvas), canvas)


def test_sentences_without_end_are_cut_and_counted():
    long = render_caption(["word " * 30_000], width=480, found=[True])
    assert len(long) < 400
    few, many = (render_caption([f"object {i}" for i in range(n)], width=480, found=[True] * n) for n in (3, 5000))
    assert len(few) < 150
    assert len(many) <= 4096
    other = render_caption([f"object {i}" for i in range(5001)], width=480, found=[False] * 5001)
    assert other.shape == many.shape
    assert (other[-20:] != many[-20:]).any(), "how many more there are"
