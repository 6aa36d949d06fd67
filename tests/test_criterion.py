"""The criterion: recorded numbers, structure of the sum, gradients, processes."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from models.criterion import Criterion, LossWeights, count_totals
from models.losses import dice_loss, focal_loss, generalized_iou
from models.matcher import Matcher
from models.outputs import LayerOutput, SOCOutput
from structures.samples import ClipTarget
from tests.tiny_model import tiny_clips, tiny_soc, tiny_tokens
from tools.parity.criterion_fixtures import RUNNERS
from tools.parity.fixture_io import difference

FIXTURES = Path(__file__).parent / "parity" / "fixtures"
ENTRIES = {
    name: entry
    for name, entry in json.loads((FIXTURES / "manifest.json").read_text()).items()
    if entry["kind"] == "criterion"
}
NO_CONTRASTIVE = LossWeights(contrastive=0.0)
LAYER_FIELDS = [entry.name for entry in fields(LayerOutput)]


def make_targets(batch: int, time: int = 2) -> tuple[ClipTarget, ...]:
    generator = torch.Generator().manual_seed(batch)
    masks = torch.rand(batch, 1, time, 12, 16, generator=generator) > 0.5
    boxes = 0.2 + 0.5 * torch.rand(batch, 1, time, 4, generator=generator)
    return tuple(
        ClipTarget(
            masks=masks[i],
            boxes_cxcywh_norm=boxes[i],
            is_visible=torch.ones(1, time, dtype=torch.bool),
            labels=torch.zeros(1, dtype=torch.long),
        )
        for i in range(batch)
    )


def absent(target: ClipTarget) -> ClipTarget:
    """The target of a sentence about nothing, of the same clip."""
    return ClipTarget(
        masks=target.masks[:0],
        boxes_cxcywh_norm=target.boxes_cxcywh_norm[:0],
        is_visible=target.is_visible[:0],
        labels=target.labels[:0],
        referred=None,
    )


def with_absent(targets: tuple[ClipTarget, ...], indices: set[int]) -> tuple[ClipTarget, ...]:
    return tuple(absent(target) if i in indices else target for i, target in enumerate(targets))


def make_output(batch: int, time: int = 2, queries: int = 5, num_layers: int = 3, num_classes: int = 1) -> SOCOutput:
    generator = torch.Generator().manual_seed(batch + 10)
    layers = tuple(
        LayerOutput(
            mask_logits=torch.randn(batch, time, queries, 3, 4, generator=generator).requires_grad_(),
            class_logits=torch.randn(batch, time, queries, num_classes, generator=generator).requires_grad_(),
            boxes_cxcywh_norm=torch.rand(batch, time, queries, 4, generator=generator).requires_grad_(),
            cluster=torch.randn(batch, queries, 8, generator=generator).requires_grad_(),
        )
        for _ in range(num_layers)
    )
    return SOCOutput(layers, torch.randn(batch, 8, generator=generator).requires_grad_())


def samples_of(output: SOCOutput, share: slice) -> SOCOutput:
    """Some samples of a batch."""
    layers = tuple(
        LayerOutput(**{name: getattr(layer, name)[share] for name in LAYER_FIELDS}) for layer in output.layers
    )
    assert output.sentence is not None
    return SOCOutput(layers, output.sentence[share])


@pytest.mark.parity
@pytest.mark.parametrize("name", ENTRIES)
def test_costs_assignments_losses_and_gradients_equal_the_recorded_ones(name: str):
    entry = ENTRIES[name]
    with np.load(FIXTURES / f"{name}.npz") as fixture:
        for key, value in RUNNERS["criterion"](entry, fixture, lambda spec: {}).items():
            # float64 against goldens rounded to float32
            tolerance = 0 if key.startswith("match/") else 1e-6
            error = difference(fixture, key, value)
            assert max(error["rel"], error["stats"]) <= tolerance, f"{key}: {error}"


def test_layers_are_summed_as_if_each_were_alone():
    output, targets = make_output(2), make_targets(2)
    criterion = Criterion()
    losses = criterion(output, targets)
    alone = [criterion(SOCOutput((layer,), output.sentence), targets) for layer in output.layers]
    torch.testing.assert_close(losses.total, torch.stack([loss.total for loss in alone]).sum())
    for terms, single in zip(losses.per_layer, alone, strict=True):
        torch.testing.assert_close(terms, single.per_layer[0])


def test_the_total_is_the_weighted_sum_of_the_terms():
    weights = LossWeights(classification=1.0, contrastive=2.0, mask_focal=3.0, dice=4.0, box=5.0, giou=6.0)
    losses = Criterion(Matcher(), weights)(make_output(1), make_targets(1))
    expected = sum(getattr(weights, name) * value for terms in losses.per_layer for name, value in terms.items())
    torch.testing.assert_close(losses.total, expected)


def test_scalars_name_term_and_layer_and_carry_no_graph():
    scalars = Criterion()(make_output(1), make_targets(1)).scalars()
    assert len(scalars) == 1 + 3 * 6
    assert {"total", "dice/0", "dice/1", "dice/final"} <= set(scalars)
    assert not any(value.requires_grad for value in scalars.values())


def test_only_matched_masks_and_boxes_get_a_gradient():
    output, targets = make_output(1), make_targets(1)
    Criterion()(output, targets).total.backward()
    query = Matcher()(output.final, output.sentence, targets)[0][0]
    unmatched = [q for q in range(5) if q != int(query)]
    for tensor in (output.final.mask_logits, output.final.boxes_cxcywh_norm):
        assert tensor.grad is not None
        assert tensor.grad[:, :, query].abs().sum() > 0
        assert tensor.grad[:, :, unmatched].abs().sum() == 0
    assert output.final.class_logits.grad is not None
    assert (output.final.class_logits.grad != 0).all()


def test_a_sample_without_visible_frames_gives_finite_losses_and_no_positive_class():
    output = make_output(1)
    (target,) = make_targets(1)
    hidden = replace(
        target,
        masks=torch.zeros_like(target.masks),
        boxes_cxcywh_norm=torch.zeros_like(target.boxes_cxcywh_norm),
        is_visible=torch.zeros_like(target.is_visible),
    )
    losses = Criterion()(output, (hidden,))
    losses.total.backward()
    assert losses.total.isfinite()
    assert output.final.class_logits.grad is not None
    assert (output.final.class_logits.grad > 0).all()


@pytest.mark.parametrize("num_classes", [1, 4])
def test_all_queries_are_negative_for_an_absent_sentence_and_nothing_else_is_learned(num_classes: int):
    output = make_output(2, num_classes=num_classes)
    losses = Criterion()(output, with_absent(make_targets(2), {0, 1}))
    for layer, terms in zip(output.layers, losses.per_layer, strict=True):
        # two absent sentences of two frames: as if each were about one object
        expected = focal_loss(layer.class_logits, torch.zeros_like(layer.class_logits)).sum() / 4
        torch.testing.assert_close(terms["classification"], expected)
        assert not any(value.any() for name, value in terms.items() if name != "classification")
    losses.total.backward()
    for layer in output.layers:
        assert layer.class_logits.grad is not None
        assert (layer.class_logits.grad > 0).all(), "every class probability of every query must fall"
        for tensor in (layer.mask_logits, layer.boxes_cxcywh_norm, layer.cluster):
            assert tensor.grad is not None
            assert not tensor.grad.any()


@pytest.mark.parametrize("num_classes", [1, 4])
def test_absent_sentences_change_only_the_classification_of_the_others(num_classes: int):
    output, targets = make_output(3, num_classes=num_classes), with_absent(make_targets(3), {0, 2})
    targets = (targets[0], replace(targets[1], labels=torch.tensor([num_classes - 1])), targets[2])
    mixed = Criterion()(output, targets)
    alone = Criterion()(samples_of(output, slice(1, 2)), targets[1:2])
    nothing = [Criterion()(samples_of(output, slice(i, i + 1)), targets[i : i + 1]) for i in (0, 2)]
    for i, terms in enumerate(mixed.per_layer):
        for name in ("contrastive", "mask_focal", "dice", "box", "giou"):
            torch.testing.assert_close(terms[name], alone.per_layer[i][name], msg=name)
        parts = [part.per_layer[i]["classification"] for part in (alone, *nothing)]
        torch.testing.assert_close(terms["classification"], torch.stack(parts).mean())


def test_an_absent_sentence_counts_as_one_about_a_single_object():
    targets = make_targets(2, time=3)
    several = replace(
        targets[0],
        masks=targets[0].masks.repeat(4, 1, 1, 1),
        boxes_cxcywh_norm=targets[0].boxes_cxcywh_norm.repeat(4, 1, 1),
        is_visible=targets[0].is_visible.repeat(4, 1),
        labels=targets[0].labels.repeat(4),
    )
    totals = count_totals((several, targets[1], absent(targets[0])))
    assert (totals.num_masks, totals.num_frames, totals.num_present) == (15, 18, 2)
    nothing = count_totals((absent(targets[0]),))
    assert (nothing.num_masks, nothing.num_frames, nothing.num_present) == (1, 3, 1)


def test_a_batch_of_absent_sentences_gives_every_parameter_a_gradient():
    """Processes exchange the gradients of all parameters, without looking for those that have none."""
    targets = tuple(replace(target, masks=torch.rand(1, 3, 40, 48) > 0.5) for target in make_targets(2, time=3))
    found = []
    for present in (targets, with_absent(targets, {1}), with_absent(targets, {0, 1})):
        model = tiny_soc()
        output = model(tiny_clips(2), tiny_tokens(4, 3), clip_of_sentence=torch.tensor([0, 1]))
        Criterion()(output, present).total.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert all(gradient.isfinite().all() for gradient in gradients.values())
        found.append(set(gradients))
    assert found[0] == found[1] == found[2]


def test_the_sentence_may_be_missing_only_without_contrastive_weight():
    output, targets = replace(make_output(1), sentence=None), make_targets(1)
    with pytest.raises(ValueError, match=r"weights\.contrastive=1"):
        Criterion()(output, targets)
    assert "contrastive" not in Criterion(Matcher(), NO_CONTRASTIVE)(output, targets).per_layer[0]


def test_the_contrastive_loss_of_equal_queries_is_the_log_of_their_number():
    output = make_output(1, queries=5)
    layers = tuple(replace(layer, cluster=torch.ones(1, 5, 8)) for layer in output.layers)
    losses = Criterion()(replace(output, layers=layers), make_targets(1))
    assert float(losses.per_layer[-1]["contrastive"].detach()) == pytest.approx(math.log(5), rel=1e-6)


def test_half_precision_outputs_are_compared_in_single_precision():
    output, targets = make_output(1), make_targets(1)
    half = SOCOutput(
        tuple(
            LayerOutput(
                mask_logits=layer.mask_logits.bfloat16(),
                class_logits=layer.class_logits.bfloat16(),
                boxes_cxcywh_norm=layer.boxes_cxcywh_norm.bfloat16(),
                cluster=layer.cluster.bfloat16(),
            )
            for layer in output.layers
        ),
        output.sentence,
    )
    assert Criterion()(half, targets).total.dtype == torch.float32


def test_focal_loss_follows_its_definition():
    logits = torch.linspace(-6, 6, 41, dtype=torch.float64)
    p = logits.sigmoid()
    torch.testing.assert_close(focal_loss(logits, torch.ones_like(p)), -0.25 * (1 - p) ** 2 * p.log())
    torch.testing.assert_close(focal_loss(logits, torch.zeros_like(p)), -0.75 * p**2 * (1 - p).log())


def test_dice_loss_is_zero_for_a_sure_and_right_mask_and_for_an_empty_pair():
    target = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(dice_loss((target - 0.5) * 200, target), torch.zeros(2))


def test_generalized_iou_of_equal_and_of_distant_boxes():
    box = torch.tensor([0.2, 0.2, 0.2, 0.2])
    far = torch.tensor([0.8, 0.8, 0.2, 0.2])
    # Hull 0.8 x 0.8, union 2 * 0.04
    values = generalized_iou(box, torch.stack([box, far]))
    torch.testing.assert_close(values, torch.tensor([1.0, -(0.64 - 0.08) / 0.64]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("nothing", [set(), {0}, {1, 2}, {0, 2, 4}, {0, 1, 2, 3, 4}], ids=str)
def test_losses_of_unequal_parts_add_up_to_those_of_the_whole(nothing: set[int]):
    output, targets = make_output(5), with_absent(make_targets(5), nothing)
    whole = Criterion()(output, targets)
    totals = count_totals(targets)
    parts = [
        Criterion()(samples_of(output, share), targets[share], totals=totals)
        for share in (slice(0, 1), slice(1, 3), slice(3, 5))
    ]
    for name, value in whole.scalars().items():
        torch.testing.assert_close(sum(part.scalars()[name] for part in parts), value, msg=name)
    inputs = [output.sentence, *(getattr(output.final, name) for name in LAYER_FIELDS)]
    together = torch.autograd.grad(whole.total, inputs)
    added = torch.autograd.grad(torch.stack([part.total for part in parts]).sum(), inputs)
    torch.testing.assert_close(added, together)
    alone = [Criterion()(samples_of(output, share), targets[share]).total for share in (slice(0, 2), slice(2, 5))]
    assert abs(sum(alone) / 2 - whole.total) > 1e-3, "a mean over unequal parts is another number"


PROCESSES = [(2, set()), (2, {0}), (2, {1, 2, 3}), (2, {0, 2}), (2, {0, 1, 2, 3}), (1, {1, 2, 3}), (1, {0, 2, 3})]
"""Frames, and which of four samples are absent; the first process has sample 0."""


def _case(time: int, nothing: set[int]) -> tuple[SOCOutput, tuple[ClipTarget, ...]]:
    return make_output(4, time=time), with_absent(make_targets(4, time=time), nothing)


def _run_process(rank: int, rendezvous: str, results: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    # Unequal shares: 1 sample here, 3 there.
    share = slice(0, 1) if rank == 0 else slice(1, 4)
    means = []
    for time, nothing in PROCESSES:
        output, targets = _case(time, nothing)
        losses = Criterion()(samples_of(output, share), targets[share])
        mean = torch.stack(list(losses.scalars().values()))
        torch.distributed.all_reduce(mean)
        means.append(mean / 2)
    torch.save(means, f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_with_unequal_shares_give_the_losses_of_one(tmp_path: Path):
    spawn(_run_process, args=(f"file://{tmp_path}/rendezvous", str(tmp_path)), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for case, mean in zip(PROCESSES, found, strict=True):
            expected = torch.stack(list(Criterion()(*_case(*case)).scalars().values()))
            torch.testing.assert_close(mean, expected, msg=str(case))
