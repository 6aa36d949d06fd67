"""Check this implementation against recorded numbers of the published SOC: `python -m tools.parity DIR`.

DIR is a folder in the format of `tests/parity` (its README explains it): `fixtures/manifest.json`, `fixtures/*.npz` and
`specs/*.json`. Everything runs in float64, in which the recorded numbers were made, so that the bounds can be narrow.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from engine.last_net import Command, run_command
from structures.user_path import user_path
from tools.parity.checking import PARITY_FOLDER, check_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 if every fixture passes, 1 if one does not, 2 for a wrong call."""
    return run_command(_run, program="python -m tools.parity", arguments=arguments, prefix="parity")


def _run(command: Command) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.parity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=user_path, nargs="?", default=PARITY_FOLDER, help="default: tests/parity")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="fixtures whose names hold a PART")
    options = parser.parse_args(command.arguments)
    torch.set_default_dtype(torch.float64)
    results = check_folder(options.folder, options.only)
    passed = sum(result.passed for result in results.values())
    sys.stdout.write(f"{passed} of {len(results)} fixtures ok\n")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
