"""A small classifier of images, trained on real ones: does a generated sound pass for its class?

Its features are what Fréchet distances of spectrograms are taken in: no network trained on photographs knows what a
spectrogram looks like. Numbers are comparable within one trained classifier alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schurgan.core.errors import UserError
from schurgan.data.shards import Shards

ARCHITECTURE = "residual-3/2"
"""Name of the network and of how it is trained: to be changed with either, so that nothing older is taken for it."""
_BATCH = 32
_HELD_OUT = 5  # every fifth clip of a class is kept for testing, where there are no folds
_INSIDE = 64  # larger images are shrunk to this by the first convolution: finer detail only costs time


class Stem(nn.Module):
    """(B, C, R, R) -> (B, width, r, r), r <= 64: a convolution that sees how high in the image each row is.

    A tone two octaves up is another sound; convolutions and means over the image alone could not tell.
    """

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        stride = -(-size // _INSIDE)
        self.conv = nn.Conv2d(channels + 1, width, 2 * stride + 1, stride=stride, padding=stride)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)
        height = rows[None, None, :, None].expand(len(x), 1, -1, x.shape[3])
        h: Tensor = self.conv(torch.cat((x, height), 1))
        return h


class Residual(nn.Module):
    """conv(pool(x)) + conv(ReLU(BN(conv(ReLU(BN(x)))))), halved in size, odd sizes rounded up."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(cin), nn.BatchNorm2d(cout)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        skip: Tensor = self.skip(F.avg_pool2d(x, 2, ceil_mode=True))
        return skip + h


