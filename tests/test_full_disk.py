"""A full disk, a limit on file sizes and a read-only folder: one error that names the file, nothing half written.

A limit on the size of files stops writers in the same places as a full disk, and can be set for one process.
"""

import errno
import os
import resource
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from engine.distributed import World
from eval import evaluate
from evaluation.journal import Journal
from evaluation.report import EntryScore
from evaluation.submission import ExpectedMask, pack
from media.files import atomic_path, is_temporary, remove_temporary, write_json, write_text
from media.mask_png import write_binary_png
from prediction.json_outputs import JsonList
from prediction.writers import FORMATS
from tests.test_outputs import files, write
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root


@contextmanager
def largest_file(size):
    """Files of this process cannot become larger than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_last_good_file_stays(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"good": 1})
    with largest_file(100), pytest.raises(OSError, match="File too large") as caught:
        write_json(path, "x" * 1000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == '{\n  "good": 1\n}\n'
    assert files(tmp_path) == ["report.json"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_of_a_prediction_names_the_file(tmp_path, name):
    with largest_file(60), pytest.raises(OSError, match="File too large") as caught:
        write(tmp_path, name)
    first = next(iter(FORMATS[name].patterns)).split("/")[0]
    assert Path(caught.value.filename).relative_to(tmp_path).parts[0] == first
    assert files(tmp_path) == []


def test_lists_that_wait_in_the_folder_of_temporary_files_name_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with ExitStack() as stack:
        items = JsonList(stack)
        with largest_file(60), pytest.raises(OSError, match="File too large") as caught:
            items.append("x" * 100_000)
        assert caught.value.filename == str(tmp_path / "temporary")


def test_a_submission_that_cannot_be_packed_leaves_the_one_before(tmp_path):
    write_binary_png(tmp_path / "masks" / "a.png", np.eye(6, 8) > 0)
    masks = [ExpectedMask("masks/a.png", "a.png", (6, 8), {0, 255})]
    pack(tmp_path, tmp_path / "submission.zip", masks)
    before = (tmp_path / "submission.zip").read_bytes()
    with largest_file(100), pytest.raises(OSError, match="File too large") as caught:
        pack(tmp_path, tmp_path / "submission.zip", masks)
    assert caught.value.filename == str(tmp_path / "submission.zip")
    assert (tmp_path / "submission.zip").read_bytes() == before


def test_the_record_of_an_evaluation_names_its_file(tmp_path):
    with Journal(tmp_path, {}, EntryScore, World()) as journal:
        with largest_file(60), pytest.raises(OSError, match="File too large") as caught:
            journal.add("a video with a long name " * 5, [])
        assert caught.value.filename == str(tmp_path / "unfinished" / "1.jsonl")


def test_an_evaluation_goes_on_when_there_is_room_again(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    settings = {"zip_submission": True, "partial_submission": True, "workers": 1}
    config = with_busy_weights(tiny_config(root, tmp_path / "out", eval=settings))
    whole = evaluate(config.model_copy(update={"output_dir": tmp_path / "whole"}))
    size = (tmp_path / "whole" / "submission.zip").stat().st_size
    with largest_file(size - 1), pytest.raises(OSError, match="File too large") as caught:
        evaluate(config)
    assert caught.value.filename == str(tmp_path / "out" / "submission.zip")
    assert not (tmp_path / "out" / "results.json").exists()
    assert evaluate(config).reports == whole.reports
    names = [name for name in files(tmp_path / "whole") if not name.startswith("results")]
    for name in names:
        if name != "submission.zip":  # holds times
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert [name for name in files(tmp_path / "out") if not name.startswith("results")] == names


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can mount a small disk")
def test_a_disk_that_is_full_or_read_only_is_named(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        write_text(disk / "good.txt", "good")
        with pytest.raises(OSError, match="No space left") as caught:
            write_text(disk / "good.txt", "x" * 100_000)
        assert caught.value.filename == str(disk / "good.txt")
        assert (disk / "good.txt").read_text() == "good"
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(OSError, match="Read-only") as caught:
            write_text(disk / "good.txt", "other")
        assert caught.value.filename == str(disk / "good.txt")
        with pytest.raises(OSError, match="Read-only"):
            write_text(disk / "new" / "file.txt", "other")
        assert files(disk) == ["good.txt"]
    finally:
        subprocess.run(["umount", disk], check=True)


# ---- a power cut ----


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_is_used(tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(file):
        events.append(("sync", Path(f"/proc/self/fd/{file}").readlink()))
        real_sync(file)

    def replace(path, target):
        events.append(("rename", target))
        return real_replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    path = tmp_path / "new" / "report.txt"
    write_text(path, "content")
    assert events[0] == ("sync", tmp_path), "the name of the new folder"
    assert events[1][0] == "sync"
    assert is_temporary(events[1][1])
    assert events[2:] == [("rename", path), ("sync", path.parent)]
    events.clear()
    with atomic_path(path, durable=False) as temporary:
        temporary.write_text("one of many")
    assert events == [("rename", path)]


def test_file_systems_that_have_nothing_to_wait_for_are_written_to(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "a.txt", "content")
    assert (tmp_path / "a.txt").read_text() == "content"


def test_a_disk_that_fails_when_it_is_waited_for_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "before")

    def fail(file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write_text(path, "after")
    assert path.read_text() == "before"


def test_what_killed_runs_left_half_written_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "masks").mkdir()
    with atomic_path(tmp_path / "masks" / "00000.png") as temporary:
        left = temporary.with_name(temporary.name.replace(".00000", ".00001"))
        left.write_text("half")
        temporary.write_text("whole")
    kept = [".hidden", ".00001.png", ".a.0123456789abcdeg.png", "a.0123456789abcdef.png"]
    for name in kept:
        (tmp_path / name).write_text("")
    assert left.exists()
    remove_temporary(tmp_path)
    assert files(tmp_path) == sorted([*kept, "masks/00000.png"])
