"""Fetches pretrained encoders into the user's cache: `python -m tools.get_encoders small`.

`small` is the pair that fits a CPU: `tf_efficientnet_lite0` for frames and `all-MiniLM-L6-v2` for sentences, 106 MB.
Settings name the folder as `{encoders}`; see docs/encoders.md.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from engine.last_net import Command, run_command
from models.encoder_files import ENCODERS_VARIABLE, encoders_folder, fetch_small_pair
from structures.user_path import user_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, program="python -m tools.get_encoders", arguments=arguments, prefix="get_encoders")


def _run(command: Command) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.get_encoders", description=__doc__)
    parser.add_argument("what", choices=("small",), help="which encoders")
    parser.add_argument(
        "--folder",
        type=user_path,
        help=f"where they go; {ENCODERS_VARIABLE}, or a folder in the user's cache, unless given",
    )
    options = parser.parse_args(command.arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = options.folder or encoders_folder()
    fetch_small_pair(folder)
    sys.stdout.write(f"{folder}: complete\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
