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

from schurgan.core.errors import SchurganError
from schurgan.core.isolation import seeded
from schurgan.data.dataset import LabelledImages
from schurgan.evaluation.features import cache
from schurgan.evaluation.metrics.inception_score import accuracy

ARCHITECTURE = "residual-3/2"
"""Name of the network and of how it is trained: to be changed with either, so that nothing older is taken for it."""
FULL = {"epochs": 40, "least_steps": 400, "most_steps": 4000}
QUICK = {"epochs": 10, "least_steps": 100, "most_steps": 400}
_BATCH, _CHUNK = 32, 256
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
        """Convolve the image with the height of its rows, −1 to 1, as a channel more."""
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
        """(B, cin, R, R) -> (B, cout, ⌈R/2⌉, ⌈R/2⌉)."""
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
        """(B, C, size, size) -> (B, 4 width), what the last layer decides by. Raises ValueError for another size."""
        if x.ndim != 4 or tuple(x.shape[2:]) != (self.size, self.size) or self.channels not in (1, x.shape[1]):
            wanted = f"(B, {self.channels}, {self.size}, {self.size})"
            raise ValueError(f"images {tuple(x.shape)}: the classifier was trained on {wanted}")
        x = x.mean(1, keepdim=True) if self.channels == 1 else x
        h: Tensor = F.relu(self.norm(self.blocks(self.stem(x.contiguous(memory_format=torch.channels_last)))))
        return h.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, size, size) -> logits (B, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """(N, C, size, size) -> class numbers (N,), on the CPU. The network is in eval mode after."""
        self.eval()
        device = self.head.weight.device
        return torch.cat([self(part.to(device)).argmax(1).cpu() for part in torch.split(images, _CHUNK)])


@dataclass(frozen=True)
class Trained:
    """A classifier and how often it was right on real clips that it had not seen."""

    network: Classifier
    accuracy: float
    per_class: tuple[float, ...]
    n_train: int
    n_test: int


def fit_classifier(
    images: Callable[[Tensor], Tensor],
    labels: Tensor,
    clips: Tensor,
    *,
    classes: int,
    size: int,
    channels: int,
    steps: int,
    photo: bool,
    seed: int,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Classifier:
    """Train a classifier on images that are altered a little each time, in batches of 32.

    AdamW, one cycle of the rate up to 3e-3 and down to nothing, label smoothing 0.05. Its probabilities are the plain
    softmax: no temperature is fitted to anything. The same seed gives the same classifier on the same machine, and
    global random numbers stay as they are.

    `images` returns the images (n, channels, size, size) of some of `clips`, those to train on; `labels` (N,) are of
    all clips. Pictures are altered in other ways (`photo`). `progress` is called with the steps done and their number.
    """
    with seeded(seed, torch.device("cpu")):
        network = Classifier(classes, size, channels)
    network.to(device).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step, part in zip(range(steps), draws(clips, generator), strict=False):
        batch = augment(images(part), generator, photo)
        loss = F.cross_entropy(network(batch.to(device)), labels[part].to(device), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, steps)
    return network.eval()


def train_classifier(
    shards: LabelledImages,
    *,
    val_folds: Collection[int] = (),
    epochs: int = 40,
    least_steps: int = 400,
    most_steps: int = 4000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train a classifier on the real images of `shards`, and test it on those held out; altered copies take no part.

    It is tested on `val_folds` and never trained on them. Without any, the highest fold is held out, or every fifth
    clip of each class where there are no folds (clips of one origin recording may then be on both sides). Every clip is
    seen `epochs` times, within the limits of steps: with too few, batch norm's running statistics still remember where
    they began.

    Raises:
        SchurganError: no clip is left to train on or to test on.
    """
    shards = shards.select(augmented=False)
    train, held = _training_and_test(shards, val_folds)
    if not len(train) or not len(held):
        raise SchurganError(
            f"classifier: {len(train)} clips to train on and {len(held)} to test on; it needs both, so give more "
            "clips or exclude fewer folds"
        )
    channels, classes = shards.planes, len(shards.classes)
    labels = torch.from_numpy(shards.labels)

    def images(clips: Tensor) -> Tensor:
        return shards.images(clips.numpy())[:, :channels]

    network = fit_classifier(
        images,
        labels,
        train,
        classes=classes,
        size=shards.shape[-1],
        channels=channels,
        steps=_count_steps(len(train), epochs, least_steps, most_steps),
        photo=shards.codec.kind == "images",
        seed=seed,
        device=device,
        progress=progress,
    )
    predicted = torch.cat([network.predict(images(part)) for part in torch.split(held, _CHUNK)])
    share, per_class = _shares(predicted, labels[held], classes)
    return Trained(network, share, per_class, len(train), len(held))


def cached_classifier(
    shards: LabelledImages,
    *,
    val_folds: Collection[int] = (),
    quick: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Return `train_classifier`'s, or the one trained on the same data in the same way before, from the cache."""
    amount = QUICK if quick else FULL
    key = _key(shards, val_folds, quick, seed)
    with torch.random.fork_rng(devices=[]):
        network = Classifier(len(shards.classes), shards.shape[-1], shards.planes)
    if known := cache.load(key, network):
        return Trained(network.to(device).eval(), **(known | {"per_class": tuple(known["per_class"])}))
    trained = train_classifier(shards, val_folds=val_folds, seed=seed, device=device, progress=progress, **amount)
    about = {name: getattr(trained, name) for name in ("accuracy", "per_class", "n_train", "n_test")}
    cache.save(key, trained.network, about)
    return trained


def steps_to_train(shards: LabelledImages, *, val_folds: Collection[int] = (), quick: bool = False) -> int:
    """Steps that `cached_classifier` would train for: 0 where it finds a classifier in the cache."""
    if cache.holds(_key(shards, val_folds, quick, 0)):
        return 0
    train, _ = _training_and_test(shards.select(augmented=False), val_folds)
    return _count_steps(len(train), **(QUICK if quick else FULL))


def _key(shards: LabelledImages, val_folds: Collection[int], quick: bool, seed: int) -> dict[str, object]:
    return {
        "architecture": ARCHITECTURE,
        "data": shards.fingerprint,
        "classes": len(shards.classes),
        "shape": [shards.planes, shards.shape[-1]],
        "val_folds": sorted({int(fold) for fold in val_folds}),
        "seed": seed,
        **(QUICK if quick else FULL),
    }


def _count_steps(clips: int, epochs: int, least_steps: int, most_steps: int) -> int:
    return min(most_steps, max(least_steps, epochs * -(-clips // _BATCH)))


def judge(network: Classifier, images: Tensor, labels: Tensor) -> tuple[float, tuple[float, ...]]:
    """Share of images (N, C, R, R) taken for their class (N,): overall, and of each class (0 where it has none)."""
    return _shares(network.predict(images), labels, network.head.out_features)


def _shares(predicted: Tensor, labels: Tensor, classes: int) -> tuple[float, tuple[float, ...]]:
    overall, per_class = accuracy(predicted, labels.cpu(), classes)
    return overall, tuple(share or 0.0 for share in per_class)


def draws(clips: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of `clips`, each clip once before any comes again; a batch may go over the end of a round."""
    waiting = clips[:0]
    while True:
        while len(waiting) < _BATCH:
            waiting = torch.cat((waiting, clips[torch.randperm(len(clips), generator=generator)]))
        yield waiting[:_BATCH]
        waiting = waiting[_BATCH:]


def _training_and_test(shards: LabelledImages, val_folds: Collection[int]) -> tuple[Tensor, Tensor]:
    test = _held_out(shards, val_folds)
    return (~test).nonzero()[:, 0], test.nonzero()[:, 0]


def _held_out(shards: LabelledImages, val_folds: Collection[int] = ()) -> Tensor:
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


def augment(images: Tensor, generator: torch.Generator, photo: bool = False) -> Tensor:
    """Each image (B, C, R, R) changed in ways that leave its class alone, by its own draw.

    Sounds are moved round in time by any amount, by up to R/24 rows in frequency and by up to 4 dB of 80 in level, and
    a band and a stretch of up to a sixth of the image fall silent (Park et al. 2019). Photos are moved by up to R/8
    both ways and mirrored.
    """
    count, _, height, width = images.shape
    if photo:
        mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        moved = _moved(torch.where(mirrored, images.flip(-1), images), 2, height // 8, generator)
        return _moved(moved, 3, width // 8, generator)
    start = torch.randint(width, (count, 1), generator=generator)
    columns = (torch.arange(width) + start) % width
    moved = images.gather(3, columns[:, None, None].expand(images.shape))
    moved = _moved(moved, 2, round(height / 24), generator)
    level = 0.1 * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
    moved = (moved + level).clamp(-1, 1)
    for length, shape in ((height, (count, 1, height, 1)), (width, (count, 1, 1, width))):
        first, extent = torch.rand(2, count, 1, generator=generator) * torch.tensor([length, length / 6])[:, None, None]
        place = torch.arange(length)
        silent = (place >= first) & (place < first + extent)
        moved = moved.masked_fill(silent.view(shape), -1)
    return moved


def _moved(images: Tensor, axis: int, most: int, generator: torch.Generator) -> Tensor:
    """Each image moved along `axis` by up to `most` places; what comes in repeats the edge."""
    by = torch.randint(-most, most + 1, (len(images), 1), generator=generator)
    places = (torch.arange(images.shape[axis]) + by).clamp(0, images.shape[axis] - 1)
    shape = [len(images), 1, 1, 1]
    shape[axis] = -1
    return images.gather(axis, places.view(shape).expand(images.shape))
