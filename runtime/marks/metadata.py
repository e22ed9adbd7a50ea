"""Unsigned metadata of a file: an XMP packet with IPTC's digital source type, in an mp4 or a PNG.

In an mp4 the packet is a `uuid` box at the end, in a PNG an `iTXt` chunk after the header. Both are the
places that the XMP specification names, part 3.
"""

from __future__ import annotations

import html
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ...text import one_line

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = "trainedAlgorithmicMedia"  # media that a trained model made
DETECTOR = "animate-rt detect FILE (Python package animate-rt)"
PNG_START, PNG_HEADER = b"\x89PNG\r\n\x1a\n", 33  # bytes of the start and the header chunk
XMP_KEYWORD = b"XML:com.adobe.xmp\0\0\0\0\0"  # with the fields of a text that is not compressed
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
MAX_PACKET = 1_000_000  # bytes that are looked into
MAX_PARTS = 100_000  # boxes or chunks of a file
MAX_ATTRIBUTE = 200  # characters, before they are escaped
SOURCE_TYPE = re.compile(rb"digitalsourcetype/(\w{1,60})")
DETECTED_BY = re.compile(rb'Detector="([^"]{1,2400})"')


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says of itself, unsigned: anybody can write or remove it.

    source_type is IPTC's term, such as "trainedAlgorithmicMedia"; empty if there is none. detector says where
    to find a detector of its marks. has_c2pa: whether there is a C2PA manifest, valid or not.
    """

    source_type: str = ""
    detector: str = ""
    has_c2pa: bool = False


def packet(watermark: str, detector: str = DETECTOR) -> bytes:
    """An XMP packet. `watermark` is the name of the mark in the frames, or empty."""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
   xmlns:xmp="http://ns.adobe.com/xap/1.0/"
   xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   xmlns:animate="urn:animate-rt:marks"
   xmp:CreatorTool="animate-rt"
   Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPES}{GENERATED}"
   animate:Watermark="{attribute(watermark)}"
   animate:Detector="{attribute(detector)}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>""".encode()


def attribute(text: str) -> str:
    """Text for an attribute of XML, on one line of at most 200 characters."""
    return html.escape(one_line(text, MAX_ATTRIBUTE))  # then, so that no escape is cut in two


def add_packet(path: Path, xmp: bytes) -> None:
    """Add an XMP packet to a PNG or mp4 that has none, in place: not for files with their final name."""
    with path.open("r+b") as file:
        if file.read(len(PNG_START)) == PNG_START:
            file.seek(PNG_HEADER)
            rest = file.read()
            file.seek(PNG_HEADER)
            file.write(chunk(b"iTXt", XMP_KEYWORD + xmp) + rest)
        else:
            file.seek(0, os.SEEK_END)
            file.write(struct.pack(">I4s", 24 + len(xmp), b"uuid") + XMP_BOX + xmp)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def read_metadata(path: Path) -> Metadata:
    """Read the metadata of a picture or video; empty if there is none. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(12)
        if start.startswith(PNG_START):
            return found_in(png_chunks(file), b"iTXt", b"caBX")
        if start[4:8] == b"ftyp":
            return found_in(boxes(file), XMP_BOX, C2PA_BOX)
        file.seek(0)  # JPEG and others have the packet near their start
        content = file.read(MAX_PACKET)
    return replace(said_in(content), has_c2pa=b"jumb" in content and b"c2pa" in content)


def found_in(parts: Iterator[tuple[bytes, bytes]], text: bytes, signature: bytes) -> Metadata:
    """The metadata in the parts of a file of the kind `text`; those of the kind `signature` are C2PA."""
    found, has_c2pa = Metadata(), False
    for kind, content in parts:  # one by one: together they may be larger than the memory
        if kind == text and not found.source_type:
            found = said_in(content)
        has_c2pa = has_c2pa or kind == signature
    return replace(found, has_c2pa=has_c2pa)


def said_in(content: bytes) -> Metadata:
    """What an XMP packet says; empty if there is none."""
    if not (found := SOURCE_TYPE.search(content)):
        return Metadata()
    by = DETECTED_BY.search(content)
    return Metadata(text_of(found[1]), text_of(by[1]) if by else "")


def text_of(content: bytes) -> str:
    return one_line(html.unescape(content.decode("utf-8", "backslashreplace")), MAX_ATTRIBUTE)


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Kind of each chunk of a PNG, and the content of texts; ends where the file is damaged."""
    file.seek(len(PNG_START))
    for _ in range(MAX_PARTS):
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        content = file.read(min(length, MAX_PACKET)) if kind == b"iTXt" else b""
        yield kind, content
        file.seek(length - len(content) + 4, os.SEEK_CUR)


def boxes(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Identifier of each `uuid` box at the top of an mp4, and its content; ends where the file is damaged."""
    end = file.seek(0, os.SEEK_END)
    at = 0
    for _ in range(MAX_PARTS):
        file.seek(at)
        head = file.read(32)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        begin = 8
        if size == 1 and len(head) >= 16:
            size, begin = int.from_bytes(head[8:16]), 16
        elif size == 0:  # to the end of the file
            size = end - at
        if kind == b"uuid":
            file.seek(at + begin)
            content = file.read(min(max(size - begin, 0), MAX_PACKET))
            yield content[:16], content[16:]
        at += size
        if size < 8 or at >= end:
            return
