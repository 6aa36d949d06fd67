"""From YAML files and command-line overrides to one typed `Config`; all errors are reported at once.

A file may name another one in `base:` and is merged into it: sections key by key, everything else (lists, too)
replaces the earlier value. Overrides such as `optim.lr=1e-5` come last. Every value remembers the file and the line it
came from, so that an error can point there.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from configs.schema import Config
from configs.schema_keys import LISTS_OF_SETS, section_at, suggest_key, value_at
from configs.yaml_tree import (
    KeyPath,
    Origin,
    YamlTree,
    dotted,
    read_tree,
    read_value,
    show_path,
    suggest_file,
    write_tree,
)
from datasets.table import DATASETS
from structures.user_path import user_path
from structures.wording import one_line, show_value

COMMAND_LINE = "command line"
DATA_ROOT_VARIABLE = "SOC_DATA_ROOT"
MAX_BASES = 32
MAX_PARTS = 32
"""Of a dotted key."""

MAX_PROBLEMS = 50
"""That are told at once."""

STAGE_SECTIONS = ("data", "loss", "optim")  # sections of a stage that start from the ones of the same name at the top

ERROR_TEXT = {
    "missing": "missing key",
    "model_type": "expected a section (key: value lines)",
    "model_attributes_type": "expected a section such as {dataset: mevis}",  # the union of settings of data sets
    "tuple_type": "expected a list",
    "string_type": "expected text; put it in quotes",
    "path_type": "expected a path; put it in quotes",
}


class ConfigError(ValueError):
    """A configuration that cannot be used.

    Attributes:
        problems: one line each, `file:line: key: what is wrong`.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        told = tuple(dict.fromkeys(problems))
        rest = len(told) - MAX_PROBLEMS
        self.problems = told if rest <= 0 else (*told[:MAX_PROBLEMS], f"... and {rest} more problems")
        super().__init__("\n".join(self.problems))


