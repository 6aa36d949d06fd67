"""The blocks of code of a page, so that tests can run what it says."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: behind the fence.
        text: without the fences.
        before: the line above it that is not empty.
    """

    language: str
    text: str
    before: str

    @property
    def named_file(self) -> str:
        """The last file or folder that the line above names in backquotes."""
        return re.findall(r"`([^`]+)`", self.before)[-1]

    def commands(self) -> list[list[str]]:
        """The lines of a block of commands, split as a shell does."""
        return [shlex.split(line) for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        before = [line for line in text[: match.start()].splitlines() if line.strip()]
        found.append(Block(match[1], match[2], before[-1] if before else ""))
    return [block for block in found if not languages or block.language in languages]
