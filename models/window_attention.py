"""3-D windows: cutting, shifting, masks and relative positions, computed once per shape.

Source: Video Swin Transformer (arXiv:2106.13230), section 3.2, with the conventions of its published weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.ops.window_attention import is_suitable, window_attention
from models.parts import is_split
from structures.kept import kept

Size3 = tuple[int, int, int]

# Added to the logits of two tokens that the cyclic shift brought together; the published model uses this, not -inf.
MASKED_LOGIT = -100.0

VALUES_AT_ONCE = 2**21
"""Of queries, keys and values: where a map has more, a CPU takes so many, some windows, after the other."""


def clip_window(window: Size3, shift: Size3, size: Size3) -> tuple[Size3, Size3]:
    """Window and shift where the map may be smaller: no window exceeds the map, no shift where one window covers it."""
    clipped = tuple(min(w, n) for w, n in zip(window, size, strict=True))
    shifts = tuple(0 if n <= w else s for w, s, n in zip(window, shift, size, strict=True))
    return (clipped[0], clipped[1], clipped[2]), (shifts[0], shifts[1], shifts[2])


@kept(number=64)
def relative_position_index(window: Size3, num_tokens: int, device: torch.device) -> Int[Tensor, "token token"]:
    """Row of the bias table for each pair of the first `num_tokens` tokens of a full window.

    A clipped window takes the first rows and columns of the full window's table. That is exact when only time is
    clipped; where height or width is clipped the geometry is wrong, but the published weights were trained so.
    """
    axes = torch.meshgrid(*(torch.arange(n) for n in window), indexing="ij")
    coordinates = torch.stack(axes).flatten(1)  # (3, tokens)
    relative = coordinates[:, :, None] - coordinates[:, None, :]
    depth, height, width = window
    rows = (relative[0] + depth - 1) * (2 * height - 1) * (2 * width - 1)
    rows = rows + (relative[1] + height - 1) * (2 * width - 1) + relative[2] + width - 1
    return rows[:num_tokens, :num_tokens].contiguous().to(device)


def shift_mask(
    window: Size3, shift: Size3, is_last: tuple[bool, bool, bool]
) -> Float[np.ndarray, "token token"] | None:
    """Mask of the windows that are last along the axes in `is_last`; None where nothing is masked.

    Only the last window along a shifted axis holds tokens from both ends of the map: its first `window - shift` rows
    and its last `shift` rows must not see each other.
    """
    if not any(last and s for last, s in zip(is_last, shift, strict=True)):
        return None
    regions = [
        (np.arange(w) >= w - s) if last and s else np.zeros(w, dtype=bool)
        for w, s, last in zip(window, shift, is_last, strict=True)
    ]
    bits = np.meshgrid(*regions, indexing="ij")
    region = np.stack(bits).reshape(len(bits), -1)  # (3, tokens)
    is_apart = (region[:, :, None] != region[:, None, :]).any(axis=0)
    return np.where(is_apart, np.float32(MASKED_LOGIT), np.float32(0))


@dataclass(frozen=True, slots=True)
class WindowLayout:
    """Which token is where in the windows of a shifted and padded map; windows of equal mask follow each other.

    Attributes:
        tokens: of each place, window by window: index of its token among those of the batch, or behind the last one for
            all padding.
        places: of each token.
        padding: the places that hold no token.
        tokens_of_all: as `tokens`, with the last token at the places that hold none.
        window: frames, rows and columns of a window.
        groups: how many windows follow each other with the same mask, and which one; None where nothing is masked.
        masks: the distinct ones.
        mask_of_window: which one each window has; -1 where nothing is masked.
        in_order: the token of each place is the one of its number; so there is no padding.
    """

    tokens: Int[Tensor, " place"]
    places: Int[Tensor, " token"]
    padding: Int[Tensor, " pad"]
    tokens_of_all: Int[Tensor, " place"]
    window: Size3
    groups: tuple[tuple[int, int | None], ...]
    masks: Float[Tensor, "mask place_in place_in"]
    mask_of_window: Int[Tensor, " window"]
    in_order: bool

    @property
    def has_padding(self) -> bool:
        """Whether some places hold none of the tokens."""
        return len(self.padding) > 0


@kept(number=64)
def window_layout(size: Size3, window: Size3, shift: Size3, batch: int, device: torch.device) -> WindowLayout:
    """Shift a batch of maps cyclically, pad their ends, and cut them into windows.

    Args:
        size: frames, rows and columns of a map.
        window: clipped to the map.
        shift: clipped likewise.
        batch: number of maps.
        device: of the indices.
    """
    # In NumPy, whose numbers are there at once, also where PyTorch exports a model.
    margins = [(0, (-n) % w) for n, w in zip(size, window, strict=True)]
    grid = [(n + margin) // w for n, w, (_, margin) in zip(size, window, margins, strict=True)]
    count = batch * math.prod(size)
    numbers = np.pad(np.arange(count).reshape(batch, *size), [(0, 0), *margins], constant_values=count)
    numbers = np.roll(numbers, [-s for s in shift], axis=(1, 2, 3))
    cut = {"wd": window[0], "wh": window[1], "ww": window[2]}
    numbers = rearrange(numbers, "b (d wd) (h wh) (w ww) -> d h w b (wd wh ww)", **cut)
    ranges = [
        ((False, 0, n - 1), (True, n - 1, n)) if s else ((False, 0, n),) for n, s in zip(grid, shift, strict=True)
    ]
    parts, groups = [], []
    masks: list[Float[np.ndarray, "place_in place_in"]] = []
    for (last_d, d0, d1), (last_h, h0, h1), (last_w, w0, w1) in product(*ranges):
        part = numbers[d0:d1, h0:h1, w0:w1].reshape(-1, math.prod(window))
        if len(part):
            parts.append(part)
            mask = shift_mask(window, shift, (last_d, last_h, last_w))
            groups.append((len(part), None if mask is None else len(masks)))
            masks += [] if mask is None else [mask]
    no_mask = np.empty((0, math.prod(window), math.prod(window)), dtype=np.float32)
    return _layout(np.concatenate(parts).ravel(), count, window, groups, np.stack(masks) if masks else no_mask, device)


def _layout(
    tokens: Int[np.ndarray, " place"],
    count: int,
    window: Size3,
    groups: Sequence[tuple[int, int | None]],
    masks: Float[np.ndarray, "mask place_in place_in"],
    device: torch.device,
) -> WindowLayout:
    """The layout of `count` tokens of which it is known where they are."""
    in_order = len(tokens) == count and bool((np.diff(tokens) == 1).all())
    places = np.empty(count + 1, dtype=np.int64)
    places[tokens] = np.arange(len(tokens))
    numbers = torch.from_numpy(tokens).to(device)
    return WindowLayout(
        tokens=numbers,
        places=numbers if in_order else torch.from_numpy(places[:count]).to(device),
        padding=torch.from_numpy(np.flatnonzero(tokens == count)).to(device),
        tokens_of_all=numbers if in_order else torch.from_numpy(tokens.clip(max=count - 1)).to(device),
        window=window,
        groups=tuple(groups),
        masks=torch.from_numpy(masks).to(device),
        mask_of_window=torch.tensor([-1 if mask is None else mask for n, mask in groups for _ in range(n)]).to(device),
        in_order=in_order,
    )


@kept(number=64)
def window_parts(
    size: Size3, window: Size3, shift: Size3, batch: int, device: torch.device, windows: int
) -> tuple[tuple[Int[Tensor, " _"], WindowLayout], ...]:
    """The layout of a batch of maps in parts of some windows that have the same mask.

    Args:
        size: see `window_layout`, as for all but the last.
        window: see there.
        shift: see there.
        batch: see there.
        device: see there.
        windows: of a part, at most.

    Returns:
        For each part the numbers of its tokens, and a layout of these tokens in this order.
    """
    layout = window_layout(size, window, shift, batch, device)
    num_places, count = math.prod(window), len(layout.places)
    tokens, masks = layout.tokens.cpu().numpy(), layout.masks.cpu().numpy()
    parts, first = [], 0
    for of_group, mask in layout.groups:
        for done in range(0, of_group, windows):
            number = min(windows, of_group - done)
            own = tokens[first * num_places : (first + number) * num_places]
            is_token = own < count
            numbers = np.where(is_token, is_token.cumsum() - 1, is_token.sum())
            group, of_part = (number, None if mask is None else 0), slice(0) if mask is None else slice(mask, mask + 1)
            part = _layout(numbers, int(is_token.sum()), window, [group], masks[of_part], device)
            parts.append((torch.from_numpy(own[is_token]).to(device), part))
            first += number
    return tuple(parts)


class _Picked(torch.autograd.Function):
    """Tokens in the order of the places of a layout.

    The gradient is picked, too: PyTorch, which cannot know that every token has one place, would add row by row.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, tokens: Tensor, places: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(places, padding)
        return x.index_select(0, tokens)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        places, padding = ctx.saved_tensors
        if not len(padding):
            return grad.index_select(0, places), None, None, None
        picked = grad.new_empty(len(places) + 1, grad.shape[1])
        torch.index_select(grad, 0, places, out=picked[:-1])
        torch.sum(grad.index_select(0, padding), dim=0, out=picked[-1])
        return picked, None, None, None


