"""Pictures and videos are read as a viewer shows them."""

import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from PIL import Image

from media.images import image_size, read_rgb, read_shown, shown_size
from media.limits import MEGAPIXELS_VARIABLE
from media.mask_png import read_index_png
from media.video import open_video
from media.video_stream import KeptPixels, ShownPixels
from tests.video_files import moving_pictures, write_video

# four colours, so that every turn and mirroring is another picture
CORNERS = np.zeros((4, 6, 3), dtype=np.uint8)
CORNERS[:2, :3], CORNERS[:2, 3:], CORNERS[2:, :3], CORNERS[2:, 3:] = (
    (200, 0, 0),
    (0, 200, 0),
    (0, 0, 200),
    (200, 200, 0),
)

# by the EXIF standard: where the first row and the first column of the stored pixels belong
UPRIGHT = {
    1: lambda p: p,  # top, left
    2: lambda p: p[:, ::-1],  # top, right
    3: lambda p: p[::-1, ::-1],  # bottom, right
    4: lambda p: p[::-1],  # bottom, left
    5: lambda p: p.transpose(1, 0, 2),  # left, top
    6: lambda p: p.transpose(1, 0, 2)[:, ::-1],  # right, top
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda p: p.transpose(1, 0, 2)[::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photograph_is_turned_and_mirrored_as_its_exif_data_say(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(CORNERS).save(tmp_path / "photo.png", exif=exif)
    expected = UPRIGHT[orientation](CORNERS)
    np.testing.assert_array_equal(read_shown(tmp_path / "photo.png"), expected)
    assert shown_size(tmp_path / "photo.png") == expected.shape[:2]
    # the masks of data sets lie on the stored pixels
    np.testing.assert_array_equal(read_rgb(tmp_path / "photo.png"), CORNERS)
    assert image_size(tmp_path / "photo.png") == CORNERS.shape[:2]


def deep_png(channels: int, values: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, which Pillow writes for grey only."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.reshape(height, -1))
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = [
        (b"IHDR", struct.pack(">2I5B", width, height, 16, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_of_16_bits_per_channel_the_higher_eight_are_shown(tmp_path, channels):
    values = np.random.default_rng(0).integers(0, 2**16, (5, 7, channels)).astype(np.uint16)
    if channels in (2, 4):
        values[..., -1] = 2**16 - 1
    path = tmp_path / "deep.png"
    path.write_bytes(deep_png(channels, values))
    colours = values[..., : 3 if channels > 2 else 1] >> 8
    expected = np.broadcast_to(colours, (5, 7, 3)).astype(np.uint8)
    for read in (read_shown, read_rgb):
        np.testing.assert_allclose(read(path).astype(int), expected.astype(int), atol=1)
    np.testing.assert_array_equal(next(iter(open_video(path).frames())).pixels, read_shown(path))


@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_grey_tiff_of_16_bits_is_shown_in_either_byte_order(tmp_path, byte_order):
    values = np.linspace(0, 65535, 35).reshape(5, 7).astype(byte_order)
    mode = {"<u2": "I;16", ">u2": "I;16B"}[byte_order]
    image = Image.frombytes(mode, (7, 5), values.tobytes())
    image.save(tmp_path / "deep.tif")
    np.testing.assert_array_equal(read_shown(tmp_path / "deep.tif")[..., 1], values.astype(int) >> 8)


def test_values_of_32_bits_are_refused_by_name(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif: an image with values of 32 bits; convert it to 8 or 16 bits"):
        read_shown(tmp_path / "float.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    picture = Image.new("RGBA", (4, 2), (40, 40, 40, 255))
    picture.paste((90, 90, 90, 0), (0, 0, 2, 2))
    if mode == "P":
        picture = picture.quantize(4)
    picture.convert(mode).save(tmp_path / "frame.png")
    shown = read_shown(tmp_path / "frame.png")
    assert (shown[:, :2] == 255).all()
    assert (shown[:, 2:] == 40).all()


def test_palettes_black_and_white_and_cmyk_have_their_colours(tmp_path):
    red = Image.new("RGB", (8, 8), (200, 40, 40))
    red.quantize(2).save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "bits.png")
    for name in ("palette.png", "cmyk.jpg"):
        np.testing.assert_allclose(read_shown(tmp_path / name).astype(int), np.array(red).astype(int), atol=8)
    np.testing.assert_array_equal(read_shown(tmp_path / "bits.png")[..., 0], 255 * np.eye(8, dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_an_animated_image_is_a_video(tmp_path, suffix):
    frames = [np.full((8, 12, 3), (20 * i, 200 - 20 * i, 100), dtype=np.uint8) for i in range(6)]
    first, *others = [Image.fromarray(frame) for frame in frames]
    path = tmp_path / f"animation{suffix}"
    durations = [100, 100, 300, 100, 100, 100]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, lossless=True)
    source = open_video(path)
    shown = list(source.frames())
    np.testing.assert_array_equal([frame.pixels for frame in shown], frames)
    assert [frame.seconds for frame in shown] == pytest.approx([0, 0.1, 0.2, 0.5, 0.6, 0.7])
    assert source.fps == pytest.approx(6 / 0.8)
    part = list(source.frames(2, start=1, stop=5))
    assert [(frame.index, frame.name) for frame in part] == [(1, "00001"), (3, "00003")]
    np.testing.assert_array_equal([frame.pixels for frame in part], frames[1:5:2])


def test_of_an_animated_png_the_picture_for_other_programs_is_no_frame(tmp_path):
    frames = [Image.new("RGB", (6, 4), (40 * i, 0, 0)) for i in range(4)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, default_image=True)
    assert [frame.pixels[0, 0, 0] for frame in open_video(tmp_path / "a.png").frames()] == [40, 80, 120]


def test_an_animated_image_among_frames_is_one_frame(tmp_path):
    frames = [Image.new("RGB", (6, 4), (40 * i, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "0.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    frames[1].save(tmp_path / "1.png")
    assert [frame.pixels[0, 0, 0] for frame in open_video(tmp_path).frames()] == [0, 40]


def test_an_animated_gif_is_a_video(tmp_path):
    frames = [Image.new("RGB", (16, 8), (60 * i, 0, 0)) for i in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[100, 300, 100, 100])
    shown = list(open_video(tmp_path / "a.gif").frames())
    assert [int(frame.pixels[0, 0, 0]) for frame in shown] == [0, 60, 120, 180]
    assert [frame.seconds for frame in shown] == pytest.approx([0, 0.1, 0.4, 0.5])


@pytest.mark.parametrize("position", range(0, 60, 3))
def test_headers_that_are_damaged_are_named(tmp_path, position):
    """Pillow has errors of many kinds for them, which name no file."""
    frames = [Image.new("RGB", (6, 4), (40 * i, 0, 0)) for i in range(3)]
    path = tmp_path / "a.png"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    content = bytearray(path.read_bytes())
    content[position] ^= 0x15
    path.write_bytes(content)
    messages = []
    for read in (read_shown, shown_size, image_size, read_rgb):
        try:
            read(path)
        except ValueError as error:
            messages.append(str(error))
    assert all(message.startswith(f"{path}: ") for message in messages)


# ---- videos ----

MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, :, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[:, ::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda p: p[:, ::-1, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(0, 2, 1, 3)),
    "a quarter": ((0, 1, -1, 0), lambda p: p.transpose(0, 2, 1, 3)[:, :, ::-1]),
    "three quarters": ((0, -1, 1, 0), lambda p: p.transpose(0, 2, 1, 3)[:, ::-1]),
    "transposed the other way": ((0, -1, -1, 0), lambda p: p.transpose(0, 2, 1, 3)[:, ::-1, ::-1]),
}
"""The matrix (a, b, c, d) of a track: x and y of a step to the right, x and y of a step down. Checked against what the
command of FFmpeg writes for such files."""


@pytest.mark.parametrize("case", MATRICES)
def test_a_video_is_turned_and_mirrored_as_its_matrix_says(tmp_path, case, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", moving_pictures(4), options={"crf": "10"})
    stored = np.stack([frame.pixels for frame in open_video(path).frames()])
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    matrix, shown = MATRICES[case]
    a, b, c, d = (entry << 16 for entry in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    np.testing.assert_array_equal([frame.pixels for frame in open_video(path).frames()], shown(stored))
    # large frames are kept as they are decoded, and give the same pixels whenever they are asked
    monkeypatch.setattr("media.video.LARGE_PIXELS", 0)
    kept = list(open_video(path).frames())
    assert {type(frame.content) for frame in kept} == {KeptPixels}
    assert {frame.size for frame in kept} == {shown(stored).shape[1:3]}
    assert all(frame.num_bytes == frame.pixels.nbytes for frame in kept)
    for _ in range(2):
        np.testing.assert_array_equal([frame.pixels for frame in reversed(kept)], shown(stored)[::-1])


def test_two_threads_do_not_convert_a_large_frame_at_the_same_time(monkeypatch):
    """PyAV crashes where they do: prediction resizes a frame for the next window while the one before is written."""
    at_work, most = [], []

    def slow(self, decoded):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.02)
        at_work.pop()
        return np.zeros((2, 4, 3), dtype=np.uint8)

    monkeypatch.setattr(ShownPixels, "of", slow)
    kept = KeptPixels(ShownPixels(width=4, height=2), av.VideoFrame(4, 2, "yuv420p"))
    with ThreadPoolExecutor(4) as pool:
        assert [pixels.shape for pixels in pool.map(lambda _: kept.make(), range(8))] == [(2, 4, 3)] * 8
    assert max(most) == 1


GREEN = (32, 192, 64)


@pytest.mark.parametrize(("space", "full_range"), [("BT709", False), ("BT709", True), ("BT601", False)])
def test_colours_are_those_of_the_colour_space_that_a_video_names(tmp_path, space, full_range):
    """The bytes are made here, by the definitions of the standards, so that no converter is tested with itself."""
    red_weight, blue_weight = {"BT709": (0.2126, 0.0722), "BT601": (0.299, 0.114)}[space]
    red, green, blue = (value / 255 for value in GREEN)
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = (blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)
    offset, scale, chroma_scale = (0, 255, 255) if full_range else (16, 219, 224)
    values = [offset + scale * luma, *(128 + chroma_scale * value for value in chroma)]
    path = tmp_path / "green.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv444p"
        number = {"BT709": 1, "BT601": 6}[space]
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = number
        codec.color_range = 2 if full_range else 1
        for _ in range(3):
            planes = np.stack([np.full((180, 320), round(value), dtype=np.uint8) for value in values])
            frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            frame.colorspace, frame.color_range = number, 2 if full_range else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for frame in open_video(path).frames():
        np.testing.assert_allclose(frame.pixels.reshape(-1, 3).astype(int).mean(axis=0), GREEN, atol=5)


def cover(path, *, video):
    """A video, or a song, after a cover."""
    with av.open(str(path), "w") as container:
        song = container.add_stream("libmp3lame", rate=44100) if not video else None
        attached = container.add_stream("mjpeg", rate=1)
        attached.width, attached.height, attached.pix_fmt = 30, 30, "yuvj420p"
        attached.disposition = av.stream.Disposition.attached_pic.value
        film = container.add_stream("libx264", rate=10) if video else None
        if film is not None:
            film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
            frames = [av.VideoFrame.from_ndarray(pixels, format="rgb24") for pixels in moving_pictures(5)]
        picture = av.VideoFrame.from_ndarray(np.full((30, 30, 3), 200, dtype=np.uint8), format="rgb24")
        container.mux(attached.encode(picture))
        container.mux(attached.encode(None))
        if film is not None:
            for frame in frames:
                container.mux(film.encode(frame))
            container.mux(film.encode(None))
        if song is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), dtype=np.float32), format="fltp", layout="mono")
            silence.sample_rate = 44100
            container.mux(song.encode(silence))
            container.mux(song.encode(None))


def test_a_cover_is_not_the_video(tmp_path):
    cover(tmp_path / "film.mp4", video=True)
    frames = list(open_video(tmp_path / "film.mp4").frames())
    assert [frame.pixels.shape for frame in frames] == [(48, 64, 3)] * 5


def test_a_song_with_a_cover_is_no_video(tmp_path):
    cover(tmp_path / "song.mp3", video=False)
    with pytest.raises(ValueError, match=r"song\.mp3: holds no pictures, only a cover picture"):
        open_video(tmp_path / "song.mp3")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_know_when_a_player_shows_them(tmp_path, suffix):
    times = [0, 1, 2, 7, 8, 20, 21, 22, 40, 41]
    path = write_video(tmp_path / f"clip{suffix}", moving_pictures(10), pts=[100 + t for t in times])
    frames = list(open_video(path).frames())
    assert [frame.seconds for frame in frames] == pytest.approx([t / 25 for t in times], abs=0.002)
    assert [frame.seconds for frame in open_video(path).frames(3, start=1)] == pytest.approx(
        [t / 25 for t in times[1::3]], abs=0.002
    )


def test_without_time_stamps_frames_are_counted(tmp_path):
    path = write_video(tmp_path / "clip.h264", moving_pictures(6), options={"bf": "2"})
    seconds = [frame.seconds for frame in open_video(path).frames()]
    assert seconds == pytest.approx(np.arange(6) / 25, abs=0.09)
    assert seconds == sorted(seconds)


def test_texts_of_a_video_may_be_in_any_encoding(tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLETITLE"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pixels in moving_pictures(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"TITLETITLE", b"\xf5\xff\xfe\x80TITLE\xff"))
    assert len(list(open_video(path).frames())) == 3


# ---- claims ----


def test_a_picture_that_claims_gigapixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    header = struct.pack(">2I5B", 60000, 60000, 8, 0, 0, 0, 0)
    path = tmp_path / "huge.png"
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 4) + b"IDAT" + bytes(8))
    message = r"huge\.png: claims 60000 x 60000 pixels .* limit of 100 megapixels; .*SOC_MAX_MEGAPIXELS=3600"
    for read in (read_rgb, read_shown, image_size, shown_size, read_index_png):
        with pytest.raises(ValueError, match=message):
            read(path)
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "3600")
    assert image_size(path) == (60000, 60000)


def test_the_limit_can_be_raised_and_lowered_by_a_setting(tmp_path, monkeypatch):
    Image.new("L", (200, 100)).save(tmp_path / "mask.png")
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.02")
    assert read_index_png(tmp_path / "mask.png").shape == (100, 200)
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.019")
    with pytest.raises(ValueError, match=r"mask\.png: claims 200 x 100 pixels .* SOC_MAX_MEGAPIXELS=1$"):
        read_index_png(tmp_path / "mask.png")
    for wrong in ("many", "nan", "-1", "0"):
        monkeypatch.setenv(MEGAPIXELS_VARIABLE, wrong)
        with pytest.raises(ValueError, match=f"SOC_MAX_MEGAPIXELS='{wrong}' must be a number above 0"):
            read_index_png(tmp_path / "mask.png")


def test_the_limit_holds_for_videos(tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", moving_pictures(3))
    monkeypatch.setenv(MEGAPIXELS_VARIABLE, "0.001")
    with pytest.raises(ValueError, match=r"clip\.mp4: claims 64 x 48 pixels"):
        open_video(path)
