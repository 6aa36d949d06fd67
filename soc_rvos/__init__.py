"""Videos and sentences to masks, in three lines of Python; see docs/python.md.

    from soc_rvos import Segmenter

    segmenter = Segmenter.from_pretrained("my_model")
    result = segmenter("clip.mp4", ["the dog", "the red car"])

In a checkout this package stands above the others; installed, it contains them. Nothing is imported before it is asked
for, so that a command line that only prints its help does not wait for PyTorch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.model_card import Measure, ModelCard, Source
    from soc_rvos.result import Result
    from soc_rvos.segmenter import ResultStream, Segmenter
    from soc_rvos.tracks import Track

__all__ = ["Measure", "ModelCard", "Result", "ResultStream", "Segmenter", "Source", "Track"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from models.model_card import Measure, ModelCard, Source
    from soc_rvos.result import Result
    from soc_rvos.segmenter import ResultStream, Segmenter
    from soc_rvos.tracks import Track

    offered = (Measure, ModelCard, Result, ResultStream, Segmenter, Source, Track)
    return next(each for each in offered if each.__name__ == name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
