"""Sound to image and back, without learning."""

from schurgan.audio.decoders import AudioError, AudioWarning
from schurgan.audio.files import fit_clip, read_audio, read_loudest, write_audio
from schurgan.audio.snr import power_ratio_db, snr_db, snr_paper_db
from schurgan.audio.spectrogram import Aux, Spectrogram
from schurgan.audio.stft import STFT
from schurgan.audio.transform import Coefficients
from schurgan.audio.wavelet import MorletCWT

__all__ = [
    "STFT",
    "AudioError",
    "AudioWarning",
    "Aux",
    "Coefficients",
    "MorletCWT",
    "Spectrogram",
    "fit_clip",
    "power_ratio_db",
    "read_audio",
    "read_loudest",
    "snr_db",
    "snr_paper_db",
    "write_audio",
]
