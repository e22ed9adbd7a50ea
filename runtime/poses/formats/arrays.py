"""Keypoints as numpy's arrays: our own .npz, and .npy of one of the layouts. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
import zlib
from io import BytesIO
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ....text import quoted
from ..following import Found
from ..keypoints import NUM_POINTS, Keypoints
from ..layouts import LAYOUTS
from .document import MAX_FRAMES, MAX_PEOPLE, MAX_POSES, Recording, cleaned, picture_size, rate_of

NPY, NPZ = b"\x93NUMPY", b"PK\x03\x04"
PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
MAX_ARRAY = MAX_FRAMES * NUM_POINTS * 3 * 8 + 100_000  # bytes
MEMBERS = ("frames", "size", "frame_rate")  # of our .npz
REFUSED = (
    "expected numbers, found pickled Python objects, which could run any code when they are loaded; "
    "save a plain array with numpy.save(..., allow_pickle=False), or JSON"
)


def read_npz(content: bytes) -> Keypoints:
    """Read our .npz: `frames` float64 (frames, NUM_POINTS, 3), `size`, and `frame_rate` as text."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            arrays = {name: array_of(member(archive, f"{name}.npy")) for name in MEMBERS}
    # zipfile raises RuntimeError for what is encrypted, or of a version that it does not know.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise InputError("expected an .npz file, found a damaged one") from error
    frames, size, rate = (arrays[name] for name in MEMBERS)
    if frames.ndim != 3 or frames.shape[1:] != (NUM_POINTS, 3) or frames.dtype.kind != "f":
        raise InputError(f"frames: expected (frames, {NUM_POINTS}, 3), found {quoted(str(frames.shape))}")
    if size.shape != (2,) or size.dtype.kind not in "iu" or rate.shape != () or rate.dtype.kind != "U":
        raise InputError("expected the size as two integers and the frame rate as text, found something else")
    sides = picture_size(int(size[0]), int(size[1]), "size") or (0, 0)
    return Keypoints(frames, *sides, rate_of(str(rate) or None, "frame_rate"))


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise InputError(
            f"expected an .npz file of keypoints, written by this program, found one without {name}; "
            "save a plain .npy array instead"
        ) from None
    if info.file_size > MAX_ARRAY:
        raise InputError(f"{name}: expected at most {MAX_ARRAY} bytes, found {info.file_size}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{name}: expected the compression that numpy uses, found another")
    return archive.read(info)


def read_npy(content: bytes) -> Recording:
    """Read an array (frames, points, 2 or 3), with people as second axis if there are several.

    Points of MediaPipe have 4 numbers: x, y, z and visibility.
    """
    array = array_of(content)
    if array.dtype.kind not in "fiu":
        raise InputError(f"expected an array of numbers, found {quoted(str(array.dtype))}")
    counts = {**LAYOUTS, NUM_POINTS: None}
    if array.ndim == 3:
        array = array[:, None]
    shape = array.shape
    if array.ndim != 4 or shape[2] not in counts or shape[3] not in ((2, 4) if shape[2] == 33 else (2, 3)):
        wanted = ", ".join(map(str, sorted(counts)))
        raise InputError(
            f"expected an array (frames, points, 3) or (frames, people, points, 3) of {wanted} points with "
            f"x, y and score (MediaPipe's 33 with x, y, z and visibility), found {quoted(str(shape))}"
        )
    if shape[0] > MAX_FRAMES or shape[1] > MAX_PEOPLE or shape[0] * shape[1] > MAX_POSES:
        raise InputError(
            f"expected at most {MAX_FRAMES} frames, {MAX_PEOPLE} people and {MAX_POSES} poses, "
            f"found {shape[0]} frames of {shape[1]} people"
        )
    if shape[3] == 4:
        array = array[..., [0, 1, 3]]
    table = cleaned(array.astype(np.float64), "the array")
    layout = counts[shape[2]]
    return Recording([[Found(layout.pose(each) if layout else each) for each in people] for people in table])


def array_of(content: bytes) -> NDArray[Any]:
    """The array in the bytes of a .npy file; its header may say anything. Raises InputError."""
    file = BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
        num_bytes = prod(shape) * dtype.itemsize
    except Exception as error:  # a damaged header can raise almost any error
        raise InputError("expected a .npy array, found a damaged one; save it with numpy.save") from error
    if dtype.hasobject:
        raise InputError(REFUSED)
    data = content[file.tell() :]
    if num_bytes != len(data) or not num_bytes or dtype.names or dtype.subdtype:
        raise InputError("expected a .npy array, found one that is empty or does not have the size it states")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
