"""Every format of output, read back with another library: masks, their order, and what is left in the folder."""

import json
import tracemalloc
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
import torch
from av.video.reformatter import Colorspace
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from media.mask_png import davis_palette
from media.overlay import resized_mask
from media.video import MP4, Frame, open_video, write_video
from prediction.inputs import ObjectToFind
from prediction.outputs import FrameResult
from prediction.stream import ObjectPrediction, WindowPrediction
from prediction.video_outputs import MOV, WEBM
from prediction.writers import DEFAULT_FORMATS, FORMATS, output_markers, outputs_of, write_outputs
from tests.test_sound import write_source

HEIGHT, WIDTH = 48, 64
NAMES = ("00010", "00012", "00014", "00016", "00018")
OBJECTS = (ObjectToFind("a moving square"), ObjectToFind("the disc at the right", name="disc"), ObjectToFind("a ghost"))
FOLDERS = ("00", "disc", "02")


def true_masks(num_frames=5):
    """A square that moves right, a disc that overlaps its way and is gone in frame 1, and nothing."""
    masks = np.zeros((3, num_frames, HEIGHT, WIDTH), dtype=bool)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for time in range(num_frames):
        masks[0, time, 10:31, 5 + 6 * (time % 5) : 26 + 6 * (time % 5)] = True
        if time != 1:
            masks[1, time] = (rows - 24) ** 2 + (columns - 45) ** 2 <= 150
    return masks


def true_scores(num_frames=5):
    """The disc is surer in even frames."""
    times = np.arange(num_frames)
    return np.stack([np.full(num_frames, 0.5), np.where(times % 2 == 0, 0.75, 0.25), np.full(num_frames, 0.125)])


