"""The form that asks for a video: its fields, their description in OpenAPI, and the ClipRequest they make.

Names are those of the Videos API and of the servers that speak it; what only this project has is named as
in a job list (docs/farm.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ....engines.model import MAX_GUIDANCE_SCALE, MAX_TIMESTEPS
from ....errors import ConfigError
from ....text import quoted
from ...clip.windows import POLICIES
from ...media.frame_rate import frame_rate
from ...poses.alignment import Mode
from ...poses.driving import Smoothing
from ..request import ClipRequest
from .uploads import Upload

CONTROL_TYPES = ("pose", "driving", "keypoints")
MAX_PROMPT = 32_000  # characters
UNUSED = ("prompt", "negative_prompt", "user")  # fields of other models; the answer notes them
NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,20})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
WHOLE = re.compile(r"-?\d{1,20}", re.ASCII)


def whole(text: str) -> int:
    if not WHOLE.fullmatch(text):
        raise ConfigError(f"expected a whole number, found {quoted(text)}")
    return int(text)


def number(text: str) -> float:
    if not NUMBER.fullmatch(text):
        raise ConfigError(f"expected a number, found {quoted(text)}")
    value = float(text)
    if not isfinite(value):
        raise ConfigError(f"expected a number below 1e308, found {quoted(text)}")
    return value


def positive(text: str) -> float:
    if (value := number(text)) <= 0:
        raise ConfigError(f"expected more than 0, found {quoted(text)}")
    return value


def rate(text: str) -> str:
    return str(frame_rate(text))


def steps(text: str) -> int | list[int]:
    numbers = [whole(part) for part in text.split(",")]
    return numbers if len(numbers) > 1 else numbers[0]


def numbers(text: str) -> list[float]:
    return [number(part) for part in text.split(",")]


def person(text: str) -> int | list[float]:
    return numbers(text) if "," in text else whole(text)


def truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"expected true or false, found {quoted(text)}")
    return text == "true"


class Field(NamedTuple):
    """A text field: how it is read, its schema, and the key of a job list that it stands for, if any."""

    read: Callable[[str], Any]
    schema: dict[str, Any]
    key: str = ""


INTEGER, STRING = {"type": "integer"}, {"type": "string"}
FIELDS = {
    "model": Field(
        str, STRING | {"description": "A size that /v1/models lists. Others are noted as unused."}
    ),
    "size": Field(str, STRING | {"description": "WIDTHxHEIGHT, one of the sizes that /v1/models lists."}),
    "width": Field(whole, INTEGER | {"description": "With height, instead of size."}),
    "height": Field(whole, INTEGER | {"description": "With width, instead of size."}),
    "control_type": Field(
        str,
        STRING
        | {
            "enum": list(CONTROL_TYPES),
            "default": "pose",
            "description": "Of control_reference: drawn skeletons, a video of a person, or a keypoint file.",
        },
    ),
    "seconds": Field(
        positive,
        {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "Length of the clip, instead of num_frames.",
        },
    ),
    "deadline_s": Field(
        positive,
        {
            "type": "number",
            "exclusiveMinimum": 0,
            "description": "Refuse or end a job that takes longer, in seconds.",
        },
    ),
    "num_frames": Field(
        whole,
        INTEGER | {"minimum": 1, "description": "At most so many frames, from the first one on."},
        "frames",
    ),
    "frames": Field(
        str, STRING | {"description": "A range of frames like 25-72, instead of num_frames."}, "frames"
    ),
    "fps": Field(
        rate, {"type": "number", "description": "Of the result; by default that of the poses."}, "fps"
    ),
    "pose_fps": Field(
        rate, {"type": "number", "description": "The rate to which poses are resampled first."}, "pose_fps"
    ),
    "num_inference_steps": Field(steps, INTEGER | {"minimum": 1, "maximum": MAX_TIMESTEPS}, "steps"),
    "guidance_scale": Field(
        number, {"type": "number", "minimum": 1, "maximum": MAX_GUIDANCE_SCALE}, "guidance_scale"
    ),
    "guidance_interval": Field(
        numbers, STRING | {"description": "Two fractions, like 0.2,0.8."}, "guidance_interval"
    ),
    "seed": Field(whole, INTEGER | {"minimum": 0, "maximum": 2**64 - 1}, "seed"),
    "overlap": Field(whole, INTEGER | {"minimum": 0}, "overlap"),
    "windows": Field(str, STRING | {"enum": list(POLICIES)}, "windows"),
    "background": Field(
        str, STRING | {"description": "Behind a transparent picture, like white."}, "background"
    ),
    "align": Field(str, STRING | {"enum": list(get_args(Mode))}, "align"),
    "person": Field(person, STRING | {"description": "0 is the largest person; or a point x,y."}, "person"),
    "smooth": Field(str, STRING | {"enum": list(get_args(Smoothing))}, "smooth"),
    "start": Field(str, STRING | {"description": "Time in a driving video, like 1:02.5."}, "start"),
    "audio": Field(truth, {"type": "boolean", "description": "Keep a driving video's sound."}, "audio"),
    "prompt": Field(
        str, STRING | {"maxLength": MAX_PROMPT, "description": "Kept, but not used by this model."}
    ),
    "negative_prompt": Field(str, STRING | {"description": "Not used by this model."}),
    "user": Field(str, STRING | {"description": "Not used."}),
}
FILES = {
    "input_reference": "The character: a picture.",
    "control_reference": "What the character does: see control_type.",
}


def openapi(sizes: Sequence[str]) -> dict[str, Any]:
    """The request body of a form, for OpenAPI."""
    properties: dict[str, dict[str, Any]] = {
        name: {"type": "string", "format": "binary", "description": text} for name, text in FILES.items()
    }
    properties |= {name: dict(field.schema) for name, field in FIELDS.items()}
    properties["size"] |= {"enum": list(sizes)}
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(FILES),
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


class Asked(NamedTuple):
    """What a form asks for."""

    clip: ClipRequest
    deadline_s: float | None
    labels: dict[str, str]  # kept with the job; the Video object shows them


def read_form(upload: Upload, sizes: Sequence[str]) -> Asked:
    """Raises ConfigError for a form that stands for no request."""
    if missing := [name for name in FILES if name not in upload.files]:
        raise ConfigError(f"{missing[0]}: expected an uploaded file, found none")
    values = read_texts(upload.texts)
    control_type = values.get("control_type", "pose")
    if control_type not in CONTROL_TYPES:
        raise ConfigError(f"control_type: expected {', '.join(CONTROL_TYPES)}, found {quoted(control_type)}")
    keys = {FIELDS[name].key: value for name, value in values.items() if FIELDS[name].key}
    keys |= length(values, control_type)
    control = upload.files["control_reference"]
    keys[control_type] = with_suffix(control) if control_type == "keypoints" else control
    size = read_size(values, sizes)
    clip = ClipRequest(reference=upload.files["input_reference"], size=size, **keys)
    shown = ("num_inference_steps", "guidance_scale", "seed")
    labels = {
        "prompt": values.get("prompt", ""),
        "model": values.get("model", ""),
        "control_type": control_type,
        "unused": json.dumps(
            [name for name in values if name in UNUSED or is_unused_model(name, values, sizes)]
        ),
        "settings": json.dumps({name: values[name] for name in shown if name in values}),
    }
    return Asked(clip, values.get("deadline_s"), labels)


def read_texts(texts: dict[str, str]) -> dict[str, Any]:
    """The values of the text fields. Empty ones count as not given."""
    values = {}
    for name, text in texts.items():
        if name not in FIELDS:
            raise ConfigError(f"expected the fields {', '.join((*FILES, *FIELDS))}, found {quoted(name)}")
        if len(text) > MAX_PROMPT:
            raise ConfigError(f"{name}: expected at most {MAX_PROMPT} characters, found {len(text)}")
        try:
            if text:
                values[name] = FIELDS[name].read(text)
        except ConfigError as error:
            raise ConfigError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from error
    if "num_frames" in values and "frames" in values:
        raise ConfigError("frames: expected frames or num_frames, found both; leave one out")
    return values


def length(values: dict[str, Any], control_type: str) -> dict[str, Any]:
    """The keys of a job list that `seconds` stands for."""
    seconds = values.get("seconds")
    if seconds is None:
        return {}
    if "num_frames" in values or "frames" in values:
        raise ConfigError("seconds: expected seconds or a number of frames, found both; leave one out")
    if control_type != "pose":
        return {"duration": f"{seconds:.9f}"}
    given = values.get("fps") or values.get("pose_fps")
    if given is None:
        raise ConfigError(
            "seconds: expected fps with it, which tells the number of poses; give fps or num_frames"
        )
    return {"frames": max(1, round(seconds * Fraction(given)))}


def read_size(values: dict[str, Any], sizes: Sequence[str]) -> str | None:
    """The name of the bundle that a form asks for; None if it does not say."""
    if "width" in values or "height" in values:
        if not ("width" in values and "height" in values):
            given, other = ("width", "height") if "width" in values else ("height", "width")
            raise ConfigError(f"{given}: expected {other} with it, found it alone")
        asked = f"{values['width']}x{values['height']}"
        if values.get("size", asked) != asked:
            raise ConfigError(
                f"size: expected {asked}, which is width and height, found {quoted(values['size'])}"
            )
        return asked
    size = values.get("size")
    if size is None and values.get("model") in sizes:
        size = values["model"]
    if size is not None and size not in sizes:  # also where there is only one
        raise ConfigError(f"size: expected one of {', '.join(sizes)}, found {quoted(size)}")
    return size


def is_unused_model(name: str, values: dict[str, Any], sizes: Sequence[str]) -> bool:
    return name == "model" and values["model"] not in sizes


def with_suffix(path: Path) -> Path:
    """Give a keypoint file the suffix that its content has."""
    with path.open("rb") as file:
        begin = file.read(6)
    kinds = {b"PK\x03\x04": ".npz", b"\x93NUMPY": ".npy"}
    suffix = next((kind for magic, kind in kinds.items() if begin.startswith(magic)), ".json")
    return path.rename(path.with_name(path.name + suffix))
