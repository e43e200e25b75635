"""The network of the decoder: a picture on its way from noise, at two resolutions, told of its condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention, silu

from lightcrl.heads.flow import FREQUENCIES, encode_times

PATCH = 4
"""Width of the squares of pixels that the network reads and writes at once."""
GROUPS = 8
"""Number of groups of channels that are normalised together."""


class PictureNetwork(nn.Module):
    """A small U-Net: squares of pixels at a quarter of the resolution, attention at an eighth.

    Args:
        size: width and height of a picture in pixels, a multiple of 8.
        channels: channels at a quarter of the resolution; three times as many at an eighth.
        blocks: blocks at each resolution, on the way down and on the way up.
        condition: width of the condition.
    """

    def __init__(self, size: int, channels: int, blocks: int, condition: int) -> None:
        super().__init__()
        wide, cells = 3 * channels, size // PATCH
        self.time = nn.Linear(2 * FREQUENCIES, condition)
        self.entry = nn.Conv2d(3 * PATCH**2, channels, 3, padding=1)
        # Convolutions do not know their place.
        self.place = nn.Parameter(torch.randn(1, channels, cells, cells) * 0.02)
        self.wide_place = nn.Parameter(torch.randn(1, wide, cells // 2, cells // 2) * 0.02)
        self.down = nn.ModuleList(_Block(channels, channels, condition) for _ in range(blocks))
        self.narrow = nn.Conv2d(channels, wide, 2, stride=2)
        # Modulation is the same everywhere; where things stand is told by a small map of its own.
        self.layout = nn.Linear(condition, channels // 2 * (cells // 2) ** 2)
        self.spread = nn.Conv2d(channels // 2, wide, 1)
        self.middle = nn.ModuleList(_Block(wide, wide, condition) for _ in range(2 * blocks))
        self.looks = nn.ModuleList(_Attention(wide) for _ in range(blocks))
        self.widen = nn.Conv2d(wide, 4 * channels, 1)
        self.up = nn.ModuleList(_Block((1 + (n == 0)) * channels, channels, condition) for n in range(blocks))
        self.end = nn.Conv2d(channels, 3 * PATCH**2, 3, padding=1)
        # Late in the path most of a pixel is known, and need not pass through the network.
        self.keep = nn.Linear(2 * FREQUENCIES, 1)
        for parameter in (*self.end.parameters(), *self.keep.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, pictures: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        """Return predictions of the pictures [N, 3, S, S] from places [N, 3, S, S], times [N], conditions [N, c]."""
        # Linear in the condition: what words add up to in combinations seen, they add up to in others.
        encoded = encode_times(times)
        told = condition + self.time(encoded)
        cells = pixel_unshuffle(pictures, PATCH).contiguous(memory_format=torch.channels_last)
        fine = self.entry(cells) + self.place
        for block in self.down:
            fine = block(fine, told)
        layout = self.layout(told).view(len(told), -1, *self.wide_place.shape[-2:])
        values = self.narrow(fine) + self.wide_place + self.spread(layout)
        for number, block in enumerate(self.middle):
            values = block(values, told)
            if number % 2 == 0:
                values = self.looks[number // 2](values)
        values = torch.cat([fine, pixel_shuffle(self.widen(values), 2)], 1)
        for block in self.up:
            values = block(values, told)
        made = pixel_shuffle(self.end(silu(_norm(values))), PATCH)
        return made + self.keep(encoded).to(made.dtype)[..., None, None] * pictures

    def hidden(self) -> list[Tensor]:
        """Return the weights of all linear maps and convolutions from features to features."""
        outer = (self.entry, self.end, self.keep)
        inner = (m for m in self.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m not in outer)
        return [module.weight for module in inner]


class _Block(nn.Module):
    """Two convolutions with a residual path; the second is scaled and shifted by the condition."""

    def __init__(self, inner: int, outer: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, padding=1)
        self.second = nn.Conv2d(outer, outer, 3, padding=1)
        self.told = nn.Linear(condition, 2 * outer)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else None
        nn.init.zeros_(self.second.weight)

    def forward(self, values: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.told(told)[..., None, None].chunk(2, 1)
        inner = _norm(self.first(silu(_norm(values)))) * (1 + scale) + shift
        return (values if self.skip is None else self.skip(values)) + self.second(silu(inner))


class _Attention(nn.Module):
    """Attention of every cell to every other: how many things there are is nowhere to be seen at one place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // 32)
        self.parts, self.output = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        nn.init.zeros_(self.output.weight)

    def forward(self, values: Tensor) -> Tensor:
        count, channels, height, width = values.shape
        cells = _norm(values).flatten(2).mT
        parts = self.parts(cells).view(count, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # The gradient of attention in bfloat16 takes four times as long on a CPU.
        with torch.autocast(values.device.type, enabled=False):
            seen = scaled_dot_product_attention(*parts.float().unbind(0)).transpose(1, 2).flatten(2)
        return values + self.output(seen).mT.view(count, channels, height, width)


def _norm(values: Tensor) -> Tensor:
    return group_norm(values, GROUPS)