class Classifier(nn.Module):
    """(B, channels, size, size) in [−1, 1] -> logits (B, classes). Three residual blocks, mean over the image.

    With channels = 1, images of several equal channels are judged by their mean.
    """

    def __init__(self, classes: int, size: int, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.size, self.channels = size, channels
        self.stem = Stem(channels, size, width)
        self.blocks = nn.Sequential(
            Residual(width, 2 * width), Residual(2 * width, 4 * width), Residual(4 * width, 4 * width)
        )
        self.norm = nn.BatchNorm2d(4 * width)
        self.head = nn.Linear(4 * width, classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, x: Tensor) -> Tensor:
        """(B, C, size, size) -> (B, 4 width), what the last layer decides by. ValueError for images of another size."""
        if x.ndim != 4 or tuple(x.shape[2:]) != (self.size, self.size) or self.channels not in (1, x.shape[1]):
            wanted = f"(B, {self.channels}, {self.size}, {self.size})"
            raise ValueError(f"images {tuple(x.shape)}: the classifier was trained on {wanted}")
        x = x.mean(1, keepdim=True) if self.channels == 1 else x
        h: Tensor = F.relu(self.norm(self.blocks(self.stem(x.contiguous(memory_format=torch.channels_last)))))
        return h.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """(N, C, size, size) -> class numbers (N,), on the CPU. The network is in eval mode after."""
        self.eval()
        device = self.head.weight.device
        return torch.cat([self(part.to(device)).argmax(1).cpu() for part in torch.split(images, 256)])


@dataclass(frozen=True)
class Trained:
    """A classifier and how often it was right on real clips that it had not seen."""

    network: Classifier
    accuracy: float
    per_class: tuple[float, ...]
    n_train: int
    n_test: int

    def __str__(self) -> str:
        clips = f"{self.n_test} clips held out of {self.n_train + self.n_test}"
        return f"a classifier that knows the class of {self.accuracy:.0%} of {clips}"


def train_classifier(
    shards: Shards,
    *,
    val_folds: Collection[int] = (),
    epochs: int = 40,
    least_steps: int = 400,
    most_steps: int = 4000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train on the real images of `shards`, altered a little each time, and test on those held out.

    val_folds  what the run was not trained on: the classifier is tested on it, and never trained. Without any, the
                   highest fold is held out, or every fifth clip of each class where there are no folds (clips of one
                   origin recording may then be on both sides). Copies at other pitches take no part
    epochs, least_steps, most_steps
                   batches of 32 until every clip was seen `epochs` times, but no fewer and no more than so many; too
                   few, and the batch norms' running statistics still remember where they began
    progress       is called with the steps done and their number

    AdamW, one cycle of the rate up to 3e-3 and down to nothing, label smoothing 0.05. Its probabilities are the plain
    softmax: no temperature was fitted to anything. The same seed gives the same classifier on the same machine, and
    global random numbers stay as they are. Raises UserError when no clip is left to train on or to test on.
    """
    shards = shards.select(augmented=False)
    test = _held_out(shards, val_folds)
    train = (~test).nonzero()[:, 0]
    if not len(train) or not test.any():
        raise UserError(
            f"classifier: {len(train)} clips to train on and {int(test.sum())} to test on; it needs both, so give more "
            "clips or exclude fewer folds"
        )
    channels, size = shards.manifest.planes, shards.shape[-1]
    photo = shards.manifest.kind == "images"
    labels = torch.from_numpy(shards.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(len(shards.classes), size, channels)
    network.to(device).train()
    chance = torch.Generator().manual_seed(seed)
    steps = min(most_steps, max(least_steps, epochs * -(-len(train) // _BATCH)))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step, part in zip(range(steps), draws(train, chance), strict=False):
        images = augment(shards.images(part.numpy())[:, :channels], chance, photo)
        loss = F.cross_entropy(network(images.to(device)), labels[part].to(device), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    network.eval()
    held = test.nonzero()[:, 0]
    taken = torch.cat([network.predict(shards.images(part.numpy())[:, :channels]) for part in torch.split(held, 256)])
    accuracy, per_class = _shares(taken, labels[held], len(shards.classes))
    return Trained(network, accuracy, per_class, len(train), len(held))


def judge(network: Classifier, images: Tensor, labels: Tensor) -> tuple[float, tuple[float, ...]]:
    """Share of images (N, C, R, R) taken for their class (N,): overall, and of each class (0 where it has none)."""
    return _shares(network.predict(images), labels, network.head.out_features)


def _shares(taken: Tensor, labels: Tensor, classes: int) -> tuple[float, tuple[float, ...]]:
    right = (taken == labels.cpu()).double()
    return right.mean().item(), tuple(right[labels == c].mean().nan_to_num(0).item() for c in range(classes))


def draws(clips: Tensor, chance: torch.Generator) -> Iterator[Tensor]:
    """Batches of `clips`, each clip once before any comes again; a batch may go over the end of a round."""
    waiting = clips[:0]
    while True:
        while len(waiting) < _BATCH:
            waiting = torch.cat((waiting, clips[torch.randperm(len(clips), generator=chance)]))
        yield waiting[:_BATCH]
        waiting = waiting[_BATCH:]


def _held_out(shards: Shards, val_folds: Collection[int] = ()) -> Tensor:
    if val_folds:
        return torch.tensor([fold in val_folds for fold in shards.folds])
    folds = [fold for fold in shards.folds if fold is not None]
    if len(set(folds)) > 1:
        return torch.tensor([fold == max(folds) for fold in shards.folds])
    test = torch.zeros(len(shards), dtype=torch.bool)
    for c in range(len(shards.classes)):
        test[torch.from_numpy(shards.labels == c).nonzero()[_HELD_OUT - 1 :: _HELD_OUT, 0]] = True
    if not test.any():
        test[::2] = True
    return test


def augment(images: Tensor, chance: torch.Generator, photo: bool = False) -> Tensor:
    """Each image (B, C, R, R) changed in ways that leave its class alone, by its own draw.

    Sounds are moved round in time by any amount, by up to R/24 rows in frequency and by up to 4 dB of 80 in level, and
    a band and a stretch of up to a sixth of the image fall silent (Park et al. 2019). Photos are moved by up to R/8
    both ways and mirrored.
    """
    count, _, height, width = images.shape
    if photo:
        mirrored = torch.rand(count, 1, 1, 1, generator=chance) < 0.5
        moved = _moved(torch.where(mirrored, images.flip(-1), images), 2, height // 8, chance)
        return _moved(moved, 3, width // 8, chance)
    start = torch.randint(width, (count, 1), generator=chance)
    columns = (torch.arange(width) + start) % width
    moved = images.gather(3, columns[:, None, None].expand(images.shape))
    moved = _moved(moved, 2, round(height / 24), chance)
    level = 0.1 * (2 * torch.rand(count, 1, 1, 1, generator=chance) - 1)
    moved = (moved + level).clamp(-1, 1)
    for length, shape in ((height, (count, 1, height, 1)), (width, (count, 1, 1, width))):
        first, extent = torch.rand(2, count, 1, generator=chance) * torch.tensor([length, length / 6])[:, None, None]
        place = torch.arange(length)
        silent = (place >= first) & (place < first + extent)
        moved = moved.masked_fill(silent.view(shape), -1)
    return moved


def _moved(images: Tensor, axis: int, most: int, chance: torch.Generator) -> Tensor:
    """Each image moved along `axis` by up to `most` places; what comes in repeats the edge."""
    by = torch.randint(-most, most + 1, (len(images), 1), generator=chance)
    places = (torch.arange(images.shape[axis]) + by).clamp(0, images.shape[axis] - 1)
    shape = [len(images), 1, 1, 1]
    shape[axis] = -1
    return images.gather(axis, places.view(shape).expand(images.shape))
