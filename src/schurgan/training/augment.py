"""DiffAugment (Zhao et al. 2020): D sees real and generated images only through the same random changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from schurgan.core.errors import did_you_mean
from schurgan.training.learner import Noise, uniform

POLICIES = ("colour", "translation", "cutout")
GAIN_DB = 12.0  # how much quieter the gain makes a sound at most
TONE = 0.5  # largest bend of the tone curve; below 1 it can be undone
N_DRAWS = 9  # colour 3, translation 2, cutout 2 for each of up to two boxes

Colour = Callable[["DiffAugment", Tensor, Tensor], Tensor]


class DiffAugment(nn.Module):
    """Random changes of images, differentiable in them, new for each image, for every image that D is shown.

    images (B, C, H, W) in [−1, 1], rows ascending in frequency, columns in time  ->  the same shape and type.

        augment = DiffAugment("colour,translation,cutout", images="log")
        scores_real, scores_fake = discriminator(augment(torch.cat([real, fake]), noise), labels.repeat(2)).chunk(2)

    **Sounds** (all but "photo"). A changed sound should be one that might have been recorded, so silence stays silence
    (the floor is a fixed point of all that follows) and nothing leaves [−1, 1]:
    - colour: the dynamic range, by the curve m + k m (1 − m) of the level m = (x + 1)/2 with k from −½ to ½, which
      keeps silence and full scale and presses or spreads what lies between (contrast); then a gain of −12 to 0 dB
      (brightness): of the logarithmic scales a shift that stops at the floor, of the linear one a factor. Gains above
      0 dB would leave the range: images are relative to their clip's maximum. All channels alike: equal ones stay
      equal. Images with a colour map have colours instead of levels, and get the brightness, saturation and contrast of
      photographs, for which silence is a colour like any other and which do leave the range.
    - translation: in time by up to an eighth of the width, what moves in being silence; in frequency by up to 1/32 of
      the height (about three semitones on the wavelet's 7½ octaves), as pitch and formants name many classes.
    - cutout: one band of time, an eighth of the width, and one of frequency, an eighth of the height, are silenced:
      a drop-out and a band-stop. They hide up to 23 % of an image, the single box of the original 25 %.

    **Photographs**: the original's. Brightness ±½, saturation ×0 to 2, contrast ×½ to 1½; translation by an eighth both
    ways; one box of half the height and width; mid-grey where nothing is.

    `noise` is a generator on the CPU, or a `Noise`: each call takes nine numbers an image from it, whatever the policy,
    so that leaving one change out leaves the others as they were, and none where there is nothing to do.

    Args:
        policy: any of "colour", "translation", "cutout", with commas between; "" changes nothing.
        strength: from 0, no change, to 1, the ranges above.
        images: what the images are, which decides what a change means: a scale of `schurgan.audio.Spectrogram` ("log",
            "log_real", "linear"), "colormap" for one with a colour map, or "photo".
        floor_db: level of −1 below that of 1, for the logarithmic scales.
        floor: value of silence, one for all channels or one for each; by default −1, for photographs 0.

    Raises:
        ValueError: an unknown policy or kind of image, a strength outside 0 to 1, or another shape of images.
    """

    floor: Tensor

    def __init__(
        self,
        policy: str = "colour,translation,cutout",
        strength: float = 1.0,
        *,
        images: str = "log",
        floor_db: float = 80.0,
        floor: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        names = [name.strip() for name in policy.split(",") if name.strip()]
        for argument, value, known in (*(("policy", name, POLICIES) for name in names), ("images", images, KINDS)):
            if value not in known:
                near = did_you_mean(value, known) or f": {', '.join(known)} are known"
                raise ValueError(f'{argument} "{value}": no such {argument}{near}')
        if not 0 <= strength <= 1:
            raise ValueError(f"strength: {strength} given, a number from 0 to 1 is needed")
        if not floor_db > 0:
            raise ValueError(f"floor_db: {floor_db} given, a number of decibels above 0 is needed")
        self.policy = tuple(name for name in POLICIES if name in names) if strength else ()
        self.strength = strength
        self.images = images
        self.floor_db = floor_db
        self.kind = KINDS[images]
        level = torch.tensor(self.kind.floor if floor is None else floor, dtype=torch.float32)
        self.register_buffer("floor", level[:, None, None] if level.ndim else level, persistent=False)

    def forward(self, images: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """Change images (B, C, H, W), each in its own way, by random numbers on the CPU."""
        if images.ndim != 4:
            raise ValueError(f"images: shape {tuple(images.shape)} given, (B, C, H, W) is needed")
        if not self.policy:
            return images
        draws = uniform(noise, len(images), N_DRAWS).to(images.device, non_blocking=True)
        out = images
        if "colour" in self.policy:
            out = self.kind.colour(self, out, draws[:, :3])
        if "translation" in self.policy:
            out = self._translate(out, draws[:, 3:5])
        if "cutout" in self.policy:
            out = self._cut_out(out, draws[:, 5:])
        channels_last = images.is_contiguous(memory_format=torch.channels_last)
        return out.to(images.dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def extra_repr(self) -> str:
        """Return the options."""
        return f'"{",".join(self.policy)}", strength={self.strength}, images="{self.images}"'

    def _translate(self, x: Tensor, draws: Tensor) -> Tensor:
        """Whole pixels, by at most the kind's share of each axis; what comes in from outside is the floor."""
        channels, height, width = x.shape[1:]
        index, inside = [], []
        for size, share, draw in zip((height, width), self.kind.shift, draws.unbind(1), strict=True):
            most = rounded(size * share * self.strength)
            source = torch.arange(size, device=x.device) + whole(draw, 2 * most + 1)[:, None] - most  # (B, size)
            inside.append((source >= 0) & (source < size))
            index.append(source.clamp(0, size - 1))
        pixel = (index[0][:, :, None] * width + index[1][:, None, :]).flatten(1)  # (B, HW)
        moved = x.flatten(2).gather(2, pixel[:, None].expand(-1, channels, -1)).view_as(x)
        kept = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return torch.where(kept, moved, self.floor.to(x.dtype))

    def _cut_out(self, x: Tensor, draws: Tensor) -> Tensor:
        """Boxes whose centre may be anywhere in the image, so that they may hang over its edge, set to the floor."""
        cut = torch.zeros((), dtype=torch.bool, device=x.device)
        for shares, pair in zip(self.kind.boxes, draws.split(2, 1), strict=False):
            box = torch.ones((), dtype=torch.bool, device=x.device)
            for axis, share, draw in zip((2, 3), shares, pair.unbind(1), strict=True):
                if share is None:
                    continue
                size = x.shape[axis]
                length = rounded(size * share * self.strength)
                start = whole(draw, size + 1 - length % 2) - length // 2
                distance = torch.arange(size, device=x.device) - start[:, None]  # (B, size)
                hit = (distance >= 0) & (distance < length)
                box = box & (hit[:, None, :, None] if axis == 2 else hit[:, None, None, :])
            cut = cut | box
        return torch.where(cut, self.floor.to(x.dtype), x)


def tone_curve(augment: DiffAugment, x: Tensor, draw: Tensor) -> Tensor:
    """Bend the level: m ↦ m + k m (1 − m) for the level m = (x + 1)/2: rising, 0 ↦ 0, 1 ↦ 1."""
    level = (x + 1) / 2
    return 2 * (level + TONE * augment.strength * signed(draw, x) * level * (1 - level)) - 1


def log_colour(augment: DiffAugment, x: Tensor, draws: Tensor) -> Tensor:
    """Bend and lower the level of a logarithmic scale."""
    x = tone_curve(augment, x, draws[:, 0])
    down = GAIN_DB * augment.strength * (signed(draws[:, 1], x) + 1) / 2
    return torch.relu(x + 1 - down * (2 / augment.floor_db)) - 1


def linear_colour(augment: DiffAugment, x: Tensor, draws: Tensor) -> Tensor:
    """Bend and lower the level of a linear scale."""
    x = tone_curve(augment, x, draws[:, 0])
    down = GAIN_DB * augment.strength * (signed(draws[:, 1], x) + 1) / 2
    return (x + 1) * 10 ** (-down / 20) - 1


def photo_colour(augment: DiffAugment, x: Tensor, draws: Tensor) -> Tensor:
    """Brightness, saturation (about each pixel's grey), contrast (about the image's mean), as in the original."""
    brightness, saturation, contrast = (augment.strength * signed(draw, x) for draw in draws.unbind(1))
    x = x + brightness / 2
    grey = x.mean(1, keepdim=True)
    x = grey + (1 + saturation) * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (1 + contrast / 2) * (x - mean)


def signed(draw: Tensor, x: Tensor) -> Tensor:
    """Map u in [0, 1) (B,)  ->  2u − 1 (B, 1, 1, 1) on the images' type, or float32 where that is a half one."""
    return (2 * draw - 1).to(torch.promote_types(x.dtype, torch.float32))[:, None, None, None]


def whole(draw: Tensor, count: int) -> Tensor:
    """Map u in [0, 1)  ->  0 to count − 1, each as likely."""
    return (draw * count).long().clamp_max(count - 1)  # float32 may round u · count up to count


def rounded(pixels: float) -> int:
    """Round half up."""
    return int(pixels + 0.5)


@dataclass(frozen=True)
class Kind:
    """What the changes are for one kind of image.

    shift  largest translation as a share of (height, width)
    boxes  what is cut out, each as shares of (height, width), None for all of it
    """

    colour: Colour
    shift: tuple[float, float]
    boxes: tuple[tuple[float | None, float | None], ...]
    floor: float


SOUND_SHIFT = (1 / 32, 1 / 8)
SOUND_BOXES = ((None, 1 / 8), (1 / 8, None))
KINDS = {
    "log": Kind(log_colour, SOUND_SHIFT, SOUND_BOXES, -1.0),
    "log_real": Kind(log_colour, SOUND_SHIFT, SOUND_BOXES, -1.0),
    "linear": Kind(linear_colour, SOUND_SHIFT, SOUND_BOXES, -1.0),
    "colormap": Kind(photo_colour, SOUND_SHIFT, SOUND_BOXES, -1.0),
    "photo": Kind(photo_colour, (1 / 8, 1 / 8), ((1 / 2, 1 / 2),), 0.0),
}
