from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
import warnings
import wave
from pathlib import Path

import pytest
import torch
from PIL import Image

import schurgan
from schurgan.__main__ import program
from schurgan.commands import demo, model
from schurgan.commands import main as commands
from schurgan.commands.main import COMMANDS, main
from schurgan.data import Shards
from schurgan.evaluation.features import classifier
from schurgan.report import page
from schurgan.runs.config import Config
from schurgan.runs.folder import RunFolder
from schurgan.version import __version__

TINY = ("--model.architecture", "small-16", "--model.width", 4, "--train.batch-size", 8, "--train.threads", 1)


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "what",
    [
        "import schurgan",
        "from schurgan.commands.main import main; main([])",
        "from schurgan.commands.main import main; main(['--help'])",
        "from schurgan.commands.main import main; main(['--version'])",
        "from schurgan.commands.main import COMMANDS, main; [main([*name.split(), '--help']) for name in COMMANDS]",
        "from schurgan.commands.main import main; main(['prepare', '--help'])",
        "from schurgan.commands.main import main; main(['train', '--train.stesp', '3'])",
        "from schurgan.commands.main import main; main(['init', '--help'])",
        "from schurgan.commands.main import main; main(['go', '--help'])",
    ],
)
def test_torch_is_not_imported_before_a_command_needs_it(what):
    program = (
        f"import sys\ntry:\n    exec({what!r})\nexcept SystemExit: pass\nassert 'torch' not in sys.modules, 'torch'"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr


def test_a_call_without_arguments_lists_every_command_and_what_it_does(call):
    said = call()
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("usage: schurgan COMMAND")
    for name, (_, summary) in COMMANDS.items():
        listed = said.out if not name.startswith("prepare ") else call("prepare", "--help").out
        assert f"  {name}" in listed
        assert summary in listed
    assert "prepare SOURCE" in said.out
    assert call("--help") == call("-h") == said


def test_the_version_is_said_by_the_command_the_module_and_the_package(call):
    assert call("--version").out == f"schurgan {__version__}\n"
    done = subprocess.run([sys.executable, "-m", "schurgan", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"schurgan {__version__}\n"
    assert schurgan.__version__ == __version__


def test_the_installed_command_is_this_one():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="schurgan")
    assert entry.load() in (program, main)  # main: of an installation before


def test_doctor_names_the_versions_of_what_is_installed(call):
    out = call("doctor").out
    assert f"schurgan {__version__}" in out
    assert torch.__version__ in out


def test_prepare_soundscape_makes_shards_and_says_what_is_in_them(call, tmp_path):
    options = ("--per-class", 2, "--seconds", 0.5, "--size", 16, "--seed", 3)
    said = call("prepare", "soundscape", "--out", tmp_path / "data", *options)
    assert said.status == 0
    assert said.out.splitlines()[-1] == f"16 clips in {tmp_path / 'data'}"
    assert 'warning: class "bark": 2 clips, too few to learn from' in said.out
    data = Shards(tmp_path / "data")
    assert data.shape == (1, 16, 16)
    assert data.manifest.source["seed"] == 3
    assert data.recording(0).shape == (8000,)
    assert call("data", "verify", tmp_path / "data").status == 0
    again = call("prepare", "soundscape", "--out", tmp_path / "data", *options)
    assert again.out == said.out


def test_prepare_folder_takes_a_folder_a_class_and_every_scale(call, recordings, tmp_path):
    for scale, dtype in (("log", "uint8"), ("linear", "float16"), ("log_real", "uint8")):
        out = tmp_path / scale
        said = call("prepare", "folder", recordings, "--out", out, "--size", 16, "--seconds", 0.5, "--scale", scale)
        assert said.status == 0, said.err
        data = Shards(out)
        assert data.classes == ("bell", "drum")
        assert data.manifest.dtype == dtype
        assert data.manifest.transform["scale"] == scale


def test_train_resume_sample_and_load_go_together(call, shards, tmp_path):
    run = tmp_path / "run"
    steps = ("--train.steps", 4, "--train.checkpoint-every", 2, "--train.log-every", 2)
    said = call("train", "--data", shards, "--out", run, *TINY, *steps)
    assert (said.status, said.out) == (0, f"trained: {run}\n")
    assert sorted(path.name for path in (run / "checkpoints").glob("*.pt")) == ["step-00000002.pt", "step-00000004.pt"]
    assert [row.step for row in RunFolder(run).read_records().rows] == [2, 4]
    (run / "checkpoints" / "step-00000004.pt").unlink()
    weights = (run / "generator.safetensors").read_bytes()
    said = call("resume", run)
    assert (said.status, said.out) == (0, f"trained: {run}\n")
    assert (run / "generator.safetensors").read_bytes() == weights
    for phase in ("noise", "carrier", "griffin-lim"):
        out = tmp_path / phase
        said = call("sample", run, "--class", "bark", "--count", 2, "--phase", phase, "--refine", 1, "--out", out)
        assert (said.status, said.out) == (0, f"2 sounds in {out}\n")
        names = [f"bark-{i:03}{suffix}" for i in range(2) for suffix in (".png", ".wav")]
        assert sorted(path.name for path in out.iterdir()) == names
        with wave.open(str(out / "bark-001.wav")) as sound:
            assert (sound.getnframes(), sound.getframerate(), sound.getnchannels()) == (8000, 16000, 1)
        assert Image.open(out / "bark-001.png").size == (256, 256)
    ours = schurgan.load(run).sample("bark", 2, refine=1).save(tmp_path / "python")
    assert [path.read_bytes() for path in ours] == [(tmp_path / "noise" / path.name).read_bytes() for path in ours]


def test_sample_makes_every_class_where_none_is_named_and_puts_them_into_the_run(call, copied_run):
    said = call("sample", copied_run, "--count", 1, "--refine", 0)
    assert said.out == f"8 sounds in {copied_run / 'sounds'}\n"
    assert len(list((copied_run / "sounds").glob("*-000.wav"))) == 8


def test_sample_takes_a_bare_generator_file(call, copied_run, tmp_path):
    (copied_run / "generator.safetensors").rename(tmp_path / "sent.safetensors")
    said = call("sample", tmp_path / "sent.safetensors", "--class", "bell", "--count", 1, "--refine", 0)
    assert said.out == f"1 sound in {tmp_path / 'sounds'}\n"
    assert (tmp_path / "sounds" / "bell-000.wav").exists()


def test_the_command_line_overrides_the_file_and_the_file_the_preset_and_the_run_keeps_what_came_out(
    call, shards, tmp_path
):
    (tmp_path / "mine.yaml").write_text("preset: small-64\ntrain: {steps: 9, lr_g: 0.004, lr_d: 0.003}\n")
    options = (*TINY, "--train.steps", 1, "--train.lr-g=0.002", "--model.no-spectral-norm-d")
    run = tmp_path / "run"
    config = ("--config", tmp_path / "mine.yaml")
    said = call("train", "--data", shards, "--out", run, *config, *options)
    assert said.status == 0, said.err
    kept = Config.load(run / "config.yaml")
    preset = Config.from_preset("small-64")
    assert kept.preset == "small-64"
    assert (kept.train.steps, kept.train.lr_g, kept.train.lr_d) == (1, 0.002, 0.003)
    assert kept.ddfn == preset.ddfn
    assert kept.train.ema_decay == preset.train.ema_decay
    assert (kept.data, kept.model.spectral_norm_d) == (shards, False)


@pytest.mark.parametrize("preset", ["demo", "small-32", "small-64"])
@pytest.mark.slow
def test_each_preset_for_a_cpu_trains_on_images_of_its_size(call, tmp_path, preset):
    size = int(Config.from_preset(preset).model.architecture.partition("-")[2])
    data = ("soundscape", "--per-class", 2, "--seconds", 0.5, "--size", size)
    assert call("prepare", *data, "--out", tmp_path / "data").status == 0
    options = ("--train.steps", 2, "--train.checkpoint-every", 1, "--train.batch-size", 4, "--train.threads", 1)
    said = call("train", "--preset", preset, "--data", tmp_path / "data", "--out", tmp_path / "run", *options)
    assert said.status == 0, said.err
    assert schurgan.load(tmp_path / "run").spectrogram.size == size
    assert (tmp_path / "run" / "checkpoints" / "step-00000001.pt").exists()


def test_the_demo_goes_the_whole_way_and_goes_on_where_it_was_stopped(call, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "QUICK", {"epochs": 1, "least_steps": 0, "most_steps": 10})
    monkeypatch.setattr(page, "_SHOWN", 1)
    monkeypatch.setattr(page, "_JUDGED", 1)
    small = {"preset": "demo", "model": {"architecture": "small-16", "width": 4}, "batch_size": 8, "steps": 2}
    quick = {"prepare": {"per_class": 3, "seconds": 0.5, "size": 16}, "train": small, "sample": {"refine": 0}}
    monkeypatch.setattr(demo, "SECTIONS", {name: demo.SECTIONS[name] | quick.get(name, {}) for name in demo.SECTIONS})
    said = call("demo", "--out", tmp_path / "demo")
    assert said.status == 0, said.err
    assert f"open {(tmp_path / 'demo' / 'report.html').as_uri()}" in said.out
    assert len(list((tmp_path / "demo" / "sounds").glob("bark-*.wav"))) == 6
    weights = (tmp_path / "demo" / "generator.safetensors").read_bytes()
    (tmp_path / "demo" / "report.html").unlink()
    assert call("demo", "--out", tmp_path / "demo").status == 0
    assert (tmp_path / "demo" / "report.html").exists()
    assert (tmp_path / "demo" / "generator.safetensors").read_bytes() == weights


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of a POSIX shell")
def test_a_reader_that_goes_away_is_no_error_to_shout_about_nor_are_closed_streams():
    program = f'"{sys.executable}" -m schurgan presets | true; "{sys.executable}" -m schurgan --help <&- >&-; echo $?'
    done = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_an_interrupt_ends_with_the_status_of_one_and_no_traceback(call, monkeypatch):
    def interrupted() -> None:
        """Do nothing."""
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "presets", interrupted)
    said = call("presets")
    assert (said.status, said.out, said.err) == (130, "", "")


def test_ctrl_c_kills_a_command_while_it_imports_and_later_raises_an_interrupt(call, monkeypatch):
    handlers = []

    def interrupt():
        handlers.append(signal.getsignal(signal.SIGINT))

    def find(*arguments):
        handlers.append(signal.getsignal(signal.SIGINT))
        return interrupt

    monkeypatch.setattr(commands, "find_command", find)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        call("doctor")
        assert handlers == [signal.SIG_DFL, signal.default_int_handler]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_warning_is_one_line_of_ours(call, monkeypatch):
    def warning() -> None:
        """Do nothing."""
        warnings.warn("something\nis odd", UserWarning, stacklevel=2)

    monkeypatch.setattr(model, "presets", warning)
    assert call("presets").err == "schurgan: warning: something is odd\n"


def test_relative_folders_work_from_anywhere(call, shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(shards)
    said = call("train", "--data", "data", "--out", "run", *TINY, "--train.steps", 1)
    assert said.out == "trained: run\n"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    carrier = ("--class", "bark", "--count", 1, "--phase", "carrier", "--refine", 0)
    assert call("sample", "../run", *carrier).status == 0


def test_a_run_is_exported_to_a_file_that_runs_without_this_program(call, finished_run, tmp_path):
    file = tmp_path / "new" / "dog.pt2"
    assert call("export", finished_run, "--out", file).status == 0
    model = schurgan.load(finished_run)
    z, labels = model.latent.sample(5, torch.Generator().manual_seed(0)), torch.arange(5)
    exported = torch.export.load(file).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(z, labels), model.generator(z, labels), rtol=0, atol=1e-5)


def test_an_export_of_another_kind_is_refused(refused, finished_run, tmp_path):
    assert "a name that ends in .pt2 or .onnx is needed" in refused("export", finished_run, "--out", tmp_path / "x.bin")


def test_shards_are_exported_as_tar_files(call, shards, tmp_path):
    said = call("data", "export", shards, "--out", tmp_path / "tars", "--clips-per-tar", 20)
    assert said.out.splitlines()[-1] == f"3 tar files in {tmp_path / 'tars'}"  # 48 clips
    assert len(list((tmp_path / "tars").glob("*.tar"))) == 3
