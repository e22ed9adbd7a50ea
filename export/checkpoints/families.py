"""Public layouts of checkpoints: their folders, names of files and keys, and settings (SPEC.md 1 and 2.2).

The members of the family have the same UNets. What else differs between them is in `MEMBERS`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, get_args

from ...engines.model import Member, PoseStyle, Resampling, Track


class Layout(NamedTuple):
    """What the public code of one member fixes; its settings are those of ModelConfig."""

    title: str
    folder: str  # of its networks
    pose_style: PoseStyle = "dwpose"
    pose_resampling: Resampling = "lanczos"
    reference_size: bool = False


MEMBERS: dict[Member, Layout] = {
    "animate-anyone": Layout("Moore-AnimateAnyone", "."),
    "musepose": Layout("MusePose", "MusePose", pose_style="musepose"),
    "champ": Layout("Champ", "champ", pose_resampling="bicubic", reference_size=True),
}
# Names of weights that only projects have which are not supported although they share the UNets.
OTHERS = {
    "face_locator": "EchoMimic",
    "temporal_module": "PersonaLive",
    "motion_unet": "RAIN",
}
GUIDERS: dict[Track, str] = {kind: f"guidance_encoder_{kind}" for kind in get_args(Track)}  # Champ's

NETWORKS = tuple(layout.folder for layout in MEMBERS.values())
# Folders of the public projects, then that of a plain diffusers repository.
UNET = ("stable-diffusion-v1-5/unet", "sd-image-variations-diffusers/unet", "unet")
VAE_FOLDER = ("sd-vae-ft-mse", "vae")
IMAGE_ENCODER = ("image_encoder", "sd-image-variations-diffusers/image_encoder")
CONFIG, INFERENCE = "config.json", "inference.yaml"

SUFFIXES = (".safetensors", ".pth", ".bin", ".ckpt", ".pt")
# What stands between stem and suffix where the plain name is missing: a number of steps, or a number format.
VARIANT = r"(?:[-_]\d+|[._-](?:fp16|bf16|fp32))"

# What training frameworks save beside the weights.
TRAINING = frozenset(
    {
        *("optimizer", "optimizers", "optimizer_state", "optimizer_states", "optimizer_state_dict"),
        *("lr_scheduler", "lr_schedulers", "scheduler", "scheduler_state_dict", "scaler", "grad_scaler"),
        *("callbacks", "loops", "hyper_parameters", "rng_state", "random_states"),
    }
)
# Parts of keys that wrappers of modules add: torch.compile, data parallelism, checkpointing.
WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# First parts of the keys of all networks; whatever stands before one of them in every key is left out.
FIRST_PARTS = frozenset(
    {
        *("conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out"),
        *(
            "blocks",
            "attentions",
            "guidance_attention",
            "encoder",
            "decoder",
            "quant_conv",
            "post_quant_conv",
            "vision_model",
            "visual_projection",
        ),
    }
)
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION_KEY = re.compile(r"(mid_block\.attentions\.0\.)(query|key|value|proj_attn)\.")

# What keys begin with that a file may have although its network does not use them. The public code of Champ
# makes an attention after each convolution of a guidance encoder, and runs the last one.
UNUSED = {
    "reference_unet": ("conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias"),
    "image_encoder": ("vision_model.embeddings.position_ids",),
    **dict.fromkeys(GUIDERS.values(), (*(f"attentions.{i}." for i in range(5)), "guidance_attention.")),
}

V2_MOTION: dict[str, Any] = {
    "use_inflated_groupnorm": True,
    "use_motion_module": True,
    "motion_module_resolutions": [1, 2, 4, 8],
    "motion_module_mid_block": True,
    "motion_module_kwargs": {
        "num_attention_heads": 8,
        "num_transformer_block": 1,
        "attention_block_types": ["Temporal_Self", "Temporal_Self"],
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 32,
    },
}
V2_NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "linear",
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
ZERO_SNR: dict[str, Any] = {  # what Champ's `enable_zero_snr` stands for
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
V2: dict[str, dict[str, Any]] = {
    "unet_additional_kwargs": V2_MOTION,
    "noise_scheduler_kwargs": V2_NOISE,
    "sampling": {},
}
