"""Deformable attention: every backend against a loop, finite differences and the reference; then the layer."""

import inspect
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.ops.ms_deform_attn import module as layer_module
from models.ops.ms_deform_attn.backends import BACKENDS, use_backend
from models.ops.ms_deform_attn.functional import ms_deform_attn
from models.ops.ms_deform_attn.module import MSDeformAttn
from models.ops.ms_deform_attn.problems import BOUNDS, error_against_reference, make_problem
from models.ops.ms_deform_attn.reference import ms_deform_attn_reference
from tests.test_parity import MANIFEST, load_spec
from tools.parity import model_fixtures
from tools.parity.checking import PARITY_FOLDER, check_fixture

SHAPES = [(3, 4), (2, 2)]
MSDA_FIXTURES = sorted(name for name in MANIFEST if name.startswith("msda_"))

# Pairs of a backend and one of its devices.
PLACES = [
    pytest.param((name, device), id=f"{name}-{device}", marks=[pytest.mark.gpu] if device == "cuda" else [])
    for name, backend in BACKENDS.items()
    for device in (backend.device_types or ("cpu", "cuda"))
]


@pytest.fixture(params=PLACES)
def backend_and_device(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A backend that is in force, and a device of it."""
    name, device = request.param
    if reason := BACKENDS[name].why_unavailable():
        pytest.skip(f"backend {name}: {reason}")
    with use_backend(name):
        yield name, device


@pytest.fixture
def device(backend_and_device: tuple[str, str]) -> str:
    return backend_and_device[1]


def inputs(device: str = "cpu", dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 16, 2, 3, generator=generator, dtype=dtype)
    locations = torch.rand(2, 5, 2, 2, 2, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(2, 5, 2, 2, 2, generator=generator, dtype=dtype)
    return value.to(device), locations.to(device), weights.to(device)


def sample(pixels: Tensor, x: float, y: float) -> Tensor:
    """Bilinear with zeros outside; (x, y) in pixels from the outer edge."""
    height, width = pixels.shape[:2]
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    total = torch.zeros_like(pixels[0, 0])
    for j, i in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= j < height and 0 <= i < width:
            total += pixels[j, i] * (1 - abs(x - 0.5 - i)) * (1 - abs(y - 0.5 - j))
    return total


def test_the_operator_equals_a_loop_over_every_sample(device: str):
    value, locations, weights = inputs(device)
    output = ms_deform_attn(value, SHAPES, locations, weights).view(2, 5, 2, 3)
    starts = [0, 12]
    for b, q, m in [(0, 0, 0), (1, 4, 1), (0, 3, 1)]:
        expected = torch.zeros(3, dtype=torch.float64, device=device)
        for level, (height, width) in enumerate(SHAPES):
            pixels = value[b, starts[level] :][: height * width, m].view(height, width, 3)
            for point in range(2):
                x, y = locations[b, q, m, level, point].tolist()
                expected += weights[b, q, m, level, point] * sample(pixels, x * width, y * height)
        torch.testing.assert_close(output[b, q, m], expected)


def test_gradients_are_those_of_finite_differences(device: str):
    arguments = [tensor.requires_grad_() for tensor in inputs(device)]
    # Sums into the gradient of the value may come in any order on a GPU.
    assert torch.autograd.gradcheck(lambda v, x, w: ms_deform_attn(v, SHAPES, x, w), arguments, nondet_tol=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("name", MSDA_FIXTURES)
def test_each_backend_reproduces_the_recorded_numbers(name: str, device: str, monkeypatch: pytest.MonkeyPatch):
    def there_and_back(value: Tensor, shapes: list, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value.to(device), shapes, locations.to(device), weights.to(device)).to(value.device)

    for user in (model_fixtures, layer_module):
        monkeypatch.setattr(user, "ms_deform_attn", there_and_back)
    torch.set_default_dtype(torch.float64)
    try:
        result = check_fixture(MANIFEST[name], PARITY_FOLDER / "fixtures" / f"{name}.npz", load_spec)
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.passed, f"{result.worst}: {result.error:.1e} > {result.tolerance:.0e} {result.note}"


@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("channels", [1, 8, 24, 30, 32, 64])
def test_each_precision_keeps_its_bound(backend_and_device: tuple[str, str], dtype: torch.dtype, channels: int):
    problem = make_problem([(5, 7), (3, 4), (1, 1)], batch=2, heads=3, channels=channels, points=2)
    backend, device = backend_and_device
    assert error_against_reference(backend, problem, device, dtype) <= BOUNDS[dtype]


@pytest.mark.parametrize("queries", [None, 7], ids=["every cell asks", "few queries"])
def test_large_maps_give_the_same(backend_and_device: tuple[str, str], queries: int | None):
    problem = make_problem([(40, 50), (8, 9)], batch=1, heads=4, channels=16, points=1, queries=queries)
    backend, device = backend_and_device
    assert error_against_reference(backend, problem, device, torch.float64) <= BOUNDS[torch.float64]


COORDINATES = st.one_of(
    st.floats(-0.5, 1.5),
    st.sampled_from([0.0, 0.5, 1.0, 0.25, -0.25, 1.25, 1.0 + 2**-30, -(2.0**-30)]),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e300]),
)


@st.composite
def any_problem(draw: st.DrawFn) -> tuple[list[tuple[int, int]], Tensor, Tensor, Tensor]:
    """Few or no tokens, queries, heads, channels; locations anywhere."""
    shapes = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=3))
    batch, heads, points = (draw(st.integers(low, 3)) for low in (0, 1, 1))
    queries, channels = draw(st.integers(0, 4)), draw(st.sampled_from([0, 1, 3, 8, 17]))
    size = (batch, queries, heads, len(shapes), points)
    few = draw(st.lists(COORDINATES, min_size=1, max_size=12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    picks = torch.randint(len(few), (*size, 2), generator=generator)
    locations = torch.tensor(few, dtype=torch.float64)[picks]
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(batch, tokens, heads, channels, generator=generator, dtype=torch.float64)
    return shapes, value, locations, torch.rand(size, generator=generator, dtype=torch.float64)


def gradients(function: Callable[..., Tensor], shapes: list, tensors: tuple[Tensor, ...], device: str) -> list[Tensor]:
    leaves = [tensor.to(device).requires_grad_() for tensor in tensors]
    output = function(leaves[0], shapes, *leaves[1:])
    grad_output = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=device).view(output.shape)
    results = tuple(torch.zeros_like(leaf) for leaf in leaves)
    if output.requires_grad:  # the reference's does not where no level has tokens
        results = torch.autograd.grad(output, leaves, grad_output, allow_unused=True, materialize_grads=True)
    return [tensor.detach().cpu() for tensor in (output, *results)]


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(problem=any_problem())
def test_any_shape_and_any_location_gives_what_the_reference_gives(
    device: str, problem: tuple[list[tuple[int, int]], Tensor, Tensor, Tensor]
):
    shapes, value, locations, weights = problem
    ours = gradients(ms_deform_attn, shapes, (value, locations, weights), device)
    right = gradients(ms_deform_attn_reference, shapes, (value, locations, weights), "cpu")
    for index in (0, 1, 3):
        torch.testing.assert_close(ours[index], right[index], rtol=1e-10, atol=1e-12)
    # On a cell's centre or on a border the derivative jumps, and rounding chooses the side.
    sides = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float64)
    positions = locations * sides[:, None] - 0.5
    is_smooth = ((positions - positions.round()).abs() > 1e-6).all(dim=-1, keepdim=True) | ~positions.isfinite()
    assert ours[2].isfinite().all()
    torch.testing.assert_close(
        torch.where(is_smooth, ours[2], 0.0), torch.where(is_smooth, right[2], 0.0), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_a_location_that_is_not_finite_counts_as_outside(device: str, bad: float):
    value, locations, weights = inputs(device, torch.float32)
    outside, strange = locations.clone(), locations.clone()
    outside[0, 1, 0, 1, 0] = 5.0
    strange[0, 1, 0, 1, 0, 1] = bad
    expected = gradients(ms_deform_attn, SHAPES, (value, outside, weights), device)
    for ours, right in zip(gradients(ms_deform_attn, SHAPES, (value, strange, weights), device), expected, strict=True):
        torch.testing.assert_close(ours, right)


def test_a_weight_that_is_not_a_number_shows_even_outside(device: str):
    value, locations, weights = inputs(device)
    locations[0, 1, 0, 1, 0] = 5.0
    weights[0, 1, 0, 1, 0] = math.nan
    output = ms_deform_attn(value, SHAPES, locations, weights).view(2, 5, 2, 3)
    assert output[0, 1, 0].isnan().all()
    assert output.isnan().sum() == 3


def test_tokens_of_other_images_and_levels_are_never_read(device: str):
    value, locations, weights = inputs(device)
    guarded = torch.full((4, 16, 2, 3), math.nan, dtype=torch.float64, device=device)
    guarded[1:3] = value
    guarded[1:3, 12:] = math.nan  # the second level
    locations[:, :, :, 1] = 9.0
    locations[:, :, :, 0, 0] *= 3
    output = ms_deform_attn(guarded[1:3], SHAPES, locations, weights)
    assert output.isfinite().all()


@pytest.mark.parametrize("empty", [(0, 5), (5, 0), (0, 0)])
def test_a_level_without_pixels_reads_nothing(device: str, empty: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)
    guarded = torch.full((1, 29, 2, 3), math.nan, dtype=torch.float64)
    guarded[:, 10:19] = torch.randn(1, 9, 2, 3, generator=generator, dtype=torch.float64)
    value = guarded.to(device)[:, 10:19]
    assert value.is_contiguous()
    locations = torch.rand(1, 8, 2, 3, 4, 2, generator=generator, dtype=torch.float64).to(device)
    weights = torch.rand(1, 8, 2, 3, 4, generator=generator, dtype=torch.float64).to(device)
    shapes = [empty, (3, 3), empty]
    output = ms_deform_attn(value, shapes, locations, weights)
    torch.testing.assert_close(output, ms_deform_attn_reference(value, shapes, locations, weights))


def test_tensors_need_not_be_contiguous(device: str):
    straight = inputs(device)
    crooked = [torch.stack([tensor, tensor], dim=-1)[..., 0] for tensor in straight]
    assert not any(tensor.is_contiguous() for tensor in crooked)
    for ours, right in zip(
        gradients(ms_deform_attn, SHAPES, tuple(crooked), device),
        gradients(ms_deform_attn, SHAPES, straight, device),
        strict=True,
    ):
        torch.testing.assert_close(ours, right)


def test_the_processor_computes_the_same_bits_with_any_number_of_threads():
    if reason := BACKENDS["cpu"].why_unavailable():
        pytest.skip(f"backend cpu: {reason}")
    problem = make_problem([(20, 30), (8, 9)], batch=3, heads=4, channels=24, points=2).to(torch.float32)
    before = torch.get_num_threads()
    results = []
    with use_backend("cpu"):
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(problem.forward_backward())
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_operator_is_registered_as_pytorch_wants_it(device: str, requires_grad: bool):
    tensors = [tensor.requires_grad_(requires_grad) for tensor in inputs(device)]
    shapes = [side for shape in SHAPES for side in shape]
    torch.library.opcheck(
        torch.ops.soc_ms_deform_attn.forward.default, (tensors[0], shapes, *tensors[1:]), atol=1e-12, rtol=1e-12
    )
    if not requires_grad:
        grad = torch.randn(2, 5, 6, dtype=torch.float64, device=device)
        torch.library.opcheck(
            torch.ops.soc_ms_deform_attn.backward.default,
            (grad, tensors[0], shapes, *tensors[1:]),
            atol=1e-12,
            rtol=1e-12,
        )


def test_a_second_derivative_is_refused_with_a_way_out():
    value, locations, weights = (tensor.requires_grad_() for tensor in inputs())
    output = ms_deform_attn(value, SHAPES, locations, weights)
    (grad,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="ms_deform_attn_reference"):
        grad.sum().backward()


def test_tensors_that_do_not_fit_are_an_error():
    value, locations, weights = inputs()
    with pytest.raises(ValueError, match="15 tokens"):
        ms_deform_attn(value[:, :15], SHAPES, locations, weights)
    unchecked = inspect.unwrap(ms_deform_attn)  # the shape checker of the tests would be faster
    with pytest.raises(ValueError, match="do not fit"):
        unchecked(value, SHAPES, locations[..., :1, :], weights)
    with pytest.raises(ValueError, match="do not fit"):
        ms_deform_attn(value, [*SHAPES, (0, 0)], locations, weights)


def test_padded_tokens_are_never_read():
    layer = MSDeformAttn(16, num_levels=2, num_heads=2, num_points=2)
    query, memory = torch.randn(1, 3, 16), torch.randn(1, 16, 16)
    reference = torch.rand(1, 3, 2, 2)
    is_padding = torch.zeros(1, 16, dtype=torch.bool)
    is_padding[0, 5:9] = True
    changed = torch.where(is_padding[..., None], torch.randn(1, 16, 16), memory)
    torch.testing.assert_close(
        layer(query, reference, memory, SHAPES, memory_is_padding=is_padding),
        layer(query, reference, changed, SHAPES, memory_is_padding=is_padding),
    )


def test_at_the_start_every_head_looks_in_its_own_direction():
    layer = MSDeformAttn(16, num_levels=2, num_heads=4, num_points=3)
    offsets = layer.sampling_offsets.bias.view(4, 2, 3, 2)
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(offsets[:, 0, 2], 3 * expected, rtol=0, atol=1e-6)


def test_references_are_points_or_boxes():
    layer = MSDeformAttn(16, num_levels=2, num_heads=2, num_points=2)
    with pytest.raises(ValueError, match="3 coordinates"):
        layer.sampling_locations(torch.randn(1, 1, 16), torch.rand(1, 1, 2, 3), SHAPES)
