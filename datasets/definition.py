"""What a data set has to say about itself; `datasets.table` lists all of them, docs/add_a_dataset.md shows how.

Data sets are described without PyTorch, so that a configuration can be read and checked at once: readers give NumPy
arrays, `loading` makes tensors of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import PositiveInt, field_validator, model_validator

from datasets.counts import Counts, count_videos
from datasets.held_out import HELD_OUT
from datasets.listing import FolderListing
from datasets.problems import Problem
from datasets.records import VideoRecord
from media.files import plain_name
from structures.config_node import ConfigNode


class DatasetSettings(ConfigNode):
    """An entry of `data.sets`. Each data set adds its own keys, and `dataset`, its name."""

    dataset: str
    """Name of the data set, as in `datasets.table`."""

    root: Path = Path()
    """Folder of this data set; a relative path starts at `data.root`."""

    train_split: str = "train"
    """Split that is trained on."""

    eval_split: str = "valid"
    """Split that is evaluated; only that of the first entry of `data.sets` is, unless `data.eval_sets` names others.
    `held_out`: the videos of `train_split` that the file `held_out` names."""

    held_out: Path | None = None
    """Text file of video names, one a line, that are left out of training; validation during training runs on them
    instead of `eval_split`. `python -m tools.prepare_data --held-out 0.05` makes one."""

    repeat: PositiveInt = 1
    """How often each training sample is seen in an epoch; every time with random numbers of its own."""

    lower_case: bool = True
    """Lower-case the sentences, in training, evaluation and prediction."""

    eval_as_written: bool = False
    """Evaluate with the sentences exactly as they stand in the file, whatever training does with them, as the
    published inference does on Ref-YouTube-VOS and Ref-DAVIS17; RoBERTa tells the difference."""

    @field_validator("train_split", "eval_split")
    @classmethod
    def is_name_of_a_folder(cls, split: str) -> str:
        """Raises ValueError if a split cannot be called so: folders and files of data and results are."""
        return plain_name(split, what="split")

    @property
    def label(self) -> str:
        """What tells this data set from the others of a mixture."""
        return self.dataset

    @property
    def eval_name(self) -> str:
        """Data set and split that are evaluated, as results name them."""
        return f"{self.label}/{self.eval_split}"

    @property
    def evaluated_split(self) -> str:
        """The split on disk that is read for evaluation: that of training where videos of it are held out."""
        return self.train_split if self.eval_split == HELD_OUT else self.eval_split

    @model_validator(mode="after")
    def names_held_out_videos(self) -> "DatasetSettings":
        """Raises ValueError if held-out videos are to be evaluated and no file names them."""
        if self.eval_split == HELD_OUT and self.held_out is None:
            raise ValueError(
                "eval_split: held_out needs held_out: FILE, a text file of video names; "
                "`python -m tools.prepare_data --held-out 0.05` makes one"
            )
        return self

    @property
    def is_partial(self) -> bool:
        """Whether splits are read in part on purpose, so that their published sizes do not apply."""
        return False


S = TypeVar("S", bound=DatasetSettings)


@dataclass(frozen=True, slots=True)
class SplitRequest(Generic[S]):
    """What is to be read.

    Attributes:
        settings: of the data set.
        root: existing folder of the data set.
        split: name of the split.
        for_training: every expression needs an object, and where each object is visible is found out, too.
        scan_masks: with `for_training`, read all masks of the split where nothing else says in which frames an object
            is visible; without it, `visible` stays empty there. A look at the data before training does without.
        cache: folder for files that are made from the data once; None: the user's cache folder.
    """

    settings: S
    root: Path
    split: str
    for_training: bool = False
    scan_masks: bool = True
    cache: Path | None = None


@dataclass(frozen=True, slots=True)
class SplitContents:
    """One split as it lies on disk. Index files have been read, pixels have not.

    Attributes:
        videos: all that can be used, in the order of evaluation.
        problems: all that was found wrong; what cannot be used is not in `videos`.
        fingerprint: changes whenever a file does that the split is made of; empty where nothing is derived from it.
        variant: which of several published choices this is, in words for a log and a report; a score on one cannot be
            compared with a score on another. Empty where there is only one.
        label: says more exactly than the `label` of the settings what was read, such as which of several releases;
            published sizes are found under it, and results say it. Empty where the settings say it all.
    """

    videos: tuple[VideoRecord, ...]
    problems: tuple[Problem, ...] = ()
    fingerprint: str = ""
    variant: str = ""
    label: str = ""


# ---- protocols of evaluation: `evaluation.benchmarks` runs them ----


@dataclass(frozen=True, slots=True)
class MaskPerSentence:
    """Every frame of a video is segmented, a mask per sentence; scored by J and F (Ref-YouTube-VOS, MeViS).

    Attributes:
        folder: below the output folder, for `<folder>/<video>/<expression>/<frame>.png`.
        zip_folder: what the server wants before `<video>` in a submission; empty: the videos are at the top.
    """

    folder: str = "Annotations"
    zip_folder: str = "Annotations"


@dataclass(frozen=True, slots=True)
class MergedObjects:
    """The objects of each annotator's sentences are merged into one index map; scored as DAVIS-2017 unsupervised.

    Attributes:
        num_annotators: kinds of sentences are `anno_0` to `anno_<n - 1>`.
    """

    num_annotators: int


@dataclass(frozen=True, slots=True)
class AnnotatedFrames:
    """All queries are ranked in each annotated frame, the middle one of its clip (A2D-, JHMDB-Sentences).

    Attributes:
        names_instances: whether identifiers of samples end in the instance.
    """

    names_instances: bool


@dataclass(frozen=True, slots=True)
class RankedImages:
    """All queries are ranked in single images; scored by masks and boxes (RefCOCO/+/g)."""


EvalProtocol = MaskPerSentence | MergedObjects | AnnotatedFrames | RankedImages


# ---- the definition ----


@runtime_checkable
class ReadSplit(Protocol[S]):
    """Reads a split; collects what is wrong instead of raising it."""

    def __call__(self, request: SplitRequest[S]) -> SplitContents:
        """Reads the index files of a split.

        Raises:
            ValueError: an index file or folder without which nothing can be read is missing or damaged.
        """


@dataclass(frozen=True, slots=True)
class FoundDataset:
    """A data set that lies in a folder.

    Attributes:
        settings: that open it.
        splits: those that are there.
        instead_of: names of data sets with a layout that looks the same; their claims on this folder are dropped.
    """

    settings: DatasetSettings
    splits: tuple[str, ...]
    instead_of: tuple[str, ...] = ()


def no_notes(request: SplitRequest[Any], contents: SplitContents, listing: FolderListing) -> Iterable[Problem]:
    """For data sets of which nothing more can be said."""
    return ()


def nothing_derived(request: SplitRequest[Any], contents: SplitContents) -> Mapping[str, Any]:
    """For data sets without such files."""
    return {}


@dataclass(frozen=True, slots=True)
class DatasetDefinition(Generic[S]):
    """One data set.

    Attributes:
        title: its name in papers.
        settings: its keys in the configuration.
        read: reads a split.
        find: what of it lies in a folder, for `tools.check_data --all`.
        protocol: how it is evaluated.
        published: sizes of a complete copy, by `label` of the contents, or else of the settings, and by split.
        count: sizes of what was read.
        notes: what `tools.check_data` should say beyond `SplitContents.problems`: files that nobody needs, oddities
            that do no harm.
        derived_files: what `tools.prepare_data` writes besides ground truth: names and contents that JSON can hold.
        shared_folders: folders in which other splits, or other data, have files, too.
        can_train: whether it has a split to train on.
    """

    title: str
    settings: type[S]
    read: ReadSplit[S]
    find: Callable[[Path], Sequence[FoundDataset]]
    protocol: EvalProtocol
    published: Mapping[str, Mapping[str, Counts]]
    count: Callable[[Sequence[VideoRecord]], Counts] = count_videos
    notes: Callable[[SplitRequest[S], SplitContents, FolderListing], Iterable[Problem]] = no_notes
    derived_files: Callable[[SplitRequest[S], SplitContents], Mapping[str, Any]] = nothing_derived
    shared_folders: Callable[[SplitRequest[S]], Iterable[Path]] = lambda request: ()
    can_train: bool = True

    @property
    def name(self) -> str:
        """As in `data.sets`: the only value that `dataset` takes."""
        return str(self.settings.model_fields["dataset"].default)
