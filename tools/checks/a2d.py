"""A2D-Sentences: what its lists, clips and annotation files say about each other."""

from pathlib import Path

from datasets.a2d_files import SUBSETS, A2DFiles, read_instances, read_missed, read_rows, read_videoset
from loading.loaders import open_split
from tools.checks.files import has_windows_line_ends
from tools.checks.split import Format, SplitCheck


def _examine(check: SplitCheck) -> None:
    try:
        files = A2DFiles.below(check.root)
        videoset, rows, missed = (
            read_videoset(files.videoset),
            read_rows(files.annotation),
            read_missed(files.missed),
        )
    except ValueError:
        return  # the loader has said so
    check.shared.add(files.clips)
    for path in (files.videoset, files.annotation, files.missed):
        if has_windows_line_ends(path):
            check.add("line_ends", path)
    spoken_of = {row.video for row in rows}
    names = sorted(video for video in spoken_of & set(videoset) if videoset[video][1] == SUBSETS[check.split])
    if check.source is None:
        _name_damaged(check, files, names)
        _open_the_rest(check)
    else:
        _note_unseen(check)
    for video in sorted(set(videoset) - spoken_of - missed):
        check.add("surplus", f"video {video}", f"in {files.videoset.name}, but without a sentence")
    for name in sorted(check.names.inside(files.clips) - {f"{video}.mp4" for video in videoset}):
        check.add("surplus", files.clips / name)
    for name in sorted(check.names.inside(files.instances) - spoken_of):
        check.add("surplus", files.instances / name, "no sentence is about it")


def _name_damaged(check: SplitCheck, files: A2DFiles, names: list[str]) -> None:
    """Every annotation file that keeps the loader from starting; it names the first only."""
    for video in names:
        folder = files.instances / video
        found = sorted(name for name in check.names.inside(folder) if name.endswith(".h5"))
        if not found:
            check.add("missing", f"{check.names.show(folder)}/", "no annotation file (*.h5) of this video")
        for name in found:
            try:
                read_instances(folder / name)
            except ValueError as error:
                check.add("unreadable", folder / name, str(error).partition(": ")[2])


def _open_the_rest(check: SplitCheck) -> None:
    """What the loader makes of the data when it may leave damaged files out."""
    check.is_partial = True
    settings = {"root": check.root, "on_error": "skip"}
    try:
        check.records = open_split(check.data.model_copy(update=settings), check.split).videos
    except ValueError:
        check.records = ()


def _note_unseen(check: SplitCheck) -> None:
    """Actors of sentences that no annotation file of their video names."""
    for video in check.records:
        for expression in video.expressions:
            if not video.visible[expression.object_ids[0]]:
                check.add("unseen", f"video {video.name}, object {expression.name}", "in no annotated frame")


def _is_a2d(root: Path) -> bool:
    return (root / "Release" / "videoset.csv").is_file() or (root / "text_annotations" / "a2d_annotation.txt").is_file()


A2D_SENTENCES = Format(
    dataset="a2d_sentences",
    title="A2D-Sentences",
    recognises=_is_a2d,
    configurations=lambda root: [({}, tuple(SUBSETS))],
    examine=_examine,
)
