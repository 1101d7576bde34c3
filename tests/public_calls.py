"""Every public function, called once: groups of calls that return what is to be compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import schurgan
from schurgan import audio, health, networks, normality
from schurgan.audio import colormap, pictures, pitch
from schurgan.core.isolation import own_settings
from schurgan.data import Batches, Shards
from schurgan.data import prepare as prepare_shards
from schurgan.data.sources import open_source
from schurgan.evaluation import score

Case = Callable[[SimpleNamespace, Path], Any]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


@case
def data(given, out):
    folder = schurgan.prepare(given.recordings, out=out / "data", size=16, seconds=0.5, workers=1)
    images = next(folder.glob("*images*"))
    shards = Shards(folder)
    batch = Batches(shards, 4, seed=3).batch(1)
    recording, codec = shards.recording(0), shards.codec
    made = prepare_shards(open_source("folder", given.recordings), out / "again", codec, pitches=(1.5,), workers=1)
    return images.read_bytes(), batch, recording, [file.sha256 for file in made.files()]


@case
def training(given, out):
    trained = schurgan.train(given.shards, out=out / "run", **given.options)
    resumed = schurgan.resume(out / "run")
    state = torch.load(out / "run" / "checkpoints" / "step-00000001.pt")
    return trained.generator.state_dict(), resumed.generator.state_dict(), state["trainer"]


@case
def model(given, out):
    loaded = schurgan.load(given.run)
    sounds = loaded.sample("bark", 2, seed=3, refine=1)
    paths = sounds.save(out / "sounds")
    loaded.save(out / "copy.safetensors")
    labels = torch.tensor([0, 1], device="cpu")
    images = loaded.images(labels, 0.5, seed=2)
    decoded = [loaded.decode(images, labels, phase=phase, refine=1) for phase in ("noise", "carrier", "griffin-lim")]
    files = [path.read_bytes() for path in (*paths, out / "copy.safetensors")]
    return sounds.audio, sounds.images, images, decoded, files, loaded.card.classes


@case
def evaluation(given, out):
    found = schurgan.evaluate(given.run, images=24, runs=1)
    return json.dumps({name: each.as_json() for name, each in found.scores.items()})


@case
def scores(given, out):
    found = score(given.images, given.images.flip(0) * 0.9, real_labels=given.labels, fake_labels=given.labels)
    return json.dumps({name: each.as_json() for name, each in found.items()})


@case
def matrices(given, out):
    x = given.images[:, 0].clone()
    values = [normality.departure_from_normality(x, method) for method in normality.estimators.METHODS]
    return values, normality.departure_bounds(x), normality.departure_from_normality(x.double())


@case
def conditions(given, out):
    with torch.device("cpu"):  # where a module is built it stays
        built = given.conditions()
    results = []
    for condition in built:
        condition.fit_real([(given.images, given.labels)])
        with torch.inference_mode(False):  # a condition rests where there are no gradients
            fake = (0.5 * given.images).requires_grad_()
            condition.observe(fake, given.labels)
            penalty, stats = condition(fake, given.labels)
            with own_settings():  # torch wants backward passes outside autocast
                penalty.backward()
        results += [fake.grad, penalty.detach(), tuple(stats), condition.state_dict()]
    return results


@case
def sound(given, out):
    clip = given.clip
    results: list[Any] = []
    for spectrogram in given.spectrograms():
        image, aux = spectrogram.encode(clip)
        results += [image, aux.reference, spectrogram.decode(image, aux, refine=1)]
        results.append(spectrogram.decode(image, aux, phase="noise", refine=1))
    for transform in (audio.MorletCWT(8000, 16000, 16), audio.STFT(8000, 256, 128)):
        coefficients = transform.analyze(clip)
        results += [*coefficients, transform.synthesize(coefficients), transform.frames(coefficients)]
    results.append(pitch.pitch_shift(clip, 1.5))
    results += [audio.snr_db(clip, 0.9 * clip), audio.snr_paper_db(clip, 0.9 * clip), audio.power_ratio_db(clip, clip)]
    audio.write_audio(out / "clip.wav", clip[0], 16000)
    read = audio.read_audio(out / "clip.wav", 16000)
    fitted, gain, _ = audio.fit_clip(read, 4000, 16000)
    drawn = pictures.picture(given.images[0])
    colours = colormap.invert_colormap(colormap.apply_colormap(given.images[:, :1], "jet"), "jet")
    return [*results, read, fitted, gain, drawn.tobytes(), colours]


@case
def made_of_networks(given, out):
    with torch.inference_mode(False):
        generator = copy.deepcopy(given.networks[0])
    latent = networks.Latent(generator.latent_dim)
    z = latent.sample(4, torch.Generator("cpu").manual_seed(1), 0.5, "resample")
    z = torch.cat([z, latent.sample(4, torch.Generator("cpu").manual_seed(1))])
    networks.standing_statistics(generator, latent, batches=1, batch_size=8, generator=torch.Generator("cpu"))
    costs = networks.step_costs(networks.find_architecture("small-16"), width=4)
    networks.export_generator(generator, out / "generator.pt2")
    with own_settings():
        exported = torch.export.load(out / "generator.pt2").module()(z, given.labels[:8]).detach()
    return z, generator.state_dict(), str(costs), exported


@case
def forward_passes(given, out):
    generator, discriminator = given.networks
    images = generator(given.z, given.labels[:4])
    return images.detach(), discriminator(images, given.labels[:4]).detach()


@case
def watching(given, out):
    monitor = health.Monitor()
    return [str(monitor.update(step, frechet=float(20 - step), variety=0.9)) for step in range(8)]
