"""Every setting: its type, default, unit and meaning. YAML files only override these defaults.

Settings of the model are defined in `configs.model_schema`, those of the data in `configs.data_schema`, those of a
single data set in its module, `datasets/<name>.py`, and those of videos of one's own in `configs.predict_schema`.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from configs.data_schema import DataConfig, Processes
from configs.model_schema import ModelConfig
from configs.predict_schema import PredictConfig, TeachConfig
from structures.config_node import ConfigNode
from structures.wording import one_line


class LossConfig(ConfigNode):
    """Weights of the losses and of the matching costs."""

    class_weight: NonNegativeFloat = 2.0
    contrastive_weight: NonNegativeFloat = 1.0
    mask_focal_weight: NonNegativeFloat = 2.0
    dice_weight: NonNegativeFloat = 5.0
    box_weight: NonNegativeFloat = 2.0
    giou_weight: NonNegativeFloat = 2.0
    class_cost: NonNegativeFloat = 2.0
    dice_cost: NonNegativeFloat = 5.0
    box_cost: NonNegativeFloat = 2.0
    giou_cost: NonNegativeFloat = 2.0
    contrastive_cost: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def weighs_something(self) -> "LossConfig":
        """Raises ValueError if nothing would be learned, or any prediction would match any object."""
        for kind, what in (("weight", "nothing would be learned"), ("cost", "predictions could not be matched")):
            if not any(value for name, value in self if name.endswith(f"_{kind}")):
                raise ValueError(f"every {kind} is 0, so {what}; set one, such as dice_{kind}=5")
        return self


class OptimConfig(ConfigNode):
    """The optimiser, its schedule and clipping."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw`: as published. `muon`: matrices between hidden layers are trained by Muon, everything else by AdamW; from
    scratch it learns about as much in half the steps."""

    muon_lr_factor: PositiveFloat = 3.0
    """Learning rates of Muon, as multiples of the rates below; only read for `muon`."""

    muon_max_size: NonNegativeInt = 0
    """Matrices with more elements than this are left to AdamW, because Muon's work grows with the cube of their shorter
    side: on a CPU a few large ones can take a quarter of a step. 0: none are; only read for `muon`."""

    lr: PositiveFloat = 1e-4
    """Peak learning rate of everything that is not an encoder."""

    lr_visual_encoder: NonNegativeFloat = 1e-5
    """Peak learning rate of the visual encoder."""

    lr_text_encoder: NonNegativeFloat = 5e-6
    """Peak learning rate of the text encoder, where it is trained."""

    weight_decay: NonNegativeFloat = 1e-4
    """Decay of every parameter, as published."""

    accumulate: PositiveInt = 1
    """Batches of each process whose gradients are added up before a step, so that few GPUs train the batches of many:
    a recipe for 8 GPUs on 2 needs 4. The result is that of one large batch, apart from padding and dropout. Steps,
    epochs and the schedule count steps of the optimiser."""

    max_grad_norm: NonNegativeFloat = 0.1
    """Global L2 norm to which gradients are clipped; 0 disables clipping."""

    schedule: Literal["multistep", "cosine"] = "multistep"
    """`multistep`: times `gamma` at each of `milestones` (published). `cosine`: to zero over the stage."""

    milestones: tuple[PositiveInt, ...] = (20,)
    """Epochs after which the learning rate falls."""

    gamma: PositiveFloat = 0.1
    """Factor at each milestone."""

    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises linearly at the start of the stage."""


ModelPart = Literal[
    "visual_encoder",
    "text_encoder",
    "text_projection",
    "level_projections",
    "fusion",
    "transformer",
    "object_cluster",
    "spatial_decoder",
    "mask_head",
    "class_heads",
    "box_heads",
]
"""The parts of `models.soc.SOC`, by the names of their parameters."""


class StageConfig(ConfigNode):
    """One stage of training. In YAML its `data`, `loss` and `optim` name only what differs from the sections above."""

    name: str = "main"
    epochs: PositiveInt = 30
    """Passes over the training data."""

    max_steps: NonNegativeInt = 0
    """End the stage after so many steps; 0: no limit. The schedule is computed for the steps that are really run."""

    trainable: tuple[ModelPart, ...] = ()
    """Parts of the model that the stage trains; none named: all. The others stay as they are, run in evaluation mode
    (without dropout), and take no memory for gradients where no trained part comes before them. What is frozen by
    `model.text_encoder.frozen` stays frozen."""

    supervised_layers: Literal["all", "last"] = "all"
    """Decoder layers whose predictions the stage trains. `all`, as published, helps the decoder to learn; `last` saves
    time where only what comes behind the decoder is trained, and needs `model.output_layer: last`."""

    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()


