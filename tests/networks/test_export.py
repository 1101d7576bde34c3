"""A generator in a file: read back, it gives what the network gives, for any batch, and without this package."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from schurgan.core.errors import SchurganError
from schurgan.networks import Generator, SelfAttention, customise, export_generator, find_architecture
from schurgan.networks import export as module

# Fused attention padded (8 wide) and not (16), every enlarging convolution, either embedding, z in chunks, whole, once.
NETWORKS = {
    "small-16": (4, {}),
    "cifar-32": (4, {}),
    "sagan-32": (8, {"resample": "strided"}),
    "biggan-32": (2, {"skip_z": "full", "embedding": "linear", "base": (4, 6)}),
    "proposed-literal-128": (1, {}),  # enlarges 4- and 8-fold
}
BATCHES = (1, 3, 8)
# Tracing takes seconds a network.
SOME_QUICK = [
    pytest.param(name, marks=() if name in ("cifar-32", "sagan-32") else pytest.mark.slow) for name in NETWORKS
]


def trained(name: str) -> Generator:
    """A network whose running statistics, attention and spectral norms are not those of the start."""
    torch.manual_seed(0)
    width, changes = NETWORKS[name]
    network = Generator(customise(find_architecture(name), **changes), 5, width, 2, spectral_norm=True)
    for part in network.modules():
        if isinstance(part, SelfAttention):
            nn.init.constant_(part.gamma, 0.7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for _ in range(3):
            network(torch.randn(8, network.latent_dim), torch.randint(5, (8,)))
    return network


def cases(network: Generator) -> list[tuple[Tensor, Tensor, Tensor]]:
    """z, labels, and the network's images in eval mode."""
    torch.manual_seed(1)
    inputs = [(torch.randn(n, network.latent_dim), torch.randint(5, (n,))) for n in BATCHES]
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        return [(z, labels, network(z, labels)) for z, labels in inputs]


@pytest.mark.parametrize("name", SOME_QUICK)
def test_a_torch_export_gives_the_networks_images_for_any_batch(name, tmp_path):
    network = trained(name)
    assert export_generator(network, tmp_path / "generator.pt2") == tmp_path / "generator.pt2"
    program = torch.export.load(tmp_path / "generator.pt2").module()
    for z, labels, images in cases(network):
        assert images.std() > 0.05
        # float32 sums, of kernels made once instead of at each call.
        torch.testing.assert_close(program(z, labels), images, rtol=0, atol=1e-5)


def test_export_changes_nothing_of_the_network(tmp_path):
    network = trained("cifar-32")
    before = copy.deepcopy(network.state_dict())
    modes = [part.training for part in network.modules()]
    export_generator(network, tmp_path / "generator.pt2")
    assert [part.training for part in network.modules()] == modes
    assert network.state_dict().keys() == before.keys()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_export_holds_weights_alone_and_no_power_iteration(tmp_path):
    export_generator(trained("cifar-32"), tmp_path / "generator.pt2")
    program = torch.export.load(tmp_path / "generator.pt2")
    assert not [name for name in program.state_dict if "parametrizations" in name]
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("conv_transpose2d" in name for name in called)
    # No kernel is summed, and no weight divided, at a call.
    assert not [name for name in called if any(word in name for word in ("kron", "bmm", "mv", "div"))]


@pytest.mark.parametrize("given", [{"dtype": torch.float64}, {"memory_format": torch.channels_last}])
def test_a_network_of_other_numbers_or_layout_gives_the_same_file(given, tmp_path):
    network = trained("small-16")
    export_generator(copy.deepcopy(network).to(**given), tmp_path / "generator.pt2")
    program = torch.export.load(tmp_path / "generator.pt2").module()
    z, labels, images = cases(network)[1]
    torch.testing.assert_close(program(z, labels), images, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_export_runs_where_this_package_is_not_installed(tmp_path):
    network = trained("small-16")
    export_generator(network, tmp_path / "generator.pt2")
    z, labels, images = cases(network)[1]
    torch.save((z, labels, images), tmp_path / "case.pt")
    script = (
        "import sys; sys.modules['schurgan'] = None\n"
        "import torch\n"
        "z, labels, images = torch.load('case.pt', weights_only=True)\n"
        "print(float((torch.export.load('generator.pt2').module()(z, labels) - images).abs().max()))"
    )
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert float(said.split()[-1]) <= 1e-5


@pytest.mark.parametrize("name", SOME_QUICK)
def test_onnx_runtime_gives_the_networks_images_for_any_batch(name, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    import onnxruntime

    network = trained(name)
    export_generator(network, tmp_path / "generator.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "generator.onnx", providers=["CPUExecutionProvider"])
    assert [(i.name, i.type) for i in session.get_inputs()] == [("z", "tensor(float)"), ("labels", "tensor(int64)")]
    assert session.get_inputs()[0].shape == ["batch", network.latent_dim]
    for z, labels, images in cases(network):
        (got,) = session.run(["images"], {"z": z.numpy(), "labels": labels.numpy()})
        # Another library's convolutions and softmax, all float32, through a dozen layers.
        torch.testing.assert_close(torch.from_numpy(got), images, rtol=0, atol=1e-4)


def test_a_missing_package_is_named_in_one_sentence_and_nothing_is_written(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(SchurganError, match=r"^format: .*onnxscript.*schurgan\[onnx\][^\n]*$"):
        export_generator(trained("small-16"), tmp_path / "generator.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_another_format_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ValueError, match=r'^format: "onx" given, "pt2" or "onnx" is needed; did you mean "onnx"\?$'):
        export_generator(trained("small-16"), tmp_path / "generator.onnx", format="onx")


def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, full_disk):
    path = tmp_path / "generator.pt2"
    path.write_bytes(b"old")
    with full_disk(), pytest.raises(OSError, match="No space left"):
        export_generator(trained("small-16"), path)
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
