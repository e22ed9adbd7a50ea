"""The clip: one job of an animator, checked and opened."""

from __future__ import annotations

from dataclasses import dataclass

from ...engines import contract
from ...engines.device import Array
from ...errors import ConfigError
from ..media.pose_sequence import PoseSequence
from .order import ORDERS, Order
from .progress import ProgressCallback
from .sampler import Step
from .snapshot import SnapshotSink
from .windows import DEFAULT_OVERLAP, POLICIES, Policy

WHOLE_SCHEDULE = (0.0, 1.0)
MAX_GUIDANCE_SCALE = 100  # far beyond use, and finite in every precision


@dataclass(frozen=True, slots=True)
class Clip:
    """One job, checked and opened: everything `Animator._render` needs besides the engines."""

    image: Array  # reference, uint8 (1, H, W, 3)
    embedded_image: Array  # reference, uint8 (1, side, side, 3)
    pose: PoseSequence
    steps: list[Step]
    guidance_scale: float
    guidance_interval: tuple[float, float]
    seed: int
    initial_noise: Array | None  # float32 (frames, 4, h, w)
    policy: Policy
    overlap: int
    order: Order
    progress: ProgressCallback
    snapshots: SnapshotSink

    def unet_graphs(self) -> list[str]:
        """Which form of the denoising UNet each step runs."""
        first, end = (share * len(self.steps) for share in self.guidance_interval)
        guided = [self.guidance_scale > 1 and first <= i < end for i in range(len(self.steps))]
        return [
            contract.DENOISING_UNET if is_guided else contract.DENOISING_UNET_CONDITIONAL
            for is_guided in guided
        ]


def check_options(
    bucket: contract.ShapeBucket,
    *,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = WHOLE_SCHEDULE,
    windows: str = "uniform",
    overlap: int | None = None,
    order: str | None = None,
    seed: int = 42,
) -> tuple[int, str]:
    """Refuse with a ConfigError what `animate` cannot be asked for; the overlap and order to use."""
    if not 1 <= guidance_scale <= MAX_GUIDANCE_SCALE:
        raise ConfigError(
            f"guidance_scale: expected 1 (none) to {MAX_GUIDANCE_SCALE}, found {guidance_scale}"
        )
    match guidance_interval:
        case (int() | float() as start, int() | float() as end) if 0 <= start <= end <= 1:
            pass
        case _:
            raise ConfigError(
                "guidance_interval: expected two shares of the schedule, 0 <= start <= end <= 1, "
                f"found {', '.join(map(str, guidance_interval))}"
            )
    if windows not in POLICIES:
        raise ConfigError(f"windows: expected one of {', '.join(POLICIES)}, found {windows}")
    order = order or ("time-skewed" if windows == "open" else "step-major")
    if order not in ORDERS:
        raise ConfigError(f"order: expected one of {', '.join(ORDERS)}, found {order}")
    if order == "time-skewed" and windows != "open":
        raise ConfigError(f"order time-skewed: expected open windows, found {windows}")
    if overlap is None:
        overlap = min(DEFAULT_OVERLAP, bucket.window - 1)
    if not 0 <= overlap < bucket.window:
        raise ConfigError(
            f"overlap: expected 0 to {bucket.window - 1} frames, less than the bundle's window of "
            f"{bucket.window}, found {overlap}"
        )
    if seed < 0:
        raise ConfigError(f"seed: expected a whole number of at least 0, found {seed}")
    return overlap, order