class TrainConfig(ConfigNode):
    """The loop."""

    seed: NonNegativeInt = 42
    """Each process adds its rank."""

    amp: Literal["off", "bf16"] = "off"
    """Mixed precision; losses, norms and sampling locations stay in float32."""

    cuda_graphs: bool = False
    """On a GPU of NVIDIA, record the pass of each size of a batch as CUDA graphs when it comes for the second time, and
    play it back from then on: for small batches, where launching kernels takes longer than computing. The sizes should
    be few (`models.recording.MOST_RECORDINGS`); each takes some hundred MB."""

    log_every: PositiveInt = 20
    """Steps between two lines of metrics.jsonl."""

    validate_every: NonNegativeInt = 1
    """Epochs between validations; 0: only at the end of each stage."""

    validate_videos: NonNegativeInt = 0
    """Videos per validation during training; 0: all."""

    checkpoint_every: PositiveInt = 1
    """Epochs between checkpoints (the last of a stage, and one before each validation, are always written)."""

    checkpoint_steps: NonNegativeInt = 0
    """Steps between checkpoints, inside epochs, too; 0: they do not matter."""

    checkpoint_minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """Minutes after which a checkpoint is written, inside an epoch, too; 0: they do not matter."""

    keep_checkpoints: PositiveInt = 3
    """Older ones are deleted; the best is always kept."""

    resume: bool | Literal["auto"] = False
    """Continue the run in `output_dir` from its newest checkpoint that is whole. `auto`: start one where there is no
    checkpoint yet; a job that a cluster may stop and start again needs no other command."""

    peer_timeout: Annotated[float, Field(gt=0, le=86400)] = 300.0
    """Seconds after which a process of several that is silent, or never comes, counts as lost, and the others end with
    its rank in a message and exit code 75. Long validations need no longer ones."""

    accept_changes: bool = False
    """Resume although settings have changed since the checkpoint that decide what is trained: data, seed, optimiser,
    model or losses. The result is then that of neither recipe. Learning rates, length, workers and the like may change
    without it."""


class EvalConfig(ConfigNode):
    """Benchmark evaluation."""

    amp: Literal["off", "bf16"] = "off"
    """Mixed precision, also of validation and prediction. With `bf16` a percent of the pixels may change sides; boxes,
    scores and the resizing of masks stay in float32."""

    write_masks: bool = True
    """Write the PNG files of a submission."""

    zip_submission: bool = False
    """Check them and pack them as the server wants them."""

    partial_submission: bool = False
    """Pack a submission although videos or sentences of the published split are missing, which servers refuse."""

    runners_up: NonNegativeInt = 2
    """How many of the next best queries are compared with the annotation, too (J only), so that `tools.analyze` can
    tell a wrong choice from a wrong mask; where masks are annotated in whole videos."""

    workers: Processes = 2
    """Threads that write and score masks while the model goes on; 0: it waits for them. `predict` writes files of
    single frames with them, and has one at least."""

    @model_validator(mode="after")
    def packs_what_is_written(self) -> "EvalConfig":
        """Raises ValueError if a submission is wanted of masks that are not written."""
        if self.zip_submission and not self.write_masks:
            raise ValueError("zip_submission=true packs the masks that write_masks=false does not write")
        return self


class Config(ConfigNode):
    """One experiment."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    stages: tuple[StageConfig, ...] = ()
    """Stages in order; none: one stage with `data`, `loss` and `optim` as they stand."""

    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    predict: PredictConfig = PredictConfig()
    teach: TeachConfig = TeachConfig()

    output_dir: Path = Path("runs/default")
    """Where checkpoints, metrics and masks go."""

    overwrite: bool = False
    """Allow an output folder that already holds a run; its files are replaced one by one."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto`: a GPU of NVIDIA or AMD (`cuda`) where PyTorch sees one, else the CPU. `mps`, the GPU of Apple, is for
    prediction and has not been tested by us, so `auto` does not take it."""

    num_threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads of PyTorch; 0: its own choice."""

    compile: bool = False
    """Compile the blocks of visual encoder and transformer (`torch.compile`) in training, evaluation and prediction.
    The first steps, and the first of a second size, take minutes; results differ by rounding. In evaluation on an H100
    it gained nothing; see also `train.cuda_graphs`."""

    tf32: bool = False
    """Matrix products of NVIDIA's GPUs in TF32: 10 bits of each factor, sums in float32. Off, as in PyTorch, where
    convolutions are computed so in any case."""

    @field_validator("output_dir")
    @classmethod
    def is_a_folder_of_its_own(cls, output_dir: Path) -> Path:
        """Raises ValueError for the working folder, where results would lie among other files, and for a file."""
        if os.path.realpath(output_dir) == os.path.realpath("."):  # Path.resolve fails at a link to itself
            raise ValueError("expected a folder for the results, got the working folder itself; name one: runs/first")
        if output_dir.is_file():
            raise ValueError(f"expected a folder for the results, and {one_line(str(output_dir))} is a file")
        return output_dir

    @model_validator(mode="after")
    def evaluates_what_is_trained(self) -> "Config":
        """Raises ValueError if a stage trains nothing, or a layer that is not evaluated."""
        for index, stage in enumerate(self.stages):
            if stage.trainable and all(part in self.frozen_parts for part in stage.trainable):
                raise ValueError(
                    f"stages.{index}.trainable={list(stage.trainable)} are frozen, so the stage would train nothing; "
                    "train another part, too, or set frozen=false in that section of model"
                )
            if stage.supervised_layers == "last" and self.model.output_layer != "last":
                raise ValueError(
                    f"stages.{index}.supervised_layers=last trains another layer than model.output_layer="
                    f"{self.model.output_layer} evaluates; set model.output_layer=last"
                )
        return self

    @property
    def frozen_parts(self) -> tuple[str, ...]:
        """Parts of the model that no stage trains."""
        encoders = {"visual_encoder": self.model.visual_encoder.frozen, "text_encoder": self.model.text_encoder.frozen}
        return tuple(name for name, is_frozen in encoders.items() if is_frozen)

    def training_stages(self) -> tuple[StageConfig, ...]:
        """The stages to run; a single one where the file names none."""
        return self.stages or (StageConfig(data=self.data, loss=self.loss, optim=self.optim),)
