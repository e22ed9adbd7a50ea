"""People drawn as a grey body with a disc for a head, and models that find them by the colour of the disc.

The models are exact, so what follows a person can be tested for exact answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from animate_rt.runtime.poses.extraction.models import Candidate, Estimate
from animate_rt.runtime.poses.keypoints import (
    LEFT_HIP,
    LEFT_SHOULDER,
    NECK,
    NOSE,
    NUM_POINTS,
    RIGHT_HIP,
    RIGHT_SHOULDER,
    Pose,
)
from numpy.typing import NDArray
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 320, 180
RED, BLUE = (255, 0, 0), (0, 0, 255)
COLOURS = (RED, BLUE)
# Where the points of the body are, in units of the body's height, from its middle.
SHAPE = {
    NOSE: (0, -0.5), NECK: (0, -0.3),
    RIGHT_SHOULDER: (-0.2, -0.3), LEFT_SHOULDER: (0.2, -0.3),
    RIGHT_HIP: (-0.1, 0.5), LEFT_HIP: (0.1, 0.5),
}  # fmt: skip


class Body:
    """A person: colour of the head, middle and height of the body in pixels."""

    def __init__(self, x: float, y: float = 90, height: float = 80, colour: Any = RED):
        self.x, self.y, self.height, self.colour = x, y, height, colour

    @property
    def pose(self) -> Pose:
        pose = np.zeros((NUM_POINTS, 3))
        for point, (x, y) in SHAPE.items():
            pose[point] = self.x + x * self.height, self.y + y * self.height, 1
        return pose


def picture(*people: Body, background: int = 128) -> NDArray[np.uint8]:
    """A picture of these people."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (background,) * 3)
    draw = ImageDraw.Draw(image)
    for body in people:
        # One pixel per tenth of the height, so that the models can tell how tall the body is.
        side = body.height / 10
        draw.rectangle((body.x - side, body.y - side, body.x + side, body.y + side), fill=body.colour)
    return np.asarray(image)


class DiscModels:
    """Finds everyone in a picture. A region is a point; the nearest person within a height is there."""

    def __init__(self) -> None:
        self.estimates = 0

    def bodies(self, image: Image.Image) -> list[Body]:
        pixels, found = np.asarray(image), []
        for colour in COLOURS:
            y, x = np.nonzero((pixels == colour).all(axis=2))
            if len(x):
                found.append(Body(x.mean(), y.mean(), 10 * (x.max() - x.min()) / 2, colour))
        return found

    def detect(self, picture: Image.Image) -> list[Candidate]:
        return [Candidate(body.pose, 1.0, (body.x, body.y)) for body in self.bodies(picture)]

    def estimate(self, picture: Image.Image, region: Any) -> Estimate | None:
        self.estimates += 1
        near = sorted(self.bodies(picture), key=lambda body: away(body, region))
        if not near or away(near[0], region) > near[0].height:
            return None
        return Estimate(near[0].pose, (near[0].x, near[0].y))

    def close(self) -> None:
        pass


def away(body: Body, region: tuple[float, float]) -> float:
    return float(np.hypot(body.x - region[0], body.y - region[1]))
