"""Recordings to shards of images, and shards to batches."""

from schurgan.data.loader import Batches
from schurgan.data.manifest import Manifest
from schurgan.data.prepare import prepare
from schurgan.data.shards import Shards
from schurgan.data.summary import summary

__all__ = ["Batches", "Manifest", "Shards", "prepare", "summary"]