def frames(names=NAMES):
    """Of different colours everywhere, and unlike each other."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for time, name in enumerate(names):
        pixels = np.stack([rows * 5, columns * 3 + 20, np.full_like(rows, 40 + 30 * (time % 6))], axis=-1)
        yield Frame(int(name), name, pixels.astype(np.uint8))


def predicted(mask, scores, *, sentence="", is_found=True):
    return ObjectPrediction(
        sentence=sentence,
        is_found=is_found,
        window_score=float(scores.mean()),
        query=0,
        frame_scores=scores,
        boxes_xyxy_px=np.zeros((len(scores), 4), dtype=np.float32),
        mask_logits=torch.from_numpy(np.where(mask, 4.0, -4.0).astype(np.float32)),
        size=(HEIGHT, WIDTH),
    )


def windows(names=NAMES, sizes=(3, 2)):
    masks, scores = true_masks(len(names)), true_scores(len(names)).astype(np.float32)
    all_frames, start = list(frames(names)), 0
    for size in sizes:
        part = slice(start, start + size)
        objects = tuple(predicted(masks[i, part], scores[i, part], is_found=i < 2) for i in range(3))
        yield WindowPrediction(tuple(all_frames[part]), objects)
        start += size


def write(folder, *names, source=None, step=2, fps=10.0, content=None):
    with write_outputs(
        outputs_of(names), folder=folder, video="clip", objects=OBJECTS, fps=fps, source=source, step=step
    ) as writer:
        areas = [writer.add(window) for window in (content or windows())]
    return writer, [[area for part in own for area in part] for own in zip(*areas, strict=True)]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def decode(segmentation):
    return mask_utils.decode(segmentation).astype(bool)


def test_areas_are_those_of_the_masks(tmp_path):
    _, areas = write(tmp_path, "masks")
    assert areas == true_masks().sum(axis=(2, 3)).tolist()


def test_black_and_white_masks_have_a_folder_per_object(tmp_path):
    write(tmp_path, "masks")
    assert files(tmp_path) == sorted(f"masks/{folder}/{name}.png" for folder in FOLDERS for name in NAMES)
    for folder, masks in zip(FOLDERS, true_masks(), strict=True):
        for name, mask in zip(NAMES, masks, strict=True):
            image = Image.open(tmp_path / "masks" / folder / f"{name}.png")
            assert image.mode == "L"
            np.testing.assert_array_equal(np.array(image), 255 * mask)


def test_a_palette_image_has_the_number_of_the_surer_object(tmp_path):
    write(tmp_path, "palette")
    assert files(tmp_path) == [f"palette/{name}.png" for name in NAMES]
    masks, decided = true_masks(), set()
    for time, name in enumerate(NAMES):
        image = Image.open(tmp_path / "palette" / f"{name}.png")
        assert image.mode == "P"
        assert tuple(image.getpalette()) == davis_palette()
        found = np.array(image)
        square, disc, _ = masks[:, time]
        np.testing.assert_array_equal(found == 0, ~(square | disc))
        assert (found[square & ~disc] == 1).all()
        assert (found[disc & ~square] == 2).all()
        if (both := square & disc).any():
            assert (found[both] == (2 if time % 2 == 0 else 1)).all()
            decided.add(time % 2)
    assert decided == {0, 1}


def test_of_equally_sure_objects_the_first_has_the_pixel(tmp_path):
    mask = np.ones((1, HEIGHT, WIDTH), dtype=bool)
    objects = tuple(predicted(mask, np.array([0.5], dtype=np.float32)) for _ in range(3))
    write(tmp_path, "palette", content=[WindowPrediction(tuple(frames(NAMES[:1])), objects)])
    assert np.unique(np.array(Image.open(tmp_path / "palette" / f"{NAMES[0]}.png"))).tolist() == [1]


def test_a_palette_has_numbers_for_255_objects(tmp_path):
    objects = [ObjectToFind(f"object {i}") for i in range(256)]
    one = predicted(np.zeros((1, HEIGHT, WIDTH), dtype=bool), np.zeros(1, dtype=np.float32))
    for number in (255, 256):
        window = WindowPrediction(tuple(frames(NAMES[:1])), (one,) * number)
        with write_outputs(outputs_of(["palette"]), folder=tmp_path, video="v", objects=objects[:number], fps=1.0) as w:
            if number == 256:
                with pytest.raises(ValueError, match=r"256 sentences.*leave out the format palette"):
                    w.add(window)
            else:
                w.add(window)


def test_run_lengths_of_all_frames_are_decoded_by_pycocotools(tmp_path):
    write(tmp_path, "rle")
    content = json.loads((tmp_path / "masks_rle.json").read_text())
    assert (content["video"], content["height"], content["width"]) == ("clip", HEIGHT, WIDTH)
    assert content["frame_names"] == list(NAMES)
    assert content["frame_indices"] == [10, 12, 14, 16, 18]
    assert [entry["id"] for entry in content["objects"]] == [1, 2, 3]
    assert [entry["sentence"] for entry in content["objects"]] == [each.sentence for each in OBJECTS]
    assert [entry["name"] for entry in content["objects"]] == ["", "disc", ""]
    np.testing.assert_allclose([entry["scores"] for entry in content["objects"]], true_scores())
    found = np.stack([[decode(each) for each in entry["segmentations"]] for entry in content["objects"]])
    np.testing.assert_array_equal(found, true_masks())


def test_youtube_vis_has_null_where_an_object_is_not_seen(tmp_path):
    write(tmp_path, "ytvis")
    content = json.loads((tmp_path / "youtube_vis.json").read_text())
    (video,) = content["videos"]
    assert (video["id"], video["height"], video["width"], video["length"]) == (1, HEIGHT, WIDTH, 5)
    assert video["file_names"] == [f"clip/{name}.jpg" for name in NAMES]
    assert [(each["id"], each["name"]) for each in content["categories"]] == [
        (1, "a moving square"), (2, "disc"), (3, "a ghost"),
    ]  # fmt: skip
    masks = true_masks()
    assert [each["id"] for each in content["annotations"]] == [1, 2], "the ghost is nowhere"
    for index, annotation in enumerate(content["annotations"]):
        assert (annotation["video_id"], annotation["category_id"], annotation["iscrowd"]) == (1, index + 1, 0)
        for time, segmentation in enumerate(annotation["segmentations"]):
            mask = masks[index, time]
            if not mask.any():
                assert segmentation is annotation["bboxes"][time] is annotation["areas"][time] is None
                continue
            np.testing.assert_array_equal(decode(segmentation), mask)
            assert annotation["areas"][time] == mask.sum()
            assert annotation["bboxes"][time] == list(cv2.boundingRect(mask.astype(np.uint8)))
    assert content["annotations"][1]["segmentations"][1] is None


def test_youtube_vis_results_are_scored(tmp_path):
    write(tmp_path, "ytvis")
    results = json.loads((tmp_path / "youtube_vis_results.json").read_text())
    assert [(each["video_id"], each["category_id"]) for each in results] == [(1, 1), (1, 2)]
    assert [each["score"] for each in results] == pytest.approx([0.5, (3 * 0.75 + 2 * 0.25) / 5])
    annotations = json.loads((tmp_path / "youtube_vis.json").read_text())["annotations"]
    assert [each["segmentations"] for each in results] == [each["segmentations"] for each in annotations]


def test_coco_is_loaded_by_pycocotools(tmp_path):
    write(tmp_path, "coco")
    coco = COCO(str(tmp_path / "coco.json"))
    images = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in images] == [f"clip/{name}.jpg" for name in NAMES]
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["a moving square", "disc", "a ghost"]
    found = np.zeros_like(true_masks())
    for annotation in coco.loadAnns(coco.getAnnIds()):
        index, time = annotation["track_id"] - 1, annotation["image_id"] - 1
        assert annotation["category_id"] == index + 1
        assert annotation["score"] == pytest.approx(true_scores()[index, time])
        found[index, time] = coco.annToMask(annotation)
        assert annotation["area"] == found[index, time].sum()
    np.testing.assert_array_equal(found, true_masks())
    assert len(set(coco.getAnnIds())) == 5 + 4


def test_cutouts_are_transparent_where_the_object_is_not(tmp_path):
    write(tmp_path, "cutouts")
    assert files(tmp_path) == sorted(f"cutouts/{folder}/{name}.png" for folder in FOLDERS for name in NAMES)
    for folder, masks in zip(FOLDERS, true_masks(), strict=True):
        for frame, mask in zip(frames(), masks, strict=True):
            image = Image.open(tmp_path / "cutouts" / folder / f"{frame.name}.png")
            assert image.mode == "RGBA"
            pixels = np.array(image)
            np.testing.assert_array_equal(pixels[..., 3], 255 * mask)
            np.testing.assert_array_equal(pixels[mask, :3], frame.pixels[mask])
            assert not pixels[~mask].any(), "what is cut away is not in the file"


def read_alpha(path, codec=None):
    """RGBA frames and the rate of a video; FFmpeg's own VP9 decoder leaves alpha out, that of libvpx does not."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoder = stream.codec_context if codec is None else av.CodecContext.create(codec, "r")
        packets = [packet for packet in container.demux(stream) if packet.size]
        decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        return np.stack([frame.to_ndarray(format="rgba") for frame in decoded]), float(stream.average_rate)


