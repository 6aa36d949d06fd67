"""All data sets. The imports are the table: a new data set is one more line here; see docs/add_a_dataset.md."""

from pathlib import Path

from datasets.a2d_sentences import A2D_SENTENCES as A2D_SENTENCES
from datasets.definition import DatasetDefinition, DatasetSettings, FoundDataset
from datasets.jhmdb_sentences import JHMDB_SENTENCES as JHMDB_SENTENCES
from datasets.labelled_videos import LABELLED_VIDEOS as LABELLED_VIDEOS
from datasets.mevis import MEVIS as MEVIS
from datasets.ref_davis17 import REF_DAVIS17 as REF_DAVIS17
from datasets.ref_youtube_vos import REF_YOUTUBE_VOS as REF_YOUTUBE_VOS
from datasets.refcoco import REFCOCO as REFCOCO

DATASETS: dict[str, DatasetDefinition] = {
    definition.name: definition for definition in list(vars().values()) if isinstance(definition, DatasetDefinition)
}
"""By name, as in `dataset` of an entry of `data.sets`."""


def find_datasets(folder: Path) -> list[FoundDataset]:
    """The data sets that lie in a folder, without those whose layout another one of them claims for itself."""
    candidates = [item for definition in DATASETS.values() for item in definition.find(folder)]
    excluded = {name for item in candidates for name in item.instead_of}
    return [item for item in candidates if item.settings.dataset not in excluded]


def definition_of(settings: DatasetSettings) -> DatasetDefinition:
    """The data set that these settings are of."""
    return DATASETS[settings.dataset]
