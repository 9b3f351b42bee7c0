"""Random changes to a batch of drawings: pose, colours, shading, outline, shadow and background, as tensors.

Drawings are flat, and what a model must know is often drawn as if solid. So the alpha channel is used as a
mask: gradients and highlights inside it, an outline and a shadow around it, another background behind it.
A picture without transparency (a photograph) gets the pose and colour changes alone. Everything happens on the
generator's device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentOptions:
    """How much is changed; probabilities are for one picture."""

    degrees: float = 15.0
    zoom: tuple[float, float] = (0.65, 1.1)
    shift: float = 0.12
    stretch: float = 0.15  # of the logarithm of width over height, halved
    flip: float = 0.5
    recolour: float = 0.9  # of pictures in one colour
    hue: float = 0.5
    shade: float = 0.5
    highlight: float = 0.3
    outline: float = 0.2
    shadow: float = 0.3
    plain: float = 0.5  # a white or nearly white background
    blur: float = 0.2
    grey: float = 0.07
    noise: float = 0.2


def _random(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * _uniform(count, generator=generator)


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    """From 0 to 1, on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def _some(count: int, share: float, generator: torch.Generator) -> Tensor:
    return (_uniform(count, generator=generator) < share).float()[:, None, None, None]


def pose(rgba: Tensor, size: int, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """[B, 4, S, S] -> [B, 4, size, size]: turned, zoomed, stretched, shifted and flipped; clear outside."""
    count = len(rgba)
    angle = _random(count, -options.degrees, options.degrees, generator) * math.pi / 180
    zoom = _random(count, *options.zoom, generator)
    stretch = torch.exp(_random(count, -options.stretch, options.stretch, generator))
    flip = 1 - 2 * (_uniform(count, generator=generator) < options.flip).float()
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    shift = _random(2 * count, -options.shift, options.shift, generator).view(count, 2)
    matrix = torch.stack(
        [
            torch.stack([cos * stretch * flip, -sin, shift[:, 0]], dim=1),
            torch.stack([sin * flip, cos / stretch, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(matrix, [count, 4, size, size], align_corners=False)
    # Colours are weighted by alpha while they are mixed, or the clear pixels' white bleeds into the edges.
    weighted = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
    moved = functional.grid_sample(weighted, grid, mode="bilinear", align_corners=False)
    return torch.cat([moved[:, :3] / moved[:, 3:].clamp_min(1e-4), moved[:, 3:]], dim=1)


def _ramp(count: int, size: int, generator: torch.Generator) -> Tensor:
    """[B, 1, size, size], from -1 to 1 in a random direction."""
    angle = _random(count, 0, 2 * math.pi, generator)[:, None, None]
    line = torch.linspace(-1, 1, size, device=generator.device)
    return (torch.cos(angle) * line[None, None, :] + torch.sin(angle) * line[None, :, None])[:, None]


def shade(colour: Tensor, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """Light from one side, and a highlight: [B, 3, S, S] -> the same."""
    count, _, size, _ = colour.shape
    strength = _random(count, 0.1, 0.45, generator)[:, None, None, None] * _some(
        count, options.shade, generator
    )
    colour = colour * (1 + strength * _ramp(count, size, generator))
    centre = _random(2 * count, -0.6, 0.6, generator).view(count, 2, 1, 1)
    line = torch.linspace(-1, 1, size, device=generator.device)
    distance = (line[None, None, :] - centre[:, 0]) ** 2 + (line[None, :, None] - centre[:, 1]) ** 2
    width = _random(count, 0.05, 0.4, generator)[:, None, None]
    spot = torch.exp(-distance / width)[:, None] * _some(count, options.highlight, generator)
    spot = spot * _random(count, 0.2, 0.7, generator)[:, None, None, None]
    return colour + (1 - colour) * spot


def recolour(colour: Tensor, single: Tensor, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """Another colour for pictures in one colour; a turned hue and changed contrast for the others."""
    count = len(colour)
    change = _some(count, options.recolour, generator) * single.float()[:, None, None, None]
    ink = (
        _uniform(count, 3, 1, 1, generator=generator)
        * _random(count, 0.25, 1.0, generator)[:, None, None, None]
    )
    colour = colour * (1 - change) + ink * change
    turn = _random(count, -0.5, 0.5, generator) * _some(count, options.hue, generator).flatten()
    gain = _random(count, 0.7, 1.35, generator)[:, None, None, None]
    bias = _random(count, -0.1, 0.1, generator)[:, None, None, None]
    mixed = torch.einsum("bij,bjhw->bihw", _hue_matrix(turn * math.pi / 2), colour - 0.5)
    return (mixed * gain + 0.5 + bias).clamp(0, 1)


def _hue_matrix(turn: Tensor) -> Tensor:
    """[B] angles -> [B, 3, 3] rotations about the grey axis."""
    cos, sin = torch.cos(turn), torch.sin(turn)
    a = (1 + 2 * cos) / 3
    b = (1 - cos) / 3 - sin / math.sqrt(3)
    c = (1 - cos) / 3 + sin / math.sqrt(3)
    return torch.stack([a, b, c, c, a, b, b, c, a], dim=1).view(-1, 3, 3)


def background(count: int, size: int, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """[B, 3, size, size]: nearly white, one colour, a gradient, or soft blotches."""
    first = _uniform(count, 3, 1, 1, generator=generator)
    second = _uniform(count, 3, 1, 1, generator=generator)
    mix = _ramp(count, size, generator) * 0.5 * _some(count, 0.5, generator) + 0.5
    colours = first * mix + second * (1 - mix)
    blotches = _uniform(count, 3, 4, 4, generator=generator) - 0.5
    blotches = functional.interpolate(blotches, size=(size, size), mode="bilinear", align_corners=False)
    colours = colours + blotches * _some(count, 0.5, generator) * 0.6
    pale = _some(count, 0.4, generator)
    colours = colours * (1 - 0.6 * pale) + 0.6 * pale
    plain = _some(count, options.plain, generator)
    white = 1 - 0.12 * _uniform(count, 3, 1, 1, generator=generator) * _some(count, 0.5, generator)
    return (colours * (1 - plain) + white * plain).clamp(0, 1)


def augment(
    rgba: Tensor, single: Tensor, *, size: int, options: AugmentOptions, generator: torch.Generator
) -> Tensor:
    """[B, 4, S, S] uint8 with alpha, and which are in one colour [B] -> [B, 3, size, size] floats in 0..1."""
    count = len(rgba)
    moved = pose(rgba.float() / 255, size, options, generator)
    alpha = moved[:, 3:]
    colour = recolour(moved[:, :3], single, options, generator)
    colour = shade(colour, options, generator)
    behind = background(count, size, options, generator)
    # A drawing that is as dark or as bright as its background cannot be seen: that background becomes white.
    area = alpha.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    contrast = ((colour - behind).abs() * alpha).sum(dim=(1, 2, 3), keepdim=True) / area
    behind = torch.where(contrast < 0.35, 1 - 0.15 * behind, behind)
    offset = max(1, size // 24)
    soft = functional.avg_pool2d(alpha, 2 * offset + 1, 1, offset)
    cast = torch.roll(soft, (offset, offset), dims=(2, 3)) * 0.5 * _some(count, options.shadow, generator)
    behind = behind * (1 - cast)
    grown = functional.max_pool2d(alpha, 3, 1, 1)
    ring = (grown - alpha) * _some(count, options.outline, generator)
    behind = behind * (1 - ring) + 0.15 * ring
    image = colour * alpha + behind * (1 - alpha)
    return _finish(image, options, generator).clamp(0, 1)


def _finish(image: Tensor, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    count = len(image)
    blurred = functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    blur = _some(count, options.blur, generator)
    image = image * (1 - blur) + blurred * blur
    grey = _some(count, options.grey, generator)
    image = image * (1 - grey) + image.mean(dim=1, keepdim=True) * grey
    noise = torch.randn(image.shape, generator=generator, device=generator.device) * 0.04
    return image + noise * _some(count, options.noise, generator)
