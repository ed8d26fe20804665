"""Random numbers of treatments: they depend on a key and on the values alone, so that a growth is the same anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lit_recycle.growth.treatments import Part
from lit_recycle.seeding import generator_of

BLOCK = 1 << 18
"""Values that noise is drawn for at once; a part of what the noise is, not to be changed."""


def matrices(part: Part, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The matrices that are stacked in a part, each with its name; views."""
    names = part.axes.matrices
    if part.axes.stack is None:
        yield (names or (part.name,))[0], values
        return
    dimension, alternate = part.axes.stack
    for i, name in enumerate(names):
        rows = values.shape[dimension] // len(names)
        index = slice(i, None, len(names)) if alternate else slice(i * rows, (i + 1) * rows)
        yield name, values[(slice(None),) * dimension + (index,)]


def add_noise(part: Part, alpha: float) -> None:
    """Gaussian noise on each matrix, relative to its standard deviation."""
    assert part.is_whole, f"noise on {part.name} needs the whole matrix in one process"
    for name, matrix in matrices(part, part.values):
        _add_noise((*part.key[:-1], name, part.key[-1]), matrix, alpha)


def _add_noise(key: tuple[object, ...], values: Tensor, alpha: float) -> None:
    """Drawn in float32 on the CPU, block by block, so that a matrix of any size needs little memory beside its own
    and its blocks stay in the cache."""
    generator = generator_of(*key)
    flat = values.reshape(-1)  # a view, unless the matrix is interleaved with another
    scale = alpha * _deviation(flat)
    epsilon = torch.empty(min(BLOCK, flat.numel()), dtype=torch.float32)
    for block in flat.split(BLOCK):
        noise = epsilon[: block.numel()].normal_(generator=generator).mul_(scale).to(block.device)
        block.copy_(noise.to(torch.promote_types(block.dtype, torch.float32)).add_(block))
    if flat.data_ptr() != values.data_ptr():
        values.copy_(flat.view_as(values))


def _deviation(flat: Tensor) -> float:
    """Standard deviation, summed in float64, where the order of summation is lost when rounding to float32."""
    pivot = flat[0].double()  # so that values that are all alike have a deviation of exactly zero
    total = square = torch.zeros((), dtype=torch.float64, device=flat.device)
    for block in flat.split(BLOCK):
        distance = block.double() - pivot
        total, square = total + distance.sum(), square + torch.dot(distance, distance)
    variance = square / flat.numel() - (total / flat.numel()).square()
    return variance.clamp(min=0).sqrt().float().item()


def draw(part: Part, std: float, tied: int) -> None:
    """From N(0, std²), in float32; drawn whole, then cut."""
    *where, expert = part.key
    group = expert // tied if isinstance(expert, int) else expert
    whole = torch.empty(part.shape, dtype=torch.float32)
    whole.normal_(0.0, std, generator=generator_of(*where, group, part.name, "draw"))
    part.values.copy_(whole[part.window])


def jitter(part: Part, size: float) -> None:
    """Uniform in ± size, added."""
    generator = generator_of(*part.key, part.name, "jitter")
    whole = torch.empty(part.shape, dtype=torch.float32).uniform_(-size, size, generator=generator)
    part.values.add_(whole[part.window].to(part.values))


def spread(part: Part, axis: str, strength: float) -> None:
    """Multiply the copies of each input by 1 + ε, with ε of sum zero over the copies of one source."""
    dimension = next((i for i, d in enumerate(part.axes.dimensions) if d.summed and axis in d.factors), None)
    mapped = part.maps.get(axis)
    if dimension is None or mapped is None or not part.values.numel():
        return
    sources = part.axes.dimensions[dimension].indices(
        axis, mapped.size, mapped.sources, part.shape[dimension] * mapped.size // len(mapped.sources)
    )
    index = torch.tensor(sources)
    epsilon = torch.empty(part.shape, dtype=torch.float64).normal_(0.0, strength, generator=_spread_key(part, axis))
    shape = [*part.shape]
    shape[dimension] = int(index.max()) + 1
    total = torch.zeros(shape, dtype=torch.float64).index_add_(dimension, index, epsilon)
    count = torch.bincount(index).view([-1 if i == dimension else 1 for i in range(len(shape))])
    epsilon -= (total / count).index_select(dimension, index)
    _multiply(part, epsilon.add_(1.0))


def _spread_key(part: Part, axis: str) -> torch.Generator:
    return generator_of(*part.key, part.name, "spread", axis)


def spread_copies(part: Part, source: int, turn: int, copies: int, strength: float) -> None:
    """Multiply an expert's copy by 1 + ε, with ε of sum zero over the copies, each of which is drawn by all of them."""
    factor = torch.ones(part.shape, dtype=torch.float64)
    for of in range(copies):
        generator = generator_of(*part.key[:-1], source, part.name, "spread", of)
        epsilon = torch.empty(part.shape, dtype=torch.float64).normal_(0.0, strength, generator=generator)
        factor.add_(epsilon, alpha=(of == turn) - 1 / copies)
    _multiply(part, factor)


def _multiply(part: Part, factor: Tensor) -> None:
    """By a float64 factor of the whole part, rounded once, so that copies in 16 bits add up as well as can be."""
    part.values.copy_(part.values.double().mul_(factor[part.window].to(part.values.device)))


def redrawn(part: Part, axis: str, share: float) -> Iterator[Tensor]:
    """The channels of each matrix that are drawn anew, ``[channels, …]``; views with the channels first."""
    dimension = next((i for i, d in enumerate(part.axes.dimensions) if axis in d.factors), None)
    if dimension is None:
        return
    assert part.is_whole, f"channels of {part.name} are drawn where the whole matrix is"
    for _, matrix in matrices(part, part.values):
        channels = matrix.movedim(dimension, 0)
        count = round(share * len(channels))
        chosen = torch.randperm(len(channels), generator=generator_of(*part.key, "channels"))[:count]
        yield from (channels[i] for i in chosen.sort().values.tolist())


def redraw(part: Part, axis: str, share: float) -> None:
    """Draw channels anew from N(mean, std²) of all that is replaced in a matrix."""
    rows = list(redrawn(part, axis, share))
    names = [name for name, _ in matrices(part, part.values)]
    count = len(rows) // max(len(names), 1)
    for i, name in enumerate(names):
        old = rows[i * count : (i + 1) * count]
        if not old:
            continue
        values = torch.stack(old).float()
        new = torch.empty(values.shape).normal_(generator=generator_of(*part.key, name, "redraw")).to(values.device)
        for row, drawn in zip(old, values.mean() + values.std(correction=0) * new, strict=True):
            row.copy_(drawn)
