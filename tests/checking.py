"""Damage to files, and what the check says about a folder."""

import json
from collections import defaultdict

from tools.check_data import main


def check(capsys, *arguments):
    """Exit code, and name -> detail of the problems of each kind; counts aside, which tiny data never fulfil."""
    code = main([*map(str, arguments), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == int(found["fails"])
    problems = defaultdict(dict)
    for split in found["splits"]:
        for problem in split["problems"]:
            if problem["kind"] != "counts":
                problems[problem["kind"]][problem["name"]] = problem["detail"]
    return code, dict(problems)


def check_folder(capsys, folder, *arguments):
    return check(capsys, "--all", "--root", folder, *arguments)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