def test_videos_say_how_their_colours_are_meant(tmp_path):
    """Players guess by the size of the frames where a file does not say so: a red would be another one in HD."""
    colours = [(230, 60, 60), (60, 130, 240), (60, 190, 90)]
    pixels = np.array(colours, dtype=np.uint8).repeat(64, axis=0)[None].repeat(64, axis=0)
    for path, encoding in ((tmp_path / "a.mp4", MP4), (tmp_path / "a.webm", WEBM), (tmp_path / "a.mov", MOV)):
        rgb = pixels if encoding is MP4 else np.dstack([pixels, np.full(pixels.shape[:2], 255, dtype=np.uint8)])
        with write_video(path, fps=10.0, encoding=encoding) as writer:
            writer.add(rgb)
        with av.open(str(path)) as container:
            (frame,) = container.decode(video=0)
            assert frame.colorspace == Colorspace.ITU709
            found = frame.reformat(format="rgb24", src_colorspace=Colorspace.ITU709).to_ndarray()
        for place, colour in enumerate(colours):
            assert found[32, 32 + 64 * place].tolist() == pytest.approx(colour, abs=4)


@pytest.mark.parametrize(("name", "codec"), [("cutouts_mov", None), ("cutouts_webm", "libvpx-vp9")])
def test_videos_with_alpha_show_the_object_alone(tmp_path, name, codec):
    write(tmp_path, name)
    suffix = name.removeprefix("cutouts_")
    assert files(tmp_path) == sorted(f"{name}/{folder}.{suffix}" for folder in FOLDERS)
    for folder, masks in zip(FOLDERS, true_masks(), strict=True):
        pixels, rate = read_alpha(tmp_path / name / f"{folder}.{suffix}", codec)
        assert rate == 10
        found = pixels[..., 3] > 127
        if name == "cutouts_mov":
            np.testing.assert_array_equal(found, masks)
            assert set(np.unique(pixels[..., 3])) <= {0, 254, 255}
        else:
            assert (found != masks).mean() < 0.01
        for frame, picture, mask in zip(frames(), pixels, masks, strict=True):
            difference = np.abs(picture[..., :3].astype(int) - frame.pixels)[mask]
            assert difference.mean() < 12 if len(difference) else True


