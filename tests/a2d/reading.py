"""How the tests of A2D-Sentences read a split."""

from datasets.a2d_sentences import A2D_SENTENCES, A2DSentencesSettings
from datasets.definition import SplitRequest
from tests.data_settings import data_config

ROWS, MISSED, VIDEOSET = (
    "text_annotations/a2d_annotation.txt",
    "text_annotations/a2d_missed_videos.txt",
    "Release/videoset.csv",
)
ANNOTATIONS = "text_annotations/a2d_annotation_with_instances"


def request_for(root, split, cache):
    return SplitRequest(A2DSentencesSettings(), root, split, cache=cache)


def read(root, split, cache):
    return A2D_SENTENCES.read(request_for(root, split, cache))


def sound_videos(root, split, cache):
    contents = read(root, split, cache)
    assert contents.problems == ()
    return contents.videos


def settings(root, tmp_path, **changes):
    return data_config("a2d_sentences", **({"root": root, "cache": tmp_path / "cache"} | changes))


def problems_of(root, split, cache):
    """(Kind, message without the root) of each problem."""
    return [(p.kind, str(p).replace(f"{root}/", "")) for p in read(root, split, cache).problems]


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
