"""Recordings to shards of images, and shards to batches."""

from schurgan.data.dataset import DatasetImages, LabelledImages
from schurgan.data.loader import Batches
from schurgan.data.manifest import Manifest, summary
from schurgan.data.prepare import prepare
from schurgan.data.shards import Shards

__all__ = ["Batches", "DatasetImages", "LabelledImages", "Manifest", "Shards", "prepare", "summary"]
