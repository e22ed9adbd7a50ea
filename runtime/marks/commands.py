"""The commands `detect` and `consent`, and the options of commands that mark what they make."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from ...console import Commands, Console, add_command, complain
from ...errors import InputError
from ...text import escaped, one_line, quoted
from ..media.picture import read_picture
from .consent import SHOWN, Consent, ConsentList
from .detection import detect as detect_marks
from .marks import MarkOptions

CERTIFICATE, KEY = "ANIMATE_RT_C2PA_CERT", "ANIMATE_RT_C2PA_KEY"
MARKED, UNMARKED, UNREADABLE = 0, 1, 2  # exit statuses; the highest of all files counts


def add_commands(commands: Commands) -> None:
    command = add_command(
        commands,
        detect,
        "tell whether files are marked as generated: one line of JSON for each; the exit status is 0 if all "
        "are, 1 if one is not, 2 if one cannot be read",
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="picture or video")

    purpose = "keep a list of references whose persons agreed to be animated"
    consent = commands.add_parser("consent", help=purpose, description=purpose)
    kinds = consent.add_subparsers(required=True, metavar="WHAT")
    command = add_command(kinds, add, "add a reference; it is recorded by digest, the picture is not kept")
    add_list(command)
    command.add_argument("picture", type=Path, metavar="IMAGE", help="the reference")
    command.add_argument("--who", required=True, metavar="NAME", help="who agreed")
    command.add_argument("--until", default="", metavar="DAY", help="last day, as 2027-06-30 (default: none)")
    command = add_command(kinds, revoke, "end the consent for a reference and its copies today")
    add_list(command)
    command.add_argument("picture", type=Path, metavar="IMAGE", help="the reference")
    purpose = "show the list: digest, from, until, revoked, who"
    command = kinds.add_parser("list", help=purpose, description=purpose)
    command.set_defaults(run=list_consents)
    add_list(command)


def add_list(command: argparse.ArgumentParser) -> None:
    command.add_argument("list", type=Path, metavar="LIST", help="file of the list (JSON lines)")


def add_marks(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that makes files; `marks_of` reads them."""
    group = command.add_argument_group("marks of what was generated (docs/marks.md)")
    group.add_argument(
        "--no-watermark", dest="watermark", action="store_false", help="leave the watermark out of the frames"
    )
    group.add_argument(
        "--no-metadata", dest="metadata", action="store_false", help="leave out the unsigned XMP packet"
    )
    group.add_argument("--label", action="store_true", help='draw a visible "AI" in the lower right corner')
    group.add_argument(
        "--c2pa-cert",
        type=Path,
        metavar="FILE",
        default=os.environ.get(CERTIFICATE),
        help=f"sign with this certificate chain in PEM (default: {CERTIFICATE})",
    )
    group.add_argument(
        "--c2pa-key",
        type=Path,
        metavar="FILE",
        default=os.environ.get(KEY),
        help=f"and with its private key in PEM (default: {KEY})",
    )


def marks_of(options: argparse.Namespace) -> MarkOptions:
    """The marks that a command was asked for. Raises ConfigError for a certificate that cannot sign."""
    marks = MarkOptions(
        watermark=options.watermark,
        metadata=options.metadata,
        label=options.label,
        certificate=options.c2pa_cert and options.c2pa_cert.absolute(),
        key=options.c2pa_key and options.c2pa_key.absolute(),
    )
    marks.credentials()
    return marks


def detect(options: argparse.Namespace, console: Console) -> int:
    status = MARKED
    for file in options.files:
        console.signals.check()
        try:
            found = detect_marks(file)
        except InputError as error:
            complain(str(error))
            print(
                json.dumps({"file": one_line(str(file)), "error": str(error), "code": error.code}), flush=True
            )
            status = UNREADABLE
            continue
        print(json.dumps(found.document()), flush=True)
        complain(found.line())
        status = max(status, MARKED if found.marked else UNMARKED)
    return status


def add(options: argparse.Namespace, _console: Console) -> None:
    picture = np.asarray(read_picture(options.picture))
    print(row(ConsentList(options.list).add(picture, options.who, options.until)))


def revoke(options: argparse.Namespace, _console: Console) -> None:
    ended = ConsentList(options.list).revoke(np.asarray(read_picture(options.picture)))
    if not ended:
        raise InputError(f"{quoted(str(options.picture))}: expected a reference on the list, found another")
    print("\n".join(map(row, ended)))


def list_consents(options: argparse.Namespace, _console: Console) -> None:
    for consent in ConsentList(options.list).read():
        print(row(consent))


def row(consent: Consent) -> str:
    until, revoked = consent.until or "no end", consent.revoked and f"  revoked {consent.revoked}"
    return f"{consent.digest[:SHOWN]}  {consent.given} to {until}{revoked}  {escaped(consent.who)}"
