"""All data sets. The imports are the table: a new data set is one more line here; see docs/add_a_dataset.md."""

from datasets.a2d_sentences import A2D_SENTENCES as A2D_SENTENCES
from datasets.definition import DatasetDefinition, DatasetSettings
from datasets.jhmdb_sentences import JHMDB_SENTENCES as JHMDB_SENTENCES
from datasets.mevis import MEVIS as MEVIS
from datasets.ref_davis17 import REF_DAVIS17 as REF_DAVIS17
from datasets.ref_youtube_vos import REF_YOUTUBE_VOS as REF_YOUTUBE_VOS
from datasets.refcoco import REFCOCO as REFCOCO

DATASETS: dict[str, DatasetDefinition] = {
    definition.name: definition for definition in list(vars().values()) if isinstance(definition, DatasetDefinition)
}
"""By name, as in `dataset` of an entry of `data.sets`."""


def definition_of(settings: DatasetSettings) -> DatasetDefinition:
    """The data set that these settings are of."""
    return DATASETS[settings.dataset]
