"""The matcher: assignments, robustness, and what may not influence them."""

from dataclasses import replace

import pytest
import torch

from models.matcher import Matcher, cost_matrices, stack_targets
from models.outputs import LayerOutput, SOCOutput
from structures.samples import ClipTarget

SIZE = (12, 16)


def make_target(*visible: bool, num_objects: int = 1, label: int = 0, seed: int = 0) -> ClipTarget:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(num_objects, len(visible), *SIZE, generator=generator) > 0.5
    shown = torch.tensor(visible)
    masks = masks & shown[None, :, None, None]
    boxes = torch.rand(num_objects, len(visible), 4, generator=generator) * shown[None, :, None]
    return ClipTarget(
        masks=masks,
        boxes_cxcywh_norm=boxes,
        is_visible=shown.expand(num_objects, -1),
        labels=torch.full((num_objects,), label),
    )


def absent_target(time: int = 2) -> ClipTarget:
    return replace(make_target(*[True] * time, num_objects=0), referred=None)


def make_layer(batch: int = 1, time: int = 2, queries: int = 5, num_classes: int = 1, seed: int = 0) -> LayerOutput:
    generator = torch.Generator().manual_seed(seed)
    return LayerOutput(
        mask_logits=torch.randn(batch, time, queries, 3, 4, generator=generator),
        class_logits=torch.randn(batch, time, queries, num_classes, generator=generator),
        boxes_cxcywh_norm=torch.rand(batch, time, queries, 4, generator=generator),
        cluster=torch.randn(batch, queries, 8, generator=generator),
    )


def perfect_layer(target: ClipTarget, query: int, *, queries: int = 5) -> LayerOutput:
    """One query that answers right, among others that do not."""
    layer = make_layer(time=target.masks.shape[1], queries=queries)
    logits = torch.full((1, target.masks.shape[1], queries, *SIZE), -9.0)
    logits[0, :, query] = torch.where(target.masks[0], 9.0, -9.0)
    boxes = layer.boxes_cxcywh_norm.clone()
    boxes[0, :, query] = target.boxes_cxcywh_norm[0]
    return replace(layer, mask_logits=logits, boxes_cxcywh_norm=boxes)


def test_the_query_that_shows_the_object_is_matched():
    target = make_target(True, True)
    for query in range(5):
        assignment = Matcher()(perfect_layer(target, query), None, (target,))
        assert [indices.tolist() for indices in assignment[0]] == [[query], [0]]


def test_samples_with_different_numbers_of_visible_frames_are_matched_as_if_alone():
    targets = (make_target(True, False, True), make_target(True, False, False, seed=1))
    layer = make_layer(batch=2, time=3)
    together = Matcher()(layer, None, targets)
    for i in range(2):
        alone = LayerOutput(
            layer.mask_logits[[i]], layer.class_logits[[i]], layer.boxes_cxcywh_norm[[i]], layer.cluster[[i]]
        )
        assert torch.equal(Matcher()(alone, None, (targets[i],))[0][0], together[i][0])


def test_samples_with_different_numbers_of_objects_are_matched_as_if_alone():
    targets = (make_target(True, True, num_objects=3), make_target(True, True, num_objects=1, seed=1))
    layer = make_layer(batch=2)
    assignment = Matcher()(layer, None, targets)
    assert [len(query) for query, _ in assignment] == [3, 1]
    assert sorted(assignment[0][1].tolist()) == [0, 1, 2]
    alone = LayerOutput(
        layer.mask_logits[[1]], layer.class_logits[[1]], layer.boxes_cxcywh_norm[[1]], layer.cluster[[1]]
    )
    assert torch.equal(Matcher()(alone, None, targets[1:])[0][0], assignment[1][0])


@pytest.mark.parametrize("seed", range(3))
def test_an_absent_sentence_gets_no_pair_and_leaves_the_others_as_if_alone(seed: int):
    targets = (absent_target(), make_target(True, False, num_objects=2), absent_target())
    layer = make_layer(batch=3, seed=seed)
    assignment = Matcher()(layer, None, targets)
    assert [(len(query), len(target)) for query, target in assignment] == [(0, 0), (2, 2), (0, 0)]
    middle = LayerOutput(
        layer.mask_logits[[1]], layer.class_logits[[1]], layer.boxes_cxcywh_norm[[1]], layer.cluster[[1]]
    )
    assert torch.equal(Matcher()(middle, None, targets[1:2])[0][0], assignment[1][0])
    stacked = stack_targets(targets, layer)
    assert stacked.referred == (None, 0, None)
    assert stacked.referred_is_visible.tolist() == [[False, False], [True, False], [False, False]]


