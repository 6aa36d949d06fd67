"""The card of a saved model: what it was made from, what was measured, and whose licences apply."""

from dataclasses import dataclass

from huggingface_hub import ModelCardData

from configs.model_schema import VisualEncoderConfig
from configs.schema import Config

NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True)
class Source:
    """Something that the model was made from: training data, or pretrained weights.

    Attributes:
        name: such as the name of a data set, of a video, or of an encoder.
        licence: as stated by whom it is from; `NOT_STATED` where nobody has said it.
        description: what of it was used, such as "12 labelled frames of 4 videos".
    """

    name: str
    licence: str = NOT_STATED
    description: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that was measured.

    Attributes:
        name: such as "J&F".
        value: as it is to be read, with its unit: "84.2 %".
        measured_on: such as "4 labelled frames that were held out".
    """

    name: str
    value: str
    measured_on: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What only the training knows; everything else is written from the configuration.

    Attributes:
        title: of the model.
        summary: one paragraph: what it was trained to find, in which videos.
        licence: of these weights, as an identifier such as "apache-2.0"; None where it was not stated.
        data: what it was trained on.
        encoders: pretrained weights that are part of it; none: the names of the configuration, licences not stated.
        sentences: that it was trained with, or some of them.
        measures: numbers of this model.
        command: that trained it.
        revision: of the code that trained it.
    """

    title: str = "A model for referring video object segmentation"
    summary: str = ""
    licence: str | None = None
    data: tuple[Source, ...] = ()
    encoders: tuple[Source, ...] = ()
    sentences: tuple[str, ...] = ()
    measures: tuple[Measure, ...] = ()
    command: str = ""
    revision: str = ""


def render_card(card: ModelCard, config: Config) -> str:
    """The card as Markdown below a YAML header, as the Hugging Face hub reads it.

    Args:
        card: what is known about the training.
        config: of the model.
    """
    header = ModelCardData(
        license=card.licence.lower() if card.licence else None,
        library_name="soc-rvos",
        pipeline_tag="image-segmentation",
        tags=["referring-video-object-segmentation", "video-object-segmentation"],
        datasets=[source.name for source in card.data] or None,
    )
    parts = [
        f"# {card.title}",
        card.summary,
        "Give it a video and a sentence; it returns the mask of what the sentence means in every frame, or says that "
        "it is not there. An implementation of SOC (Semantic-Assisted Object Cluster for Referring Video Object "
        "Segmentation, arXiv:2305.17011).",
        _usage(),
        _training(card),
        _measures(card, config),
        "## Encoders\n\n" + _sources(card.encoders or _configured_encoders(config.model.visual_encoder)),
        _settings(config),
        "## Licence\n\n"
        f"Of these weights: {card.licence or NOT_STATED}. Whoever passes them on must also keep to the licences of the "
        "data and of the encoders above.",
    ]
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _usage() -> str:
    return (
        "## Use\n\n```python\nfrom soc_rvos import Segmenter\n\n"
        'segmenter = Segmenter.from_pretrained("FOLDER")  # this folder, or its id on the hub\n'
        'result = segmenter("clip.mp4", ["the dog", "the red car"])\nresult.save("clip_masks")\n```'
    )


def _training(card: ModelCard) -> str:
    lines = ["## Training", _sources(card.data) if card.data else "What it was trained on was not stated."]
    if card.sentences:
        shown = [f'- "{sentence}"' for sentence in card.sentences]
        lines.append("Sentences that it was trained with:\n\n" + "\n".join(shown))
    if card.command:
        lines.append(f"```bash\n{card.command}\n```")
    if card.revision:
        lines.append(f"Revision of the code: {card.revision}.")
    return "\n\n".join(lines)


def with_threshold(text: str, before: float | None, after: float) -> str:
    """The text of a card that names another score below which sentences are rejected."""
    return text.replace(_rejection(before), _rejection(after))


def _rejection(min_score: float | None) -> str:
    if not min_score:
        return "No sentence is rejected: every sentence gets a mask, also one about something that is not there."
    return f'A sentence whose score is below {min_score:.4f} is answered with "not found".'


def _measures(card: ModelCard, config: Config) -> str:
    rejection = _rejection(config.predict.min_score)
    if not card.measures:
        return f"## Measured\n\nNothing was measured. {rejection}"
    rows = [f"| {measure.name} | {measure.value} | {measure.measured_on} |" for measure in card.measures]
    return "\n".join(["## Measured", "", "| measure | value | on |", "|---|---|---|", *rows, "", rejection])


def _sources(sources: tuple[Source, ...]) -> str:
    """A list with licences."""
    return "\n".join(
        f"- {source.name}{f' ({source.description})' if source.description else ''}; licence: {source.licence}"
        for source in sources
    )


def _configured_encoders(visual: VisualEncoderConfig) -> tuple[Source, ...]:
    return (
        Source(visual.name, description="of frames"),
        Source("the text encoder in `text_encoder/`", description="of sentences"),
    )


def _settings(config: Config) -> str:
    data = config.data
    windows = f"windows of {data.eval_num_frames} frames" if data.eval_num_frames else "whole videos at once"
    return (
        "## Settings\n\n"
        f"Frames are resized to a shorter side of {data.short_side} and at most {data.long_side} pixels, and go "
        f"through the model in {windows}. `config.yaml` has everything."
    )
