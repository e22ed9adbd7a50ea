"""Writes tests/data/poses/formats: keypoint files as the public tools write them, with known points.

The points are those of keypoint_truth.py. Their order is given by name, as the tools' documentation gives it,
so that it does not depend on the tables of layouts.py. Run: python -m animate_rt.tests.record_keypoint_files
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .keypoint_truth import HEIGHT, WIDTH, named, truth

FOLDER = Path(__file__).parent / "data" / "poses" / "formats"

HAND_LEFT, HAND_RIGHT = ([f"{side}_hand_{i}" for i in range(21)] for side in ("left", "right"))
FACE = [f"face_{i}" for i in range(68)]
FEET = ["left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel"]
ARMS = [
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
]  # fmt: skip
RIGHT_LEG = ["right_hip", "right_knee", "right_ankle"]
LEFT_LEG = ["left_hip", "left_knee", "left_ankle"]
HEAD = ["right_eye", "left_eye", "right_ear", "left_ear"]
OPENPOSE_18 = ["nose", "neck", *ARMS, *RIGHT_LEG, *LEFT_LEG, *HEAD]
OPENPOSE_25 = ["nose", "neck", *ARMS, "mid_hip", *RIGHT_LEG, *LEFT_LEG, *HEAD, *FEET]
COCO = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    *(f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
      for side in ("left", "right")),
]  # fmt: skip
WHOLEBODY = [*COCO, *FEET, *FACE, *HAND_LEFT, *HAND_RIGHT]
HALPE_FEET = ["left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe", "left_heel", "right_heel"]
HALPE = [*COCO, "head", "halpe_neck", "mid_hip", *HALPE_FEET, *FACE, *HAND_LEFT, *HAND_RIGHT]
SIDES = ("left", "right")
BLAZEPOSE = [
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right",
    *(f"{side}_{joint}" for joint in ("shoulder", "elbow", "wrist", "pinky", "index", "thumb")
      for side in SIDES),
    *(f"{side}_{joint}" for joint in ("hip", "knee", "ankle", "heel", "foot_index") for side in SIDES),
]  # fmt: skip
OTHER = [90.0, 91.0, 0.9]  # points that we do not use


def rows(names: list[str], frame: int = 0, person: int = 0) -> list[list[float]]:
    points = named(truth(frame, person))
    return [points.get(name, OTHER) for name in names]


def flat(names: list[str], frame: int = 0, person: int = 0) -> list[float]:
    return [number for row in rows(names, frame, person) for number in row]


def normalised(names: list[str], frame: int = 0, person: int = 0, score: float | None = None) -> list[float]:
    """Flat, x and y divided by the size."""
    return [
        number
        for x, y, c in rows(names, frame, person)
        for number in (x / WIDTH, y / HEIGHT, c if score is None else score)
    ]


def write(name: str, document: Any) -> None:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document) + "\n")


def openpose() -> None:
    for frame, number in enumerate((2, 10, 11)):  # in natural order
        people = [
            {
                "person_id": [-1],
                "pose_keypoints_2d": flat(OPENPOSE_25, frame, person),
                "face_keypoints_2d": flat([*FACE, "pupil", "pupil"], frame, person),
                "hand_left_keypoints_2d": flat(HAND_LEFT, frame, person),
                "hand_right_keypoints_2d": flat(HAND_RIGHT, frame, person),
                "pose_keypoints_3d": [],
                "face_keypoints_3d": [],
                "hand_left_keypoints_3d": [],
                "hand_right_keypoints_3d": [],
            }
            for person in (1, 0)  # the larger one is not the first
        ]
        write(f"openpose_folder/clip_{number}_keypoints.json", {"version": 1.3, "people": people})
    frames = []
    for frame in range(3):
        body = flat(OPENPOSE_18, frame)
        body[3 * 4 : 3 * 5] = [0, 0, 0]  # the right wrist is missing
        frames.append({"version": 1.1, "people": [{"pose_keypoints_2d": body, "face_keypoints_2d": []}]})
    write("openpose_list.json", frames)


def controlnet() -> None:
    """ComfyUI: body normalised with points beyond the picture, hands in pixels, 71 points of a face."""
    frames = []
    for frame in range(2):
        body = normalised(OPENPOSE_18, frame)
        body[3 * 10 : 3 * 10 + 2] = [0.3125, 1.1131]
        person = {
            "pose_keypoints_2d": body,
            "face_keypoints_2d": normalised([*FACE, "pupil", "pupil", "background"], frame),
            "hand_left_keypoints_2d": flat(HAND_LEFT, frame),
            "hand_right_keypoints_2d": None,
        }
        animal = normalised([*COCO], frame)
        size = {"canvas_height": HEIGHT, "canvas_width": WIDTH}
        frames.append({"people": [person], "animals": [animal], **size})
    write("comfyui_pose_keypoint.json", frames)
    body = normalised(OPENPOSE_18, score=1.0)
    body[3 * 13 : 3 * 14] = [0.0, 0.0, 0.0]
    person = {
        "pose_keypoints_2d": body,
        "hand_right_keypoints_2d": None,
        "hand_left_keypoints_2d": None,
        "face_keypoints_2d": normalised([*FACE, "pupil", "pupil"], score=1.0)[: 3 * 56],
    }
    write("webui_controlnet.json", {"people": [person], "canvas_height": HEIGHT, "canvas_width": WIDTH})


def coco() -> None:
    def result(names: list[str], frame: int, person: int) -> dict[str, Any]:
        return {"category_id": 1, "keypoints": flat(names, frame, person), "score": 2.9 - person}

    # Nobody was found in picture 12, so it has no entry.
    write(
        "coco_results.json",
        [{"image_id": 10 + frame, **result(COCO, frame, person)} for frame in (0, 1, 3) for person in (1, 0)],
    )
    parts = {
        "foot_kpts": FEET,
        "face_kpts": FACE,
        "lefthand_kpts": HAND_LEFT,
        "righthand_kpts": HAND_RIGHT,
    }
    write(
        "coco_wholebody_results.json",
        [
            {
                "image_id": frame,
                **result(COCO, frame, 0),
                **{key: flat(names, frame) for key, names in parts.items()},
            }
            for frame in range(2)
        ],
    )
    # AlphaPose, tracked, with the names of a video's frames; the tracks change places in the list.
    write(
        "alphapose_136.json",
        [
            {
                "image_id": f"{9 + frame}.jpg",
                **result(HALPE, frame, person),
                "box": [0, 0, 9, 9],
                "idx": 7 - person,
            }
            for frame in range(3)
            for person in ((0, 1) if frame % 2 else (1, 0))
        ],
    )


def mmpose() -> None:
    def instance(frame: int, person: int) -> dict[str, Any]:
        points = rows(WHOLEBODY, frame, person)
        return {
            "keypoints": [[x, y] for x, y, _ in points],
            "keypoint_scores": [score for _, _, score in points],
            "bbox": [[100.0, 80.0, 300.0, 700.0]],
            "bbox_score": 0.93,
        }

    listed = [
        {"frame_id": 1 + frame, "instances": [instance(frame, 1), instance(frame, 0)]} for frame in range(2)
    ]
    write("mmpose_video.json", {"meta_info": {"dataset_name": "coco_wholebody"}, "instance_info": listed})
    write("mmpose_picture.json", [instance(0, 1), instance(0, 0)])
    frames = []
    for frame in range(2):
        people = [rows(WHOLEBODY, frame, person) for person in (0, 1)]
        points = [[[x, y] for x, y, _ in person] for person in people]
        scores = [[2 * score for _, _, score in person] for person in people]  # some models exceed 1
        frames.append({"keypoints": points, "scores": scores})
    write("rtmlib.json", frames)


def mediapipe() -> None:
    def landmark(x: float, y: float, score: float | None) -> dict[str, float]:
        place = {"x": x / WIDTH, "y": y / HEIGHT, "z": -0.1}
        return place if score is None else {**place, "visibility": score}

    def landmarks(names: list[str], scored: bool) -> list[dict[str, float]]:
        return [landmark(x, y, score if scored else None) for x, y, score in rows(names)]

    mesh = [landmark(*OTHER[:2], None)] * 478
    for index, (x, y, _) in zip(MESH, rows(FACE), strict=True):
        mesh[index] = landmark(x, y, None)
    holistic = {
        "poseLandmarks": landmarks(BLAZEPOSE, True),
        "leftHandLandmarks": landmarks(HAND_LEFT, False),
        "rightHandLandmarks": landmarks(HAND_RIGHT, False),
        "faceLandmarks": mesh,
    }
    write("mediapipe_holistic.json", [holistic, {}])
    pose = landmarks(BLAZEPOSE, True)
    write("mediapipe_tasks.json", {"landmarks": [pose], "worldLandmarks": [pose]})


# Points of MediaPipe's mesh that lie where the 68 points of a face do.
MESH = [
    127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356, 70, 63, 105, 66, 107,
    336, 296, 334, 293, 300, 168, 197, 5, 4, 75, 97, 2, 326, 305, 33, 160, 158, 133, 153, 144, 362, 385, 387,
    263, 373, 380, 61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
]  # fmt: skip


if __name__ == "__main__":
    for record in openpose, controlnet, coco, mmpose, mediapipe:
        record()
