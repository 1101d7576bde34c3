"""A plain DCGAN, and DDFN added to it in three lines, marked 1, 2 and 3.

    python examples/ddfn_in_your_own_loop.py [FOLDER] [--steps 600] [--weight 1] [--out samples.png]

FOLDER has square PNGs, taken as grey and 32×32. Without one the script draws its own images: gliding notes with
overtones, as a spectrogram shows them. `--weight 0` trains without the constraint. About a minute on a CPU. Of this
project it needs `schurgan.normality` alone.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from schurgan.normality import DDFN

SIZE, BATCH, Z, WIDTH = 32, 64, 64, 24


def train(real: Tensor, steps: int, weight: float) -> tuple[nn.Module, DDFN]:
    """real (N, 1, 32, 32) in [−1, 1]  ->  a trained generator, and the constraint that it was held by."""
    generator = nn.Sequential(
        nn.ConvTranspose2d(Z, 4 * WIDTH, 4),
        nn.BatchNorm2d(4 * WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * WIDTH, 2 * WIDTH, 4, 2, 1),
        nn.BatchNorm2d(2 * WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, 2, 1),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.ConvTranspose2d(WIDTH, 1, 4, 2, 1),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(1, WIDTH, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(WIDTH, 2 * WIDTH, 4, 2, 1),
        nn.BatchNorm2d(2 * WIDTH),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * WIDTH, 4 * WIDTH, 4, 2, 1),
        nn.BatchNorm2d(4 * WIDTH),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * WIDTH, 1, 4),
        nn.Flatten(0),
    )
    for_g = torch.optim.Adam(generator.parameters(), 5e-4, betas=(0.5, 0.999))
    for_d = torch.optim.Adam(discriminator.parameters(), 5e-4, betas=(0.5, 0.999))

    constraint = DDFN(relative_epsilon=0.05, weight=weight, decay=0.9)  # 1: half width of the band, 5 % of the real Δ²
    constraint.fit_real(real.split(BATCH))  # 2: once over all real images, (B, C, n, n) in [−1, 1]

    for step in range(1, steps + 1):
        fake = generator(torch.randn(BATCH, Z, 1, 1))
        batch = real[torch.randint(len(real), (BATCH,))]
        loss_d = F.softplus(-discriminator(batch)).mean() + F.softplus(discriminator(fake.detach())).mean()
        for_d.zero_grad()
        loss_d.backward()
        for_d.step()

        loss_g = F.softplus(-discriminator(fake)).mean()
        penalty, stats = constraint(fake)  # 3: and the loss is now loss_g + penalty
        for_g.zero_grad()
        (loss_g + penalty).backward()
        for_g.step()
        if step % 50 == 0 or step == steps:
            share = float(stats.ema_gap / constraint.real_average())
            print(f"step {step}: loss D {loss_d:.3f}, G {loss_g:.3f}, penalty {penalty:.3f}, running gap {share:+.1%}")
    return generator, constraint


def notes(count: int) -> Tensor:
    """(count, 1, 32, 32) in [−1, 1]: gliding notes with overtones that fade, each with its own start and length."""
    time, row = torch.linspace(0, 1, SIZE), torch.arange(SIZE)[:, None]
    start, pitch, glide, length = torch.rand(4, count, 1, 1, 1)
    base = 3 + 8 * pitch + 6 * (glide - 0.5) * time  # (count, 1, 1, 32), the row of the lowest tone
    tones = torch.arange(1, 5)[:, None, None]
    lines = torch.exp(-((row - tones * base) ** 2) / 1.5) / tones.sqrt()
    after = time - 0.4 * start
    envelope = (after >= 0) * torch.exp(-after.clamp(min=0) / (0.15 + 0.6 * length))
    return 2 * (lines.amax(1, keepdim=True) * envelope) - 1


def pictures(folder: Path) -> Tensor:
    """The square PNGs of a folder (N, 1, 32, 32), grey, in [−1, 1]."""
    files = sorted(folder.glob("*.png"))
    if len(files) < 2:
        raise SystemExit(f"{folder}: has {len(files)} PNG files, two or more are needed")
    images = []
    for file in files:
        picture = Image.open(file).convert("L")
        if picture.width != picture.height:
            raise SystemExit(f"{file}: is {picture.width}x{picture.height}, Δ² is defined for square images only")
        pixels = torch.frombuffer(bytearray(picture.resize((SIZE, SIZE)).tobytes()), dtype=torch.uint8)
        images.append(pixels.reshape(1, SIZE, SIZE) / 127.5 - 1)
    return torch.stack(images)


def save_grid(images: Tensor, path: Path) -> None:
    """64 images (64, 1, 32, 32) as a picture of 8×8, the first row of each on top."""
    sheet = images.reshape(8, 8, SIZE, SIZE).permute(0, 2, 1, 3).reshape(8 * SIZE, 8 * SIZE)
    Image.fromarray(((sheet + 1) * 127.5).round().to(torch.uint8).numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="square PNGs to learn from")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--weight", type=float, default=1.0, help="of the penalty, 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("samples.png"))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    real = pictures(args.folder) if args.folder else notes(2048)
    generator, constraint = train(real, args.steps, args.weight)
    with torch.no_grad():
        samples = generator(torch.randn(256, Z, 1, 1))
    gap, mean = float(constraint.gap(samples)), float(constraint.real_average())
    print(f"gap: {gap:.2f} of a real mean of {mean:.2f}, {gap / mean:+.1%}, exact, over {len(samples)} images")
    save_grid(samples[:64], args.out)
    print(f"samples: {args.out}")


if __name__ == "__main__":
    main()
