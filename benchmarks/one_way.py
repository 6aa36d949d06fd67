"""One way of running the model, measured in a process of its own; `benchmarks.ways` starts it and reads what it prints.

Only what has been stable for long is imported from the project, so that the same file measures an older checkout, too:
it is run by its path, with that checkout as working folder.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from configs.loader import load_config
from loading.collate import collate
from models.build import build_criterion, build_model
from models.inference import encode_sentences, segment_clip
from models.postprocess import best_queries
from models.soc import SOC
from models.text_encoder import TextEncoder
from models.text_files import ROBERTA_BASE
from structures.samples import ClipTarget, SentenceMeta, VideoSample

SENTENCE = "the small dog that runs to the right of a red car behind the big tree"
WORDS = tuple(dict.fromkeys(SENTENCE.split(" ")))
TINY = (
    "model.visual_encoder.name=video-swin",
    "model.visual_encoder.embed_dim=12",
    "model.visual_encoder.depths=[1,1,1,1]",
    "model.visual_encoder.num_heads=[1,1,1,1]",
    "model.dim=32",
)
RATES = {"lr": 1e-4, "lr_visual_encoder": 1e-5, "lr_text_encoder": 5e-6}


def main(task: dict[str, Any]) -> dict[str, Any]:
    """Does one task.

    Args:
        task: what `benchmarks.ways.Task` holds.

    Returns:
        Seconds on the clock and of the processors for each repetition, peak memory in MiB, GFLOP/s of a large matrix
        product, and what the task asks for besides.
    """
    if task["as_commands"]:
        from engine.allocator import LARGEST_OF_EVALUATION, keep_freed_memory
        from engine.products import use_onednn

        keep_freed_memory(largest=None if task["kind"] == "train" else LARGEST_OF_EVALUATION)
        if task["amp"] != "bf16":
            use_onednn()
    torch.set_num_threads(task["threads"])
    model = build(tiny=task["tiny"])
    is_plain = task["way"] == "plain"
    if is_plain:
        from benchmarks.plain_model import make_plain

        make_plain(model)
    is_training = task["kind"] == "train"
    parts = Parts(model) if task["parts"] else None
    run: Callable[[], Any] = (
        training_step(model, task, is_plain=is_plain, parts=parts)
        if is_training
        else evaluation(model, task, is_plain=is_plain)
    )
    result: dict[str, Any] = {"flops": count_flops(run) if task["counts"] else None}
    run()
    if parts:
        parts.reset()
    clock, processors = [], []
    for _ in range(task["repeats"]):
        started, used = time.perf_counter(), time.process_time()
        run()
        clock.append(time.perf_counter() - started)
        processors.append(time.process_time() - used)
    result |= {
        "seconds": clock,
        "cpu_seconds": processors,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parts": parts.seconds(task["repeats"]) if parts else None,
    }
    if task["saves"] and not is_training:
        masks, queries = run()
        np.savez(task["saves"], masks=masks.numpy(), queries=np.array(queries))
    result["product_gflops"] = product_gflops()
    return result


def build(*, tiny: bool) -> SOC:
    """SOC-T of random weights with a random RoBERTa-base, both the same in every process."""
    torch.manual_seed(0)
    repository = Path.cwd()
    config = load_config(repository / "configs" / "base.yaml", ["data.root=.", *(TINY if tiny else ())])
    small: Any = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    roberta = RobertaConfig(**{**ROBERTA_BASE.to_dict(), **small}) if tiny else ROBERTA_BASE
    text_encoder = TextEncoder(RobertaModel(roberta), new_tokenizer(), frozen=True)
    return build_model(config.model, text_encoder=text_encoder).eval()


def evaluation(model: SOC, task: dict[str, Any], *, is_plain: bool) -> Callable[[], tuple[Tensor, list[int]]]:
    """A clip and its sentences; the plain way runs the visual encoder anew for each."""
    model.requires_grad_(False)  # the counter of operations asks every tensor that has one for its gradient
    frames = random_frames(task["frames"], task["height"], task["width"])
    sentences = sentences_of(task["sentences"])
    device = torch.device("cpu")

    @torch.no_grad()
    def run() -> tuple[Tensor, list[int]]:
        masks, queries = [], []
        for group in [[each] for each in sentences] if is_plain else [sentences]:
            texts = encode_sentences(model, group, group=1, device=device)
            with torch.autocast("cpu", torch.bfloat16, enabled=task["amp"] == "bf16"):
                for layer in segment_clip(model, frames, texts, device=device):
                    (best,) = best_queries(layer)
                    masks.append(best.mask_logits)
                    queries.append(best.query)
        return torch.stack(masks), queries

    return run


def training_step(
    model: SOC, task: dict[str, Any], *, is_plain: bool, parts: "Parts | None" = None
) -> Callable[[], None]:
    """Forward, matching, losses, backward, clipping, AdamW, on a batch that is in memory."""

    def timed(name: str) -> AbstractContextManager[None]:
        return parts.timed(name) if parts else nullcontext()

    config = load_config(Path.cwd() / "configs" / "base.yaml", ["data.root=."])
    stage = config.training_stages()[0]
    criterion: Any = build_criterion(stage.loss)
    groups = model.parameter_groups(**RATES)
    if is_plain:
        from benchmarks.plain_model import PlainCriterion

        criterion = PlainCriterion(criterion)
        rates = [{"params": group.parameters, "lr": group.lr} for group in groups]
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(rates, weight_decay=stage.optim.weight_decay)
    else:
        from engine.optim import build_optimizer

        optimizer = build_optimizer(groups, stage.optim)
    sample = random_sample(task["frames"], task["height"], task["width"], sentences=task["sentences"])
    batch = collate([sample])

    def run() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=task["amp"] == "bf16"):
            output = model(
                batch.clips.normalised(model.normalisation),
                model.tokenize(batch.sentences),
                clip_of_sentence=batch.clip_of_sentence,
                annotated_frame=batch.annotated_frame,
            )
        with timed("matching and losses"):
            total = criterion(output, batch.targets).total
        with timed("backward pass"):
            total.backward()
        with timed("clipping and AdamW"):
            nn.utils.clip_grad_norm_(model.parameters(), stage.optim.max_grad_norm)
            optimizer.step()

    return run


class Parts:
    """Seconds inside of the parts of the model, in the forward pass, and of what is timed beside it."""

    def __init__(self, model: SOC) -> None:
        self._seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}
        encoder: Any = model.visual_encoder
        transformer = model.transformer
        parts: dict[str, Any] = {"text encoder": [model.text_encoder], "visual encoder: patches": [encoder.patch_embed]}
        for number, stage in enumerate(encoder.stages, start=1):
            parts[f"visual encoder: stage {number}"] = list(stage)
        parts["level projections"] = list(model.level_projections)
        parts["words into pixels"] = [model.fusion]
        parts["deformable encoder"] = list(transformer.encoder_layers)
        parts["deformable decoder"] = list(transformer.decoder_layers)
        parts["feature pyramid"] = [model.spatial_decoder]
        parts["object cluster"] = [model.object_cluster]
        parts["mask head"] = [model.mask_head]
        for name, modules in parts.items():
            self._seconds[name] = 0.0
            for module in modules:
                module.register_forward_pre_hook(lambda *_, name=name: self._start(name))
                module.register_forward_hook(lambda *_, name=name: self._stop(name))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Counts the seconds in the context as those of a part."""
        self._seconds.setdefault(name, 0.0)
        self._start(name)
        yield
        self._stop(name)

    def reset(self) -> None:
        """Begins anew: what has run so far does not count."""
        self._seconds = dict.fromkeys(self._seconds, 0.0)

    def _start(self, name: str) -> None:
        self._started[name] = time.perf_counter()

    def _stop(self, name: str) -> None:
        self._seconds[name] += time.perf_counter() - self._started[name]

    def seconds(self, repeats: int) -> dict[str, float]:
        """Of each part, the mean over the repetitions."""
        return {name: total / repeats for name, total in self._seconds.items()}


