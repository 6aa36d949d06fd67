"""Damage to files, and what the check says about a folder."""

import json
from collections import defaultdict

from tools.check_data import main


def check(capsys, *arguments):
    """Exit code, and name -> detail of the problems of each kind; counts aside, which tiny data never fulfil.

    Different details of one name, of one split or several, are joined by a newline. Nothing is said twice.
    """
    code = main([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert printed.out, printed.err
    found = json.loads(printed.out)
    assert code == int(found["fails"])
    details = defaultdict(lambda: defaultdict(dict))
    for split in found["splits"]:
        said = [(problem["kind"], problem["name"], problem["detail"]) for problem in split["problems"]]
        assert len(said) == len(set(said)), "a problem is reported twice"
        for kind, name, detail in said:
            if kind != "counts":
                details[kind][name][detail] = True
    return code, {kind: {name: "\n".join(lines) for name, lines in names.items()} for kind, names in details.items()}


def check_folder(capsys, folder, *arguments):
    return check(capsys, "--all", "--root", folder, *arguments)


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
