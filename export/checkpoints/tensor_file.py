"""Files of tensors: what torch.save and safetensors write, looked through before anything large is read."""

from __future__ import annotations

import io
import json
import math
import mmap
import struct
import zipfile
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...text import quoted
from .contents import AGAIN, described, file_size
from .pickles import DAMAGE, Storage, Unsupported, View, contents, sizes, view

DESCRIPTION_BYTES = 4 << 20  # of pickles, headers and lists of entries; those of SD 1.5 have 200,000
WANTED = "weights"
RATIO = 8  # bytes of tensors for each byte of the file, as tensors may share storages

ZIP = b"PK\x03\x04"
OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of torch before 1.6, and still an option
END, LOCATOR64, END64 = 22, 20, 56  # bytes of the records at the end of a zip archive

SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

Places = dict[str, tuple[int, int]]  # offset and length in bytes of each storage of a file


class TensorFile:
    """A weight file. `contents` is what was saved, with a `View` for each tensor.

    Raises CheckpointError if it is no regular file, is damaged or compressed, or holds anything but tensors,
    texts and numbers in mappings and lists.
    """

    contents: Any
    places: Places

    def __init__(self, path: Path):
        self.path, self.size = path, file_size(path)
        try:
            with path.open("rb") as file:
                head = file.read(len(OLD))
                if head[8:9] == b"{":
                    self.contents, self.places = read_safetensors(file, self.size)
                elif head.startswith(ZIP):
                    self.contents, self.places = read_zip(file, self.size)
                elif head == OLD:
                    self.contents, self.places = read_old(file)
                else:
                    raise Unsupported(f"cannot read them: it is {described(path, 'weights')}")
                self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise CheckpointError(f"{path}: expected weights, cannot read them: {error.strerror}") from error
        except Unsupported as error:
            raise CheckpointError(
                f"{path}: expected weights saved by torch or safetensors, {error}"
            ) from error
        except (*DAMAGE, zipfile.BadZipFile, struct.error, NotImplementedError) as error:
            raise self.damaged from error

    @property
    def damaged(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: expected weights saved by torch or safetensors, cannot read them: it is damaged, "
            f"or a download that has not ended; {AGAIN}"
        )

    def tensors(self, views: dict[str, View]) -> dict[str, Tensor]:
        """Tensors in the mapped file. Their numbers are not read before they are used."""
        taken = sum(each.storage.dtype.itemsize * math.prod(each.size) for each in views.values())
        if taken > RATIO * self.size:
            raise CheckpointError(
                f"{self.path}: expected tensors that fill the file, found {taken:,} bytes of them in "
                f"{self.size:,}"
            )
        whole = torch.frombuffer(self.mapped, dtype=torch.uint8).untyped_storage()
        return {key: self.tensor(each, whole) for key, each in views.items()}

    def tensor(self, each: View, whole: torch.UntypedStorage) -> Tensor:
        dtype, key, numel = each.storage
        start, length = self.places.get(key, (0, -1))
        num_bytes = numel * dtype.itemsize
        last = each.offset + sum((n - 1) * step for n, step in zip(each.size, each.stride, strict=True))
        if num_bytes > length or start + length > self.size or (last >= numel and 0 not in each.size):
            raise self.damaged
        part = whole[start : start + num_bytes]
        return torch.empty(0, dtype=dtype).set_(part, each.offset, each.size, each.stride)


def read_safetensors(file: BinaryIO, size: int) -> tuple[Any, Places]:
    """A header of JSON after its length, then the numbers of all tensors, one after another."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    check_length(length, "a header")
    try:
        header = json.loads(file.read(length))
    except RecursionError as error:
        raise ValueError("a header of many levels") from error
    header.pop("__metadata__", None)
    views, places = {}, {}
    for key, entry in header.items():
        if entry["dtype"] not in SAFETENSORS:
            raise Unsupported(
                f"found numbers of a type that is not supported ({quoted(entry['dtype'])}) in it"
            )
        dtype, shape = SAFETENSORS[entry["dtype"]], sizes(entry["shape"])
        begin, end = sizes(entry["data_offsets"])
        strides = (*accumulate(shape[:0:-1], int.__mul__, initial=1),)[::-1] if shape else ()
        views[key] = view(Storage(dtype, key, math.prod(shape)), 0, shape, strides)
        places[key] = 8 + length + begin, end - begin
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError("an entry that does not fit")
    last = 8 + length
    for begin, num_bytes in sorted(places.values()):
        if begin != last:
            raise ValueError("numbers that overlap, or belong to no tensor")
        last = begin + num_bytes
    if last != size:
        raise ValueError("a file that is longer or shorter than its header says")
    return views, places


def read_zip(file: BinaryIO, size: int) -> tuple[Any, Places]:
    """A zip archive, in which torch.save stores all entries uncompressed."""
    records: Places = {}
    for entry in zip_entries(file, size):
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise Unsupported("found a compressed archive, which torch.save does not write; unpack it")
        file.seek(entry.header_offset)
        header = file.read(30)
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        name = entry.filename.partition("/")[2]  # the first part is the archive's own name
        if name in records:
            raise ValueError("two entries of the same name")
        records[name] = start, entry.file_size
    if "constants.pkl" in records:
        raise Unsupported("found a TorchScript program; save the network's state dict with torch.save")
    if "data.pkl" not in records:
        raise Unsupported("found a zip archive of something else; unpack it")
    if read_record(file, records.get("byteorder", (0, 0))) == b"big":
        raise Unsupported("found numbers of a machine with another byte order; save them on this one")
    saved = contents(io.BytesIO(read_record(file, records["data.pkl"])))
    return saved, {name[5:]: place for name, place in records.items() if name.startswith("data/")}


def read_record(file: BinaryIO, place: tuple[int, int]) -> bytes:
    start, length = place
    check_length(length, "a pickle")
    file.seek(start)
    return file.read(length)


def zip_entries(file: BinaryIO, size: int) -> list[zipfile.ZipInfo]:
    """All entries of an archive, if they are not too many to be kept in memory."""
    bytes_at_end = END64 + LOCATOR64 + END
    file.seek(max(0, size - bytes_at_end))
    records = file.read().rjust(bytes_at_end, b"\0")
    end64, locator, end = records[:END64], records[END64:-END], records[-END:]
    if end[:4] != b"PK\x05\x06":
        raise ValueError("no list of entries")
    length = end64[40:48] if locator[:4] == b"PK\x06\x07" else end[12:16]
    check_length(int.from_bytes(length, "little"), "a list of entries")
    with zipfile.ZipFile(file) as archive:
        return archive.infolist()


def read_old(file: BinaryIO) -> tuple[Any, Places]:
    """Five pickles, then each storage after its number of elements."""
    file.seek(0)
    pickles = io.BytesIO(file.read(DESCRIPTION_BYTES))
    _magic, _version, _system, saved, keys = (contents(pickles) for _ in range(5))
    item_bytes = {each.storage.key: each.storage.dtype.itemsize for each in views_in(saved)}
    places, start = {}, pickles.tell()
    for key in keys:
        file.seek(start)
        length = int.from_bytes(file.read(8), "little") * item_bytes[key]
        places[key] = start + 8, length
        start += 8 + length
    return saved, places


def views_in(saved: Any) -> list[View]:
    """All views in nested mappings and lists, which may contain themselves."""
    found, waiting, seen = [], [saved], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, View):
            found.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return found


def check_length(length: int, what: str) -> None:
    if length > DESCRIPTION_BYTES:
        raise Unsupported(f"found {what} of {length:,} bytes, more than {DESCRIPTION_BYTES:,}")