def test_a_cutout_video_of_odd_sides_has_one_more_row_and_column(tmp_path):
    mask = np.ones((1, 31, 45), dtype=bool)
    one = ObjectPrediction("", True, 0.5, 0, np.ones(1, np.float32), np.zeros((1, 4), np.float32),
                           torch.from_numpy(np.where(mask, 4.0, -4.0).astype(np.float32)), (31, 45))  # fmt: skip
    frame = Frame(0, "0", np.full((31, 45, 3), 90, dtype=np.uint8))
    with write_outputs(outputs_of(["cutouts_webm"]), folder=tmp_path, video="v", objects=OBJECTS[:1], fps=5.0) as w:
        w.add(WindowPrediction((frame,), (one,)))
    assert read_alpha(tmp_path / "cutouts_webm" / "00.webm", "libvpx-vp9")[0].shape == (1, 32, 46, 4)


def test_the_overlay_has_all_frames_and_is_drawn_at_the_objects(tmp_path):
    writer, _ = write(tmp_path, "overlay")
    assert files(tmp_path) == ["overlay.mp4"]
    pictures = [frame.pixels for frame in open_video(tmp_path / "overlay.mp4").frames()]
    assert len(pictures) == 5
    assert open_video(tmp_path / "overlay.mp4").fps == 10
    scale = pictures[0].shape[1] // WIDTH
    assert scale > 1
    red = np.array(writer.colours.of_all()[0], dtype=float)
    lefts = []
    for picture, frame in zip(pictures, frames(), strict=True):
        middle = picture[int(20.5 * scale), : WIDTH * scale].astype(float)
        plain = cv2.resize(frame.pixels, (WIDTH * scale, HEIGHT * scale), interpolation=cv2.INTER_CUBIC)
        nearer = np.linalg.norm(middle - red, axis=1) < np.linalg.norm(plain[int(20.5 * scale)] - red, axis=1) - 40
        lefts.append(np.flatnonzero(nearer)[0] / scale)
    assert lefts == pytest.approx([5, 11, 17, 23, 29], abs=1)


def test_the_overlay_has_the_sound_of_what_it_shows(tmp_path):
    source = open_video(write_source(tmp_path / "source.mp4", "aac"))
    for step, fps, has_sound in ((2, source.fps / 2, True), (2, source.fps, False)):
        write(tmp_path / str(fps), "overlay", source=source, step=step, fps=fps)
        with av.open(str(tmp_path / str(fps) / "overlay.mp4")) as container:
            assert bool(container.streams.audio) == has_sound
            assert float(container.streams.video[0].duration * container.streams.video[0].time_base) == pytest.approx(
                5 / fps
            )


def test_a_contact_sheet_shows_frames_from_all_over_the_video(tmp_path):
    for number in (1, 5, 100):
        names = [f"{i:05d}" for i in range(number)]
        write(tmp_path / str(number), "contact_sheet", content=windows(names, sizes=(number,)))
    sizes = [Image.open(tmp_path / str(number) / "contact_sheet.jpg").size for number in (1, 5, 100)]
    assert sizes[0][0] < sizes[1][0] == sizes[2][0]
    assert sizes[0][1] < sizes[1][1] < sizes[2][1]
    assert files(tmp_path / "100") == ["contact_sheet.jpg"]


@pytest.mark.parametrize("number", [1, 11, 12, 13, 25, 26, 200])
def test_the_frames_of_a_contact_sheet_are_evenly_spaced(tmp_path, monkeypatch, number):
    shown = []
    monkeypatch.setattr(
        "prediction.image_outputs.ContactSheet._sheet",
        lambda self, tiles: shown.extend(int(tile.name) for tile in tiles) or Image.new("RGB", (8, 8)),
    )
    names = [f"{i:05d}" for i in range(number)]
    write(tmp_path, "contact_sheet", content=windows(names, sizes=(number,)))
    assert shown[0] == 0
    assert len(shown) == min(number, 12)
    steps = [b - a for a, b in pairwise(shown)]
    assert all(step > 0 for step in steps)
    if steps:
        assert max(steps) <= 2 * min(steps)
        assert shown[-1] >= number - 1 - max(steps)


def test_all_formats_can_be_written_at_once_and_nothing_else_is_left(tmp_path):
    write(tmp_path, *FORMATS)
    found = files(tmp_path)
    patterns = [pattern for output in FORMATS.values() for pattern in output.patterns]
    assert {
        name for pattern in patterns for name in files(tmp_path) if (tmp_path / name) in tmp_path.glob(pattern)
    } == (set(found))
    assert set(output_markers()) == {path.name for path in tmp_path.iterdir()}


