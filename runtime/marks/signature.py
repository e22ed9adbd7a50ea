"""The C2PA signature of a file that comes from anywhere: whose it is, and whether it is valid."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from ...text import message_of, one_line

MESSAGE = 300  # characters of the library's message in ours
INSTALL = "pip install 'animate-rt[marks]'"
# A file may name addresses: of its manifest, of the authorities of certificates, of identities. Whoever wrote
# it must not learn who looks at it, nor choose what this host asks for. And a signed file gets no small
# pictures of itself and its inputs: the reference shows a person.
OFFLINE: dict[str, Any] = {
    "core": {"allowed_network_hosts": []},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
ELSEWHERE = "Remote:"  # how c2pa-python's message begins if a manifest lies at another address


@dataclass(frozen=True, slots=True)
class Signature:
    """What c2pa-python says of a file. state is "none", "valid", "invalid" or "not checked"."""

    state: str = "none"
    why: tuple[str, ...] = ()  # codes of what is wrong
    signer: str = ""
    source_type: str = ""  # of the action that created the file


def read_signature(path: Path, *, present: bool) -> Signature:
    """Check the C2PA manifest of a file. `present`: whether the file seems to have one. Raises OSError."""
    if not find_spec("c2pa"):
        why = (f"c2pa-python is not installed: {INSTALL}",)
        return Signature("not checked", why) if present else Signature()
    with path.open("rb") as file:
        found = signature_in(file)
    # c2pa-python cannot read every file that players can: without a manifest, that says nothing.
    return (
        replace(found, state="not checked")
        if found.state == "invalid" and not (present or found.signer)
        else found
    )


def offline() -> Any:
    """A context of c2pa-python that asks no address in a file. Use it in a `with`."""
    import c2pa

    return c2pa.Context.from_dict(OFFLINE)


def signature_in(file: BinaryIO) -> Signature:
    """Check the C2PA manifest of an open file; c2pa-python has to be installed."""
    import c2pa

    try:
        with offline() as context:
            reader = c2pa.Reader.try_create(file, context=context)
            if reader is None:
                return Signature()
            with reader:
                store = json.loads(reader.json())
    except c2pa.C2paError.NotSupported:  # no kind of file that can have a manifest
        return Signature()
    except (c2pa.C2paError, ValueError, RecursionError) as error:
        message = one_line(message_of(error), MESSAGE)
        if message.startswith(ELSEWHERE):
            return Signature("not checked", ("its manifest lies at another address, which is not asked",))
        return Signature("invalid", (message,))
    active = store.get("manifests", {}).get(store.get("active_manifest"), {})
    info = active.get("signature_info", {})
    signer = " / ".join(str(info[name]) for name in ("common_name", "issuer") if info.get(name))
    actions = [
        action
        for assertion in active.get("assertions", ())
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", ())
    ]
    types = [str(action.get("digitalSourceType", "")) for action in actions]
    results = (store.get("validation_results") or {}).get("activeManifest", {})
    why = tuple(dict.fromkeys(str(failure.get("code")) for failure in results.get("failure", ())))
    state = "valid" if store.get("validation_state") in ("Valid", "Trusted") else "invalid"
    source = next((each.rpartition("/")[2] for each in types if each), "")
    return Signature(state, why[:10], one_line(signer, MESSAGE), one_line(source, 60))
