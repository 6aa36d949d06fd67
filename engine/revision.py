"""Which commit of this code runs. PyTorch is not imported, so that it can be said when that fails."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git_revision() -> str:
    """Commit of the code, with `-dirty` if files differ from it; `unknown` outside a repository of its own.

    Installed, the code may lie inside of somebody else's repository.
    """
    if not (ROOT / ".git").exists():
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