def test_what_an_earlier_run_has_left_is_deleted_and_nothing_else(tmp_path):
    write(tmp_path, *FORMATS)
    own = [tmp_path / "notes.txt", tmp_path / "masks" / "notes.txt", tmp_path / "other" / "a.png"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    write(tmp_path, "masks", "rle", content=windows(NAMES[:2], sizes=(2,)))
    expected = [f"masks/{folder}/{name}.png" for folder in FOLDERS for name in NAMES[:2]]
    expected += ["masks_rle.json", *(str(path.relative_to(tmp_path)) for path in own)]
    assert files(tmp_path) == sorted(expected)
    assert not (tmp_path / "cutouts").exists()


def test_an_interrupted_run_leaves_no_unfinished_file(tmp_path):
    def breaks():
        yield next(iter(windows()))
        raise ValueError("the video ends here")

    with pytest.raises(ValueError, match="ends here"):
        write(tmp_path, *FORMATS, content=breaks())
    left = files(tmp_path)
    assert {path.split("/")[0] for path in left} == {"masks", "palette", "cutouts"}
    assert sorted({path.rpartition("/")[2] for path in left}) == [f"{name}.png" for name in NAMES[:3]]


def test_unknown_formats_are_named():
    with pytest.raises(ValueError, match="no format is called png, gif; the formats are masks, palette"):
        outputs_of(["masks", "png", "gif"])
    with pytest.raises(ValueError, match="no format is named"):
        outputs_of([])
    assert outputs_of(["rle", "masks", "rle"]) == (FORMATS["rle"], FORMATS["masks"])
    assert outputs_of(DEFAULT_FORMATS) == (FORMATS["masks"], FORMATS["overlay"])


def test_frames_can_be_written_from_masks_alone(tmp_path):
    """As results are that were collected: the masks of the overlay are enlarged from them."""
    masks, scores = true_masks(), true_scores()
    with write_outputs(
        outputs_of(["masks", "overlay", "contact_sheet"]), folder=tmp_path, video="v", objects=OBJECTS, fps=10.0
    ) as writer:
        for time, frame in enumerate(frames()):
            result = FrameResult(frame, [True] * 3, scores[:, time].tolist(), draw=lambda at=time: list(masks[:, at]))
            assert writer.add_frame(result) == masks[:, time].sum(axis=(1, 2)).tolist()
    assert np.array(Image.open(tmp_path / "masks" / "00" / "00014.png")).sum() == 255 * masks[0, 2].sum()
    assert len(list(open_video(tmp_path / "overlay.mp4").frames())) == 5


def test_a_mask_at_another_size_covers_the_same_share():
    mask = true_masks()[1, 0]
    for size in ((20, 27), (96, 128), (480, 640)):
        resized = resized_mask(mask, size)
        assert resized.shape == size
        assert resized.mean() == pytest.approx(mask.mean(), rel=0.06)
        rows, columns = np.nonzero(resized)
        assert (columns.mean() + 0.5) / size[1] == pytest.approx(45.5 / 64, abs=0.01)
        assert (rows.mean() + 0.5) / size[0] == pytest.approx(24.5 / 48, abs=0.01)
    for value in (True, False):
        for size in ((20, 27), (480, 640)):
            assert (resized_mask(np.full((HEIGHT, WIDTH), value), size) == value).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rle", "ytvis", "coco", "contact_sheet", "overlay", "cutouts_webm"])
def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path, name):
    peaks = []
    for number in (40, 120):
        names = [f"{i:05d}" for i in range(number)]
        masks, scores = true_masks(5), true_scores(5).astype(np.float32)

        def one_by_one(names=names, masks=masks, scores=scores):
            for time, frame in enumerate(frames(names)):
                part = slice(time % 5, time % 5 + 1)
                yield WindowPrediction((frame,), tuple(predicted(masks[i, part], scores[i, part]) for i in range(3)))

        tracemalloc.start()
        with write_outputs(
            outputs_of([name]), folder=tmp_path / str(number), video="v", objects=OBJECTS, fps=10.0
        ) as writer:
            for window in one_by_one():
                writer.add(window)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 100_000


def test_frames_that_an_encoder_does_not_take_are_named(tmp_path):
    with (
        pytest.raises(ValueError, match=r"cannot encode frames of 16400 x 2 pixels .* as libx264 .*choose formats"),
        write_video(tmp_path / "wide.mp4", fps=10.0) as writer,
    ):
        writer.add(np.zeros((2, 16400, 3), dtype=np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "lookahead"), [((2160, 3840), "2"), ((1080, 1920), "40")])
def test_of_very_large_frames_few_are_kept_by_the_encoder(tmp_path, size, lookahead):
    path = tmp_path / "large.mp4"
    with write_video(path, fps=10.0) as writer:
        writer.add(np.zeros((*size, 3), dtype=np.uint8))
    # x264 writes its settings into the stream
    assert f"rc_lookahead={lookahead} ".encode() in path.read_bytes()
