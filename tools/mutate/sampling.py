"""Which mutants are tried: drawn by a seed, spread over files by their length and over the lines of each."""

import ast
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import CodeType

from tools.mutate.finding import find_mutants
from tools.mutate.operators import Mutant
from tools.mutate.tree import tracked_files

DEFAULT_ROOTS = (
    *("models", "metrics", "datasets", "loading", "evaluation", "prediction", "media", "engine"),
    *("eval.py", "predict.py", "train.py"),
)


NOT_PRODUCT = {"benchmarks", "emulation"}
"""Folders below the roots that only measure or check: no test can know what a benchmark prints."""


def source_files(root: Path, roots: Sequence[str]) -> list[str]:
    """Python files that are one of the roots or lie below one, without those of `NOT_PRODUCT`.

    Raises:
        ValueError: if there is none.
    """
    files = [
        name
        for name in tracked_files(root)
        if name.endswith(".py")
        and NOT_PRODUCT.isdisjoint(name.split("/")[:-1])
        and any(name == source or name.startswith(f"{source.rstrip('/')}/") for source in roots)
    ]
    if not files:
        raise ValueError(f"no Python file at or below {', '.join(roots)} in {root}")
    return files


def draw(sources: Mapping[str, str], *, seed: int, count: int) -> list[Mutant]:
    """Mutants that change the compiled program, the same ones for the same sources and seed.

    Args:
        sources: path to text.
        seed: of the draw.
        count: how many; fewer only where the sources offer fewer.

    Returns:
        In order of file and position; each file has a share by its number of lines, at least one while they suffice.
    """
    candidates = {file: find_mutants(file, text) for file, text in sorted(sources.items())}
    lengths = {file: sources[file].count("\n") + 1 for file, found in candidates.items() if found}
    queues = {file: _shuffled(candidates[file], sources[file], random.Random(f"{seed} {file}")) for file in lengths}
    chosen: list[Mutant] = []
    open_files = dict(lengths)
    while len(chosen) < count and open_files:
        for file, share in shares(open_files, count - len(chosen), random.Random(f"{seed} {len(chosen)}")).items():
            taken = [mutant for mutant, _ in zip(queues[file], range(share), strict=False)]
            chosen += taken
            if len(taken) < share:
                del open_files[file]
    return sorted(chosen)


def shares(lengths: Mapping[str, int], count: int, generator: random.Random) -> dict[str, int]:
    """Splits a count over files by their lengths; a file below one gets one, while there are enough."""
    if count < len(lengths):
        names = sorted(lengths)
        drawn: dict[str, int] = {}
        while len(drawn) < count:
            name = generator.choices(names, weights=[lengths[name] for name in names])[0]
            drawn[name] = 1
        return dict(sorted(drawn.items()))
    result = dict.fromkeys(sorted(lengths), 1)
    total, rest = sum(lengths.values()), count - len(lengths)
    wanted = {name: max(0.0, count * length / total - 1) for name, length in sorted(lengths.items())}
    scale = rest / sum(wanted.values()) if any(wanted.values()) else 0.0
    parts = {name: share * scale for name, share in wanted.items()}
    for name, part in parts.items():
        result[name] += int(part)
    by_remainder = sorted(parts, key=lambda name: (int(parts[name]) - parts[name], name))
    for name in by_remainder[: count - sum(result.values())]:
        result[name] += 1
    return result


def _shuffled(mutants: Sequence[Mutant], source: str, generator: random.Random) -> Iterable[Mutant]:
    """Every useful mutant of a file: first one of each line, in random order, then the second ones, and so on."""
    by_line: dict[int, list[Mutant]] = {}
    for mutant in mutants:
        by_line.setdefault(mutant.line, []).append(mutant)
    original = signature(compile(source, "mutant", "exec"))
    while by_line:
        lines = sorted(by_line)
        generator.shuffle(lines)
        for line in lines:
            rest = by_line[line]
            operator = generator.choice(sorted({mutant.operator for mutant in rest}))
            mutant = generator.choice([mutant for mutant in rest if mutant.operator == operator])
            rest.remove(mutant)
            if not rest:
                del by_line[line]
            if is_useful(mutant, source, original):
                yield mutant


def is_useful(mutant: Mutant, source: str, original: tuple[object, ...]) -> bool:
    """Whether a mutant compiles, and to another program than the original."""
    try:
        changed = compile(ast.parse(mutant.apply(source)), "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return signature(changed) != original


def signature(code: CodeType) -> tuple[object, ...]:
    """All of a program but names of files and numbers of lines."""
    constants = tuple(
        signature(constant) if isinstance(constant, CodeType) else (type(constant).__name__, repr(constant))
        for constant in code.co_consts
    )
    return code.co_name, code.co_flags, code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars
