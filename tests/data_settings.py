"""Settings of a single data set, written flat."""

from typing import Any

from configs.schema import DataConfig
from datasets.definition import SplitContents
from datasets.table import DATASETS
from loading.loaders import read_split


def with_one_set(dataset: str = "ref_youtube_vos", **keys: Any) -> dict[str, Any]:
    """The section `data` with one entry in `sets`: keys of the data set go there, the others stay.

    `root` stays: it is the root of all data. Keys that name `sets` are left as they are.
    """
    if "sets" in keys:
        return keys
    own = DATASETS[dataset].settings.model_fields.keys() - {"root"}
    settings = {"dataset": dataset} | {key: value for key, value in keys.items() if key in own}
    return {"sets": (settings,)} | {key: value for key, value in keys.items() if key not in own}


def data_config(dataset: str = "ref_youtube_vos", **keys: Any) -> DataConfig:
    """The same, validated."""
    return DataConfig.model_validate(with_one_set(dataset, **keys))


def read(data: DataConfig, split: str, *, for_training: bool = False) -> SplitContents:
    """A split of the first data set, as training and evaluation read it."""
    return read_split(data, data.sets[0], split, for_training=for_training)
