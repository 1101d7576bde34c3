"""A small classifier of spectrogram images, trained on real ones: does a generated sound pass for its class?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from schurgan.data.shards import Shards

_BATCH = 64
_HELD_OUT = 5  # every fifth clip of a class is kept for testing, where there are no folds


class Residual(nn.Module):
    """x + conv(ReLU(BN(conv(ReLU(BN(x)))))), halved in size by the first convolution."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(cin), nn.BatchNorm2d(cout)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        h = self.conv2(F.relu(self.norm2(self.conv1(h))))
        skip: Tensor = self.skip(F.avg_pool2d(x, 2))
        return skip + h


class Classifier(nn.Module):
    """(B, 1, R, R) in [−1, 1] -> logits (B, classes). Three residual blocks, mean over the image."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(
            Residual(width, 2 * width), Residual(2 * width, 4 * width), Residual(4 * width, 4 * width)
        )
        self.norm = nn.BatchNorm2d(4 * width)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))
        return logits

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """(N, C, R, R) -> class numbers (N,)."""
        self.eval()
        return torch.cat([self(part.mean(1, keepdim=True)).argmax(1) for part in torch.split(images, 256)])


@dataclass(frozen=True)
class Trained:
    """A classifier and how often it was right on real clips that it had not seen."""

    network: Classifier
    accuracy: float
    per_class: tuple[float, ...]
    n_train: int
    n_test: int


def train_classifier(shards: Shards, *, epochs: int = 12, least_steps: int = 100, seed: int = 0) -> Trained:
    """Train on the real images of `shards`, with small shifts in time and level, and test on those held out.

    A small set is seen more than `epochs` times: before some `least_steps` the batch norms' running statistics still
    remember where they began, and the classifier guesses.

    Held out are the clips of the highest fold, or every fifth clip of each class where there are no folds (clips of one
    origin recording may then be on both sides). Copies at other pitches take no part.
    """
    shards = shards.select(augmented=False)
    images = torch.cat([part.mean(1, keepdim=True) for part, _ in shards.batches(256)])
    labels = torch.from_numpy(shards.labels)
    test = _held_out(shards)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(len(shards.classes))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    chance = torch.Generator().manual_seed(seed)
    train = (~test).nonzero()[:, 0]
    batches = -(-len(train) // _BATCH)
    epochs = max(epochs, -(-least_steps // batches))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for part in torch.split(train[torch.randperm(len(train), generator=chance)], _BATCH):
            logits = network(_augment(images[part], chance))
            loss = F.cross_entropy(logits, labels[part], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    accuracy, per_class = judge(network, images[test], labels[test])
    return Trained(network, accuracy, per_class, len(train), int(test.sum()))


def judge(network: Classifier, images: Tensor, labels: Tensor) -> tuple[float, tuple[float, ...]]:
    """Share of images (N, C, R, R) taken for their class (N,): overall, and of each class (0 where it has none)."""
    right = (network.predict(images) == labels).double()
    classes = range(network.head.out_features)
    return right.mean().item(), tuple(right[labels == c].mean().nan_to_num(0).item() for c in classes)


def _held_out(shards: Shards) -> Tensor:
    folds = [fold for fold in shards.folds if fold is not None]
    if len(set(folds)) > 1:
        return torch.tensor([fold == max(folds) for fold in shards.folds])
    test = torch.zeros(len(shards), dtype=torch.bool)
    for c in range(len(shards.classes)):
        test[torch.from_numpy(shards.labels == c).nonzero()[_HELD_OUT - 1 :: _HELD_OUT, 0]] = True
    if not test.any():
        test[::2] = True
    return test


def _augment(images: Tensor, chance: torch.Generator) -> Tensor:
    """The batch moved by up to an eighth of the clip in time, round about, and by up to 4 dB of 80 in level."""
    reach = max(1, images.shape[-1] // 8)
    shift = int(torch.randint(-reach, reach + 1, (1,), generator=chance))
    level = 0.1 * (2 * torch.rand(len(images), 1, 1, 1, generator=chance) - 1)
    moved = (images.roll(shift, -1) + level).clamp(-1, 1)
    return moved.contiguous(memory_format=torch.channels_last)