@dataclass(slots=True)
class Draft:
    """A configuration that is being put together.

    Attributes:
        values: plain nested dicts, lists and scalars.
        origins: where each key came from.
        problems: of the configuration so far.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def origin(self, key: KeyPath) -> Origin:
        """The origin of `key`, or that of the nearest section above it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.origins:
                section = self.origins[key[:length]]
                rest = dotted(key[length:])
                return Origin(section.location, f"{section.key}.{rest}" if rest else section.key)
        return Origin("configuration", dotted(key))

    def report(self, origin: Origin, message: str) -> None:
        """Notes a problem."""
        self.problems.append(f"{origin.location}: {origin.key}: {message}")

    def forget(self, keys: Collection[KeyPath]) -> None:
        """Drops the origins of `keys` and of all below them."""
        for known in [known for known in self.origins if is_below(known, keys)]:
            del self.origins[known]


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in `path` and its bases, changed by `overrides`.

    Args:
        path: a YAML file; `configs/NAME.yaml` is found from anywhere, unless there is another file of that name.
        overrides: `dotted.key=value`, values as in YAML; later ones win. `data.*`, `loss.*` and `optim.*` reach every
            stage, also one that names the key itself; `stages.0.optim.lr=...` changes one stage. An entry of a list,
            such as `data.sets.0.root=...`, is also changed in a stage's own list where that has an entry at the same
            index, of the same data set; elsewhere the stage's own list stays as it is. Lists that nothing names start
            from the defaults of the schema.

    Raises:
        ConfigError: with all problems found.
    """
    draft = Draft()
    read_file(draft, find_recipe(user_path(path)), chain=())
    if draft.problems:  # keys of an unreadable file are unknown: errors about them would mislead
        raise ConfigError(draft.problems)
    inherit_into_stages(draft)
    for override in overrides:
        apply_override(draft, override)
        inherit_into_stages(draft)  # stages may come from the command line, too
    take_root_from_environment(draft)
    config = validate(draft)
    if config is None or draft.problems:
        raise ConfigError(draft.problems)
    return config


def dump_config(config: Config) -> str:
    """All keys of `config` with their values, as YAML that `load_config` reads."""
    return write_tree(config.model_dump(mode="json"))


# ---- reading files ----


def find_recipe(path: Path) -> Path:
    """The path itself, or the recipe of this name beside this module: an installation has no folder `configs`."""
    shipped = Path(__file__).with_name(path.name)
    is_shipped = path.parent == Path("configs") and shipped.is_file() and not path.exists()
    return shipped if is_shipped else path


def read_file(draft: Draft, path: Path, chain: tuple[Path, ...]) -> None:
    """Merges `path` into the draft, its bases first. `chain`: the files that name it as their base."""
    try:
        tree = read_tree(path)
    except ValueError as error:
        draft.problems.append(str(error))
        return
    if "base" in tree.values:
        read_base(draft, tree.values.pop("base"), tree.origins[("base",)], (*chain, path))
    merge(draft, tree)


def read_base(draft: Draft, base: object, origin: Origin, chain: tuple[Path, ...]) -> None:
    """Merges the file that the last file of `chain` names as its base."""
    if not isinstance(base, str) or not base:
        draft.report(origin, f"expected the path of a YAML file, relative to this one, got {show_value(base)}")
        return
    if len(chain) > MAX_BASES:
        draft.report(origin, f"more than {MAX_BASES} files that are based on each other")
        return
    target = chain[-1].parent / user_path(base)
    try:
        is_there = target.is_file()
    except OSError as error:  # such as a name that is too long
        draft.report(origin, f"{show_path(target)}: {error.strerror}")
        return
    if not is_there:
        draft.report(origin, f"no such file: {show_path(target)}{suggest_file(target)}")
        return
    if any(target.resolve() == visited.resolve() for visited in chain):
        circle = " -> ".join(show_path(step) for step in (*chain, target))
        draft.report(origin, f"files that are based on each other: {circle}")
        return
    read_file(draft, target, chain)


# ---- merging ----


def merge(draft: Draft, tree: YamlTree) -> None:
    """Merges a file into the draft: sections key by key, the rest replaces."""
    replaced: set[KeyPath] = set()

    def into(target: dict[str, Any], source: Mapping[str, Any], key: KeyPath) -> None:
        for name, value in source.items():
            here = (*key, name)
            if isinstance(value, dict) and isinstance(target.get(name), dict):
                into(target[name], value, here)
                continue
            replaced.add(here)
            target[name] = value

    into(draft.values, tree.values, ())
    draft.forget(replaced)
    draft.origins |= {known: origin for known, origin in tree.origins.items() if is_below(known, replaced)}


def is_below(key: KeyPath, sections: Collection[KeyPath]) -> bool:
    """Whether `key` is one of the sections or lies in one."""
    return any(key[:length] in sections for length in range(1, len(key) + 1))


def apply_override(draft: Draft, override: str) -> None:
    """Applies `dotted.key=value`."""
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts) or len(parts) > MAX_PARTS:
        draft.problems.append(f"{COMMAND_LINE}: {one_line(override)}: expected key=value, such as optim.lr=1e-5")
        return
    try:
        value = read_value(text)
        make_way(draft, (), parts)
        reached = [("stages", i) for i, stage in stages_of(draft) if reaches(draft, stage, parts)]
        for start in ((), *reached):
            set_value(draft, start, parts, value)
    except ValueError as error:
        draft.problems.append(f"{COMMAND_LINE}: {one_line(name)}: {error}")


def reaches(draft: Draft, stage: Mapping[str, Any], parts: Sequence[str]) -> bool:
    """Whether an override of the top-level key `parts` changes the same key of `stage`.

    It does in the sections that stages inherit, and there in the entries of lists that are of the same data set in
    both places: the stage's own list may hold something else at that index.
    """
    if parts[0] not in STAGE_SECTIONS or not isinstance(stage[parts[0]], dict):
        return False
    shared: Any = draft.values
    own: Any = stage
    for part in parts:
        if isinstance(own, list):
            index = list_index(own, part)
            if index is None:
                return False
            shared, own = value_at(shared, index), own[index]
            if value_at(shared, "dataset") != value_at(own, "dataset"):
                return False
        else:
            shared, own = value_at(shared, part), value_at(own, part)
    return True


def set_value(draft: Draft, start: KeyPath, parts: Sequence[str], value: Any) -> None:
    """Puts `value` at the dotted key `parts` below `start`; a section is merged key by key.

    Raises:
        ValueError: if the way leads through a single value or past the end of a list.
    """
    if isinstance(value, dict) and (value or section_at(draft.values, (*start, *parts)) is not None):
        for name, item in value.items():
            set_value(draft, start, (*parts, name), item)
        return
    node, key = make_way(draft, start, parts)
    node[key[-1]] = deepcopy(value)  # lists are changed in place: top and stages must not share one
    draft.forget((key,))
    draft.origins[key] = Origin(COMMAND_LINE, dotted(tuple(parts)))


def make_way(draft: Draft, start: KeyPath, parts: Sequence[str]) -> tuple[Any, KeyPath]:
    """Goes to the dotted key `parts` below `start`, making sections and default lists on the way.

    Returns:
        The section or list that holds the key, and the key, with numbers as indices of lists.

    Raises:
        ValueError: if the way leads through a single value or past the end of a list.
    """
    node: Any = draft.values
    for above in start:
        node = node[above]
    key = start
    for depth, part in enumerate(parts, start=1):
        step = list_index(node, part) if isinstance(node, list) else part
        if step is None:
            raise ValueError(f"{dotted(key)} has {len(node)} entries, counted from 0; there is no {show_value(part)}")
        if not isinstance(node, dict | list):
            raise ValueError(f"{dotted(key)} is a single value, not a section")
        key = (*key, step)
        if depth < len(parts):
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = empty_value(draft, key)
                draft.origins[key] = Origin(COMMAND_LINE, dotted(tuple(parts[:depth])))
            node = node[step]
    return node, key


def empty_value(draft: Draft, key: KeyPath) -> dict[str, Any] | list[Any]:
    """What an override of a part of `key` starts from where nothing names `key`: a section, or the default list.

    Raises:
        ValueError: if the schema has a single value there.
    """
    section = section_at(draft.values, key[:-1])
    field = section.model_fields.get(str(key[-1])) if section is not None else None
    if field is None or isinstance(field.default, BaseModel):  # the validation reports an unknown key
        return {}
    if not isinstance(field.default, tuple):
        raise ValueError(f"{dotted(key)} is a single value, not a section")
    return [
        item.model_dump(mode="json", exclude_unset=True) if isinstance(item, BaseModel) else item
        for item in field.default
    ]


def list_index(values: Sequence[Any], part: str) -> int | None:
    """`part` as an index of the list, or None."""
    return int(part) if part.isdecimal() and int(part) < len(values) else None


def stages_of(draft: Draft) -> list[tuple[int, dict[str, Any]]]:
    """Index and values of the stages that are sections; the validation reports anything else."""
    stages = draft.values.get("stages")
    if not isinstance(stages, list):
        return []
    return [(i, stage) for i, stage in enumerate(stages) if isinstance(stage, dict)]


def inherit_into_stages(draft: Draft) -> None:
    """Gives every stage what the top-level `data`, `loss` and `optim` have and its own do not, with its origins."""
    for i, stage in stages_of(draft):
        for section in STAGE_SECTIONS:
            own, shared = stage.setdefault(section, {}), draft.values.get(section, {})
            if not isinstance(own, dict) or not isinstance(shared, dict):
                continue
            missing = [name for name in shared if name not in own]
            own |= {name: deepcopy(shared[name]) for name in missing}
            draft.origins |= {
                ("stages", i, *key): origin
                for key, origin in draft.origins.items()
                if len(key) > 1 and key[0] == section and key[1] in missing
            }


def take_root_from_environment(draft: Draft) -> None:
    """Fills an unset `data.root`, at the top and in stages, from SOC_DATA_ROOT."""
    root = os.environ.get(DATA_ROOT_VARIABLE)
    sections: dict[KeyPath, Any] = {("data",): draft.values.setdefault("data", {})}
    sections |= {("stages", i, "data"): stage["data"] for i, stage in stages_of(draft)}
    for key, data in sections.items():
        if root and isinstance(data, dict) and data.get("root") is None:
            data["root"] = root
            draft.origins[*key, "root"] = Origin(f"environment variable {DATA_ROOT_VARIABLE}", "data.root")


# ---- validation ----


def validate(draft: Draft) -> Config | None:
    """The typed configuration, or None after a report."""
    reported = report_stand_ins(draft)
    try:
        return Config.model_validate(draft.values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = without_tags(tuple(detail["loc"]))
            if key in reported:
                continue
            if len(draft.problems) < MAX_PROBLEMS:
                report_validation(draft, key, detail)
            else:  # it is only counted: looking for similar keys takes its time
                draft.report(draft.origin(key), str(detail["type"]))
    return None


def report_stand_ins(draft: Draft) -> set[KeyPath]:
    """Reports values that pydantic would take for others: true and false for 1 and 0, '' for the working folder.

    Returns:
        Their keys.
    """
    reported = set()
    for key, value in leaves(draft.values):
        if not isinstance(value, bool) and value != "":
            continue
        last = max(depth for depth, step in enumerate(key) if isinstance(step, str))  # a list's entries have its types
        section = section_at(draft.values, key[:last])
        info = section.model_fields.get(str(key[last])) if section is not None else None
        types = set() if info is None else set(types_in(info.annotation))
        if isinstance(value, bool) and types & {int, float} and bool not in types:
            draft.report(draft.origin(key), f"expected a number, got {str(value).lower()}")
        elif value == "" and Path in types:
            draft.report(draft.origin(key), "expected a path, got ''; the working folder is ., and no path is null")
        else:
            continue
        reported.add(key)
    return reported


def types_in(annotation: Any) -> Iterator[type]:
    """The types that an annotation is made of: those of a union, of a list, of an `Annotated`."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from types_in(part)