class _Placed(torch.autograd.Function):
    """What is in the places of a layout in the order of the tokens: the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, tokens_of_all: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(tokens_of_all, padding)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        tokens_of_all, padding = ctx.saved_tensors
        placed = grad.index_select(0, tokens_of_all)
        return placed.index_fill_(0, padding, 0) if len(padding) else placed, None, None, None


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias per relative position.

    Args:
        dim: channels.
        num_heads: must divide `dim`.
        window: frames, rows and columns of a full window.
    """

    def __init__(self, dim: int, num_heads: int, window: Size3) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide dim={dim}")
        self.num_heads, self.window = num_heads, window
        num_rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.empty(num_rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self._kept_bias: tuple[int, Tensor, Tensor] | None = None

    def position_bias(self, num_tokens: int) -> Float[Tensor, "1 head token token"]:
        """Bias of every pair of tokens; on a CPU it is kept between calls without gradients, while its table stays.

        The numbers of the table are compared: PyTorch's fused AdamW, and whoever writes to `.data`, changes weights
        without raising the version of the tensor. A GPU, which would have to be waited for, makes the bias anew.
        """
        table, kept = self.relative_position_bias_table, self._kept_bias
        is_kept = table.device.type == "cpu" and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        if is_kept and kept is not None:
            of_tokens, of_table, bias = kept
            if of_tokens == num_tokens and of_table.dtype == table.dtype and torch.equal(of_table, table):
                return bias
        bias = self._new_bias(num_tokens)
        self._kept_bias = (num_tokens, table.clone(), bias) if is_kept else None
        return bias

    def _new_bias(self, num_tokens: int) -> Float[Tensor, "1 head token token"]:
        table = self.relative_position_bias_table
        index = relative_position_index(self.window, num_tokens, table.device)
        # On a GPU the gradient of `table[index]` would sort the indices first.
        rows = table.index_select(0, index.flatten())
        return rearrange(rows, "(n m) head -> 1 head n m", n=num_tokens).contiguous()

    def layout(self, x: Float[Tensor, "batch time height width dim"], shift: Size3) -> WindowLayout:
        """Of the windows of `x`; kept per size."""
        return window_layout(self._size(x), *self._window(x, shift), len(x), x.device)

    def _size(self, x: Float[Tensor, "batch time height width dim"]) -> Size3:
        return x.shape[1], x.shape[2], x.shape[3]

    def _window(self, x: Float[Tensor, "batch time height width dim"], shift: Size3) -> tuple[Size3, Size3]:
        return clip_window(self.window, shift, self._size(x))

    def forward(
        self,
        x: Float[Tensor, "batch time height width dim"],
        shift: Size3,
        layout: WindowLayout | None = None,
        *,
        overwrites: bool = False,
    ) -> Float[Tensor, "batch time height width dim"]:
        """Attend inside windows after a cyclic shift; shape and order of the tokens are unchanged.

        Maps are padded at the end to whole windows with zeros that take part in the attention as any token does:
        so does the published model. All of them are one token here, and their output is not computed.

        Args:
            x: the tokens.
            shift: of the windows.
            layout: of the windows, made here if it is not given.
            overwrites: `x` may be overwritten, because nobody needs it any more.
        """
        tokens = x.flatten(0, 3)
        if is_split(x) and 3 * tokens.numel() > VALUES_AT_ONCE:
            size, (window, shift) = self._size(x), self._window(x, shift)
            windows = max(1, VALUES_AT_ONCE // (3 * math.prod(window) * tokens.shape[1]))
            out = tokens if overwrites else torch.empty_like(tokens)
            self._attend_in_parts(tokens, window_parts(size, window, shift, len(x), x.device, windows), out)
            return out.view(x.shape)
        layout = layout or self.layout(x, shift)
        bias = self.position_bias(math.prod(layout.window))
        return self._attend(tokens, bias, layout).view(x.shape)

    def _attend(
        self, tokens: Float[Tensor, "token dim"], bias: Float[Tensor, "1 head place_in place_in"], layout: WindowLayout
    ) -> Float[Tensor, "token dim"]:
        qkv = self.qkv(F.pad(tokens, (0, 0, 0, 1)) if layout.has_padding else tokens)
        attend = self._attend_by_kernel if is_suitable(qkv, bias) else self._attend_by_group
        return self.proj(attend(qkv, bias, layout))

    def _attend_by_kernel(
        self, qkv: Float[Tensor, "row three_dim"], bias: Float[Tensor, "1 head place_in place_in"], layout: WindowLayout
    ) -> Float[Tensor, "token dim"]:
        masks, mask_of_window = layout.masks, layout.mask_of_window
        return window_attention(qkv, layout.tokens, bias[0], masks, mask_of_window, num_tokens=len(layout.places))

    def _attend_by_group(
        self, qkv: Float[Tensor, "row three_dim"], bias: Float[Tensor, "1 head place_in place_in"], layout: WindowLayout
    ) -> Float[Tensor, "token dim"]:
        """One call for the windows of each mask: most windows have none."""
        picked = qkv if layout.in_order else _Picked.apply(qkv, layout.tokens, layout.places, layout.padding)
        in_windows, bias = self._in_windows(picked, layout), bias.to(qkv.dtype)
        masked = (bias + layout.masks[:, None].to(bias.dtype)).split(1) if len(layout.masks) else ()
        counts = [count for count, _ in layout.groups]
        parts = in_windows.split(counts, dim=1) if len(counts) > 1 else [in_windows]  # its gradient is a copy
        attended = []
        for (query, key, value), (_, mask) in zip(parts, layout.groups, strict=True):
            pairs = bias if mask is None else masked[mask]
            of_group = F.scaled_dot_product_attention(query, key, value, attn_mask=pairs)
            attended.append(rearrange(of_group, "window head token c -> (window token) (head c)"))
        joined = attended[0] if len(attended) == 1 else torch.cat(attended)
        if layout.in_order:
            return joined
        return _Placed.apply(joined, layout.places, layout.tokens_of_all, layout.padding)

    def _in_windows(
        self, qkv: Float[Tensor, "place three_dim"], layout: WindowLayout
    ) -> Float[Tensor, "3 window head token channel"]:
        return rearrange(
            qkv,
            "(window token) (three head c) -> three window head token c",
            token=math.prod(layout.window),
            three=3,
            head=self.num_heads,
        )

    def _attend_in_parts(
        self,
        tokens: Float[Tensor, "token dim"],
        parts: Sequence[tuple[Int[Tensor, " _"], WindowLayout]],
        out: Float[Tensor, "token dim"],
    ) -> None:
        """Some windows after the other, so that long clips need little more memory than their tokens.

        Args:
            tokens: in the order of the map.
            parts: of `window_parts`.
            out: where the results are written; may be `tokens`, because every token is in one window.
        """
        # not kept: those of all blocks are 85 MB, and take 16 ms of seconds
        bias = self._new_bias(math.prod(parts[0][1].window))
        for numbers, layout in parts:
            part = self._attend(tokens.index_select(0, numbers), bias, layout)
            out.index_copy_(0, numbers, part.to(out.dtype))