def count_flops(run: Callable[[], Any]) -> float:
    """Of all matrix products and convolutions; two for each multiplication with addition."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def product_gflops() -> float:
    """GFLOP/s of a product of two matrices of 2048 x 2048: what this machine can do just now."""
    matrix, best = torch.randn(2048, 2048), float("inf")
    for _ in range(5):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best / 1e9


def random_frames(frames: int, height: int, width: int) -> Tensor:
    """A clip of noise, of shape (frames, 3, height, width), the same every time."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (frames, 3, height, width), generator=generator, dtype=torch.uint8)


def sentences_of(count: int) -> list[str]:
    """Sentences of eight words that the tokenizer knows."""
    return [" ".join(WORDS[(i + j) % len(WORDS)] for j in range(8)) for i in range(count)]


def random_sample(frames: int, height: int, width: int, *, sentences: int) -> VideoSample:
    """A clip of noise with an object for each sentence."""
    targets = []
    for i in range(sentences):
        masks = torch.zeros(1, frames, height, width, dtype=torch.bool)
        masks[..., : height // (2 + i), : width // 2] = True
        box = torch.tensor([0.25, 0.5 / (2 + i), 0.5, 1 / (2 + i)]).expand(1, frames, 4).contiguous()
        targets.append(
            ClipTarget(masks, box, torch.ones(1, frames, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
        )
    names = tuple(map(str, range(frames)))
    meta = tuple(SentenceMeta("video", str(i), names) for i in range(sentences))
    return VideoSample(random_frames(frames, height, width), tuple(sentences_of(sentences)), tuple(targets), meta)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word of `WORDS`."""
    vocabulary = {word: i for i, word in enumerate(("<s>", "<pad>", "</s>", "<unk>", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
