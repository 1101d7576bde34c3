"""Lower-case suffixes by which sounds and pictures are known before anything opens them."""

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".wavex", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".nist", ".sph", ".mp2"),
    *(".m4a", ".m4b", ".mp4", ".3gp", ".3g2", ".webm", ".weba", ".mka", ".aac", ".adts", ".wma", ".asf", ".amr"),
    *(".awb", ".ac3", ".dts", ".ape", ".wv", ".tta", ".mpc", ".dsf", ".dff", ".ra", ".qcp"),
)
"""Sound files; the last two rows need the extra `codecs`, and a sentence says so."""
IMAGE_FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Formats of pictures that are opened: none of those that the imaging library hands to other programs."""
IMAGE_SUFFIXES = tuple(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes)
