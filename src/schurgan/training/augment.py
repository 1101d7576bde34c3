"""DiffAugment (Zhao et al. 2020): D sees real and generated images only through the same random changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from schurgan.core.errors import did_you_mean
from schurgan.training.learner import Noise, uniform

POLICIES = ("colour", "translation", "cutout")
GAIN_DB = 12.0  # how much quieter the gain makes a sound at most
TONE = 0.5  # largest bend of the tone curve; below 1 it can be undone
N_DRAWS = 9  # colour 3, translation 2, cutout 2 for each of up to two boxes


class DiffAugment(nn.Module):
    """Random changes of images, differentiable in them, new for each image, for every image that D is shown.

    **Sounds** (all but "photo"). A changed sound should be one that might have been recorded, so silence stays silence
    and nothing leaves [−1, 1]:
    - colour: a tone curve, m + k m (1 − m) of the level m = (x + 1)/2 with k from −½ to ½, which keeps silence and full
      scale; then a gain of −12 to 0 dB, on the logarithmic scales a shift that stops at the floor. All channels alike.
      Images with a colour map get the changes of photographs, for which silence is a colour like any other.
    - translation: in time by up to an eighth of the width, what moves in being silence; in frequency by up to 1/32 of
      the height (about three semitones on the wavelet's 7½ octaves), as pitch and formants name many classes.
    - cutout: one band of time, an eighth of the width, and one of frequency, an eighth of the height, are silenced:
      a drop-out and a band-stop. They hide up to 23 % of an image, the single box of the original 25 %.

    **Photographs**: the original's. Brightness ±½, saturation ×0 to 2, contrast ×½ to 1½; translation by an eighth both
    ways; one box of half the height and width; mid-grey where nothing is.

    Args:
        policy: any of "colour", "translation", "cutout", with commas between; "" changes nothing.
        strength: from 0, no change, to 1, the ranges above.
        images: what the images are: a scale of `schurgan.audio.Spectrogram` ("log", "log_real", "linear"), "colormap"
            for one with a colour map, or "photo".
        floor_db: level of −1 below that of 1, for the logarithmic scales.
        floor: value of silence, one for all channels or one for each; by default −1, for photographs 0.

    Raises:
        ValueError: an unknown policy.
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
        for name in names:
            if name not in POLICIES:
                near = did_you_mean(name, POLICIES) or f": {', '.join(POLICIES)} are known"
                raise ValueError(f'policy "{name}": no such policy{near}')
        self.policy = tuple(name for name in POLICIES if name in names) if strength else ()
        self.strength, self.images, self.floor_db = strength, images, floor_db
        photo = images == "photo"
        # Shares of (height, width): the largest translation, and what is cut out, None for all of an axis.
        self.shift = (1 / 8, 1 / 8) if photo else (1 / 32, 1 / 8)
        self.boxes: tuple[tuple[float | None, float | None], ...]
        self.boxes = ((1 / 2, 1 / 2),) if photo else ((None, 1 / 8), (1 / 8, None))
        level = torch.tensor((0.0 if photo else -1.0) if floor is None else floor)
        self.register_buffer("floor", level[:, None, None] if level.ndim else level, persistent=False)

    def forward(self, images: Tensor, noise: torch.Generator | Noise) -> Tensor:
        """Change images (B, C, H, W) in [−1, 1], rows ascending in frequency, each in its own way.

        Each call takes nine numbers an image from `noise`, whatever the policy, so that leaving one change out leaves
        the others as they were; none where there is nothing to do.
        """
        if not self.policy:
            return images
        draws = uniform(noise, len(images), N_DRAWS).to(images.device, non_blocking=True)
        out = images
        if "colour" in self.policy:
            out = self.colour(out, draws[:, :3])
        if "translation" in self.policy:
            out = self._translate(out, draws[:, 3:5])
        if "cutout" in self.policy:
            out = self._cut_out(out, draws[:, 5:])
        # `to`, not `contiguous`, which leaves the strides of one channel as they are, so that other kernels follow.
        channels_last = images.is_contiguous(memory_format=torch.channels_last)
        return out.to(images.dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def colour(self, x: Tensor, draws: Tensor) -> Tensor:
        """Bend and lower the level of sounds, or change colours as the original does, by draws (B, 3) in [0, 1)."""
        signed = (2 * draws - 1).to(x.dtype)[:, :, None, None, None]
        if self.images in ("photo", "colormap"):
            brightness, saturation, contrast = (self.strength * each for each in signed.unbind(1))
            x = x + brightness / 2
            grey = x.mean(1, keepdim=True)
            x = grey + (1 + saturation) * (x - grey)
            mean = x.mean((1, 2, 3), keepdim=True)
            return mean + (1 + contrast / 2) * (x - mean)
        level = (x + 1) / 2
        x = 2 * (level + TONE * self.strength * signed[:, 0] * level * (1 - level)) - 1
        down = GAIN_DB * self.strength * (signed[:, 1] + 1) / 2
        if self.images == "linear":
            return (x + 1) * 10 ** (-down / 20) - 1
        return torch.relu(x + 1 - down * (2 / self.floor_db)) - 1

    def _translate(self, x: Tensor, draws: Tensor) -> Tensor:
        """Whole pixels, by at most the kind's share of each axis; what comes in from outside is the floor."""
        channels, height, width = x.shape[1:]
        index, inside = [], []
        for size, share, draw in zip((height, width), self.shift, draws.unbind(1), strict=True):
            most = int(size * share * self.strength + 0.5)
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
        for shares, pair in zip(self.boxes, draws.split(2, 1), strict=False):
            box = torch.ones((), dtype=torch.bool, device=x.device)
            for axis, share, draw in zip((2, 3), shares, pair.unbind(1), strict=True):
                if share is None:
                    continue
                size = x.shape[axis]
                length = int(size * share * self.strength + 0.5)
                start = whole(draw, size + 1 - length % 2) - length // 2
                distance = torch.arange(size, device=x.device) - start[:, None]  # (B, size)
                hit = (distance >= 0) & (distance < length)
                box = box & (hit[:, None, :, None] if axis == 2 else hit[:, None, None, :])
            cut = cut | box
        return torch.where(cut, self.floor.to(x.dtype), x)


def whole(draw: Tensor, count: int) -> Tensor:
    """Map u in [0, 1)  ->  0 to count − 1, each as likely."""
    return (draw * count).long().clamp_max(count - 1)  # float32 may round u · count up to count
