"""Files and state of visitors: a folder each, deleted when the visitor leaves or has been idle for an hour."""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from soc_rvos import Segmenter
from tools.web.answers import Answered
from tools.web.teaching import Lesson

LIFETIME_SECONDS = 3600.0
SWEEP_SECONDS = 300.0


@dataclass(eq=False)
class Session:
    """One visitor.

    Attributes:
        folder: of everything that is written for the visitor; its name says nothing about who it is.
        last_seen: when the visitor last did something, by the clock of the process.
        answered: the last answers.
        taught: the taught model, once it was loaded.
        lesson: the teaching that runs, or has run.
        labels: painted masks, by the number of their frame.
        is_stopped: the visitor wants no answer to the last question any more.
        is_closed: the visitor has left, and nothing more shall be written.
    """

    folder: Path
    last_seen: float
    answered: Answered | None = None
    taught: Segmenter | None = None
    lesson: Lesson | None = None
    labels: dict[int, UInt8[np.ndarray, "height width"]] = field(default_factory=dict)
    is_stopped: bool = False
    is_closed: bool = False

    def new_folder(self, kind: str) -> Path:
        """A name in the folder of the visitor at which nothing is yet."""
        return self.folder / f"{kind}-{secrets.token_hex(8)}"

    def keep(self, upload: Path) -> Path:
        """An uploaded file as one of the visitor's own, under a name of its own; kept as long as the visitor stays."""
        target = self.new_folder("upload")
        target.mkdir()
        kept = target / f"video{upload.suffix.lower()}"
        try:
            os.link(upload, kept)
        except OSError:  # another file system
            shutil.copyfile(upload, kept)
        return kept

    def require_wanted(self) -> None:
        """Raises ValueError if nobody waits for the answer any more."""
        if self.is_stopped or self.is_closed:
            raise ValueError("stopped")

    def close(self) -> None:
        """Stops what runs for the visitor, and deletes the files."""
        self.is_closed = True
        if self.lesson is not None:
            self.lesson.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Sessions:
    """All visitors, and the one folder in which everything of theirs lies.

    Args:
        root: an empty folder; below it `uploads` takes what browsers send.
        clock: in seconds.
    """

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self.uploads = root / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def get(self, name: str) -> Session:
        """The session of a browser tab; a new one where it is unknown, or has been deleted.

        Args:
            name: by which the browser calls it; never part of a path.
        """
        with self._lock:
            session = self._sessions.get(name)
            if session is None:
                folder = self.root / f"session-{secrets.token_hex(16)}"
                folder.mkdir()
                session = self._sessions[name] = Session(folder, self._clock())
            session.last_seen = self._clock()
            return session

    def end(self, name: str) -> None:
        """Deletes everything of a session; with the last one all uploads go."""
        with self._lock:
            session = self._sessions.pop(name, None)
            is_last = not self._sessions
        if session is not None:
            session.close()
            if is_last:
                _delete_files(self.uploads, before=float("inf"))

    def sweep(self) -> None:
        """Deletes sessions that nobody has used for an hour, uploads of that age, and what is nobody's."""
        oldest = self._clock() - LIFETIME_SECONDS
        with self._lock:
            names = [
                name
                for name, session in self._sessions.items()
                if session.last_seen < oldest and not (session.lesson is not None and session.lesson.is_running)
            ]
        for name in names:
            self.end(name)
        _delete_files(self.uploads, before=oldest)
        self._delete_left_behind()

    def _delete_left_behind(self) -> None:
        """Deletes what work that could not be stopped at once has written for visitors who had left."""
        with self._lock:
            known = {session.folder for session in self._sessions.values()}
            for folder in self.root.glob("session-*"):
                if folder not in known:
                    shutil.rmtree(folder, ignore_errors=True)

    def sweep_regularly(self) -> threading.Thread:
        """Sweeps every few minutes in a thread that ends with the process."""

        def run() -> None:
            while True:
                time.sleep(SWEEP_SECONDS)
                self.sweep()

        thread = threading.Thread(target=run, name="sweep", daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Deletes everything."""
        for name in list(self._sessions):
            self.end(name)
        shutil.rmtree(self.root, ignore_errors=True)


def _delete_files(folder: Path, *, before: float) -> None:
    """Deletes files that were last changed before a time, and folders that are empty by then."""
    for path in sorted(folder.rglob("*"), reverse=True):
        try:
            if path.is_dir() and not path.is_symlink():
                if path.stat().st_mtime < before and not any(path.iterdir()):
                    path.rmdir()
            elif path.lstat().st_mtime < before:
                path.unlink()
        except FileNotFoundError:  # gone meanwhile
            continue
