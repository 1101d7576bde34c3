"""Out of memory is one sentence that names what to lower, whoever says it."""

from __future__ import annotations

import errno
import os

import pytest
import torch

import schurgan
from schurgan.core.errors import SchurganError, enough_memory
from schurgan.model import Model
from schurgan.training import train
from schurgan.training.checkpoint import Checkpoints, read
from schurgan.training.trainer import Trainer

NO_MEMORY = {
    "Python": MemoryError(),
    "the system": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    "a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    "a map": RuntimeError("unable to mmap 4224 bytes from file <x>: Cannot allocate memory (12)"),
}


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)
def test_out_of_memory_of_any_kind_says_what_to_lower(error):
    with pytest.raises(SchurganError, match=r"out of memory.*; lower `count`"), enough_memory("lower `count`"):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), RuntimeError("shapes differ"), KeyError("memory")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, enough_memory("lower `count`"):
        raise error
    assert raised.value is error


def test_torchs_allocator_on_a_cpu_is_known():
    with pytest.raises(SchurganError, match=r"out of memory \(\d+ bytes more were asked for\)"), enough_memory("lower"):
        torch.empty(2**50, dtype=torch.uint8)


def too_much(*_: object, **__: object) -> torch.Tensor:
    return torch.empty(2**50, dtype=torch.uint8)


def test_training_sampling_and_commands_name_their_options(call, tiny, finished_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "training_step", too_much)
        with pytest.raises(SchurganError, match="lower `batch_size`"):
            train(tiny(), tmp_path / "run")
    monkeypatch.setattr(Model, "images", too_much)
    with pytest.raises(SchurganError, match="lower `count`"):
        schurgan.load(finished_run).sample("bark")
    said = call("sample", finished_run, "--out", tmp_path / "sounds")
    assert said.status == 2
    assert "out of memory" in said.err
    assert "--count" in said.err


def test_a_whole_state_that_does_not_fit_into_memory_is_not_called_damaged(finished_run, monkeypatch):
    path = Checkpoints(finished_run).paths()[-1]
    monkeypatch.setattr(torch, "load", too_much)
    with pytest.raises(RuntimeError, match="allocate"):
        read(path)