def report_validation(draft: Draft, key: KeyPath, detail: Mapping[str, Any]) -> None:
    """Turns one of pydantic's errors into a line that points to where the value of `key` was written."""
    origin = draft.origin(key)
    if detail["type"] == "extra_forbidden":
        draft.report(origin, f"unknown key{suggest_key(draft.values, key)}")
        return
    if detail["type"] == "union_tag_invalid":
        known = ", ".join(DATASETS)
        tag = show_value(detail["ctx"]["tag"])
        draft.report(draft.origin((*key, "dataset")), f"unknown data set {tag}; there are {known}")
        return
    if detail["type"] == "union_tag_not_found":
        draft.report(origin, f"missing key 'dataset', one of {', '.join(DATASETS)}")
        return
    message = ERROR_TEXT.get(detail["type"])
    if message is None:
        message = str(detail["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    if detail["type"] not in ("missing", "value_error"):
        message += f", got {show_value(detail['input'])}"
    draft.report(origin, message)


def without_tags(key: KeyPath) -> KeyPath:
    """The key without the names of data sets that pydantic adds: `data.sets.0.mevis.root` is `data.sets.0.root`."""
    kept: list[str | int] = []
    for step in key:
        is_tag = step in DATASETS and len(kept) >= 2 and kept[-2] in LISTS_OF_SETS and isinstance(kept[-1], int)
        if not is_tag:
            kept.append(step)
    return tuple(kept)


def leaves(values: Any, key: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """All values that are neither sections nor lists, with their keys."""
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from leaves(value, (*key, name))
    else:
        yield key, values
