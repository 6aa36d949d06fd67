"""What stands in files of COCO and YouTube-VIS; the segmentations are for `datasets.run_lengths` to read."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from datasets.index_file import Id, IndexEntry, Sentence, Text, WholeNumber

_LARGEST_NAME = 10**9


def _number_as_text(value: object) -> object:
    """Names of categories that are numbers."""
    return str(value) if type(value) is int and abs(value) < _LARGEST_NAME else value


class Category(IndexEntry):
    """A category of either format."""

    id: Id
    name: Annotated[Text, BeforeValidator(_number_as_text)]


class Image(IndexEntry):
    """An image of COCO."""

    id: Id
    file_name: Sentence
    height: WholeNumber
    width: WholeNumber


class ImageAnnotation(IndexEntry):
    """An annotation of COCO; its segmentation and what may name its track are looked at later."""

    id: Id = "?"
    image_id: Id
    category_id: Id
    segmentation: Any = None
    track_id: Any = None
    attributes: Any = None


class Coco(IndexEntry):
    """The content of a file of COCO."""

    images: list[Image]
    annotations: list[ImageAnnotation]
    categories: list[Category]


class Video(IndexEntry):
    """A video of YouTube-VIS."""

    id: Id
    file_names: list[Sentence]
    height: WholeNumber
    width: WholeNumber
    name: Text | None = None


class VideoAnnotation(IndexEntry):
    """An annotation of YouTube-VIS, with a segmentation or null for each frame."""

    id: Id
    video_id: Id
    category_id: Id
    segmentations: list[Any]


class YoutubeVis(IndexEntry):
    """The content of a file of YouTube-VIS."""

    videos: list[Video]
    annotations: list[VideoAnnotation]
    categories: list[Category]