def test_a_batch_of_absent_sentences_gets_no_pair():
    assignment = Matcher(cost_contrastive=1.0)(make_layer(batch=2), torch.randn(2, 8), (absent_target(),) * 2)
    assert [(len(query), len(target)) for query, target in assignment] == [(0, 0), (0, 0)]


def test_an_object_that_is_never_visible_is_matched_by_all_frames():
    target, layer = make_target(False, False), make_layer()
    costs = cost_matrices((layer,), None, stack_targets((target,), layer))
    everywhere = replace(target, is_visible=torch.ones(1, 2, dtype=torch.bool))
    expected = cost_matrices((layer,), None, stack_targets((everywhere,), layer))
    assert costs.classification.isfinite().all()
    torch.testing.assert_close(costs.classification, expected.classification)
    assert len(Matcher()(layer, None, (target,))[0][0]) == 1


def test_class_logits_of_frames_without_the_object_do_not_matter():
    target, layer = make_target(True, False), make_layer()
    changed = layer.class_logits.clone()
    changed[:, 1] += 3
    stacked = stack_targets((target,), layer)
    first = cost_matrices((layer,), None, stacked).classification
    second = cost_matrices((replace(layer, class_logits=changed),), None, stacked).classification
    torch.testing.assert_close(first, second)


def test_the_label_selects_the_class_only_where_there_are_several():
    several, single = make_layer(num_classes=4), make_layer(num_classes=1)
    first, second = [
        cost_matrices((several,), None, stack_targets((make_target(True, True, label=label),), several)).classification
        for label in (1, 3)
    ]
    assert not torch.allclose(first, second)
    target = make_target(True, True, label=3)
    assert cost_matrices((single,), None, stack_targets((target,), single)).classification.isfinite().all()


def test_permuting_queries_permutes_the_assignment():
    target, layer = make_target(True, True), make_layer()
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = LayerOutput(
        layer.mask_logits[:, :, order],
        layer.class_logits[:, :, order],
        layer.boxes_cxcywh_norm[:, :, order],
        layer.cluster[:, order],
    )
    query = Matcher()(layer, None, (target,))[0][0]
    query_after = Matcher()(permuted, None, (target,))[0][0]
    assert order[query_after].tolist() == query.tolist()


def test_the_contrastive_cost_needs_a_sentence():
    with pytest.raises(ValueError, match="cost_contrastive=1"):
        Matcher(cost_contrastive=1.0)(make_layer(), None, (make_target(True, True),))


def test_diverged_predictions_are_an_error():
    layer = make_layer()
    with pytest.raises(ValueError, match="not finite"):
        Matcher()(replace(layer, class_logits=layer.class_logits * float("nan")), None, (make_target(True, True),))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((make_target(True, True), make_target(True, True)), "2 targets"),
        ((make_target(True),), "1 frames"),
        ((make_target(True, True, num_objects=6),), "6 objects"),
        ((make_target(True, True, num_objects=0),), "0 objects"),
        ((replace(make_target(True, True), referred=1),), "referred=1"),
        ((replace(make_target(True, True), referred=None),), "referred=None, but it has 1 objects"),
    ],
)
def test_targets_that_do_not_fit_are_an_error(targets: tuple[ClipTarget, ...], message: str):
    with pytest.raises(ValueError, match=message):
        stack_targets(targets, make_layer())


def test_layers_are_matched_together_as_each_alone():
    targets = (make_target(True, False, num_objects=2), absent_target(), make_target(True, True))
    layers = tuple(make_layer(batch=3, seed=seed) for seed in range(3))
    sentence, matcher = torch.randn(3, layers[0].cluster.shape[-1]), Matcher(cost_contrastive=1.0)
    together = matcher.match_layers(SOCOutput(layers, sentence), stack_targets(targets, layers[0]))
    alone = [matcher(layer, sentence, targets) for layer in layers]
    for ours, expected in zip(together, alone, strict=True):
        for one, other in zip(ours, expected, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    assert len({tuple(tuple(query.tolist()) for query, _ in assignment) for assignment in alone}) > 1, "layers differ"
