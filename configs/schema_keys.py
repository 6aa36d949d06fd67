"""Which keys the schema knows: the model behind a section of a configuration, and hints for misspelt keys."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from configs.schema import Config
from configs.yaml_tree import KeyPath
from datasets.definition import DatasetSettings
from datasets.table import DATASETS

LISTS_OF_SETS = ("sets", "eval_sets")
"""Keys of lists whose entries name a data set and have its keys."""

MAX_CHARACTERS = 80
"""Of a key that may be a misspelt one."""


def suggest_key(values: Mapping[str, Any], key: KeyPath) -> str:
    """A hint for an unknown key: a similar key of its section, or one of the same name in another section.

    In an entry of `data.sets` the keys of that data set are listed, and which other data set has the key.
    """
    name = str(key[-1])
    if len(name) > MAX_CHARACTERS:
        return ""
    section = section_at(values, key[:-1])
    if section is not None and (close := difflib.get_close_matches(name, section.model_fields, n=1)):
        return f"; did you mean {close[0]!r}?"
    in_sets = [dataset for dataset, definition in DATASETS.items() if name in definition.settings.model_fields]
    if section is not None and issubclass(section, DatasetSettings):
        hint = f", {name} is a key of {', '.join(in_sets)}" if in_sets else ""
        own = section.model_fields["dataset"].default
        return f" of data set {own}{hint}; its keys are {', '.join(section.model_fields)}"
    elsewhere = [path for path in known_keys(Config) if path.rpartition(".")[2] == name]
    if elsewhere:
        return f"; did you mean {elsewhere[0]!r}?"
    return f"; did you mean 'data.sets.0.{name}'?" if in_sets else ""


def section_at(values: Mapping[str, Any], key: KeyPath) -> type[BaseModel] | None:
    """The model that describes the section at `key`; that of an entry of `data.sets` is named by its `dataset`."""
    model: type[BaseModel] | None = Config
    value: Any = values
    for step in key:
        value = value_at(value, step)
        if isinstance(step, int):
            if model is None or not issubclass(model, DatasetSettings):
                continue
            definition = DATASETS.get(str(value_at(value, "dataset")))
            model = None if definition is None else definition.settings
            continue
        if model is None or step not in model.model_fields:
            return None
        field_type = model.model_fields[step].annotation
        model = DatasetSettings if step in LISTS_OF_SETS else section_type(field_type)
    return model


def value_at(values: Any, step: str | int) -> Any:
    """The value below `step`; None where there is none."""
    if isinstance(values, dict):
        return values.get(step)
    if isinstance(values, list) and isinstance(step, int) and step < len(values):
        return values[step]
    return None


def section_type(annotation: Any) -> type[BaseModel] | None:
    """The model in a field's type: the type itself, or what it is a tuple of."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All dotted keys that overrides may name, those of stages left out."""
    for name, info in model.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from known_keys(info.annotation, f"{prefix}{name}.")
