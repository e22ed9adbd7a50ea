"""A page made with gradio, for those who expect one. It uses a running `animate-rt serve`.

pip install gradio httpx
animate-rt serve bundle &
python gradio_app.py
"""

import tempfile
import time
from pathlib import Path

import gradio
import httpx

SERVER = httpx.Client(base_url="http://127.0.0.1:8000", timeout=60)
PROGRESS = gradio.Progress()  # as a default value, it makes gradio show the progress


def animate(picture: str, driver: str, kind: str, steps: int, progress: gradio.Progress = PROGRESS) -> str:
    """Make a clip and return the path of its mp4."""
    files = {"input_reference": Path(picture).read_bytes(), "control_reference": Path(driver).read_bytes()}
    form = {"control_type": kind, "num_inference_steps": str(int(steps))}
    answer = SERVER.post("/v1/videos", files=files, data=form)
    while (video := answer.json()).get("status") in ("queued", "in_progress"):
        progress(video["progress"] / 100, desc=video["stage"] or "waiting")
        time.sleep(int(answer.headers["openai-poll-after-ms"]) / 1000)
        answer = SERVER.get(f"/v1/videos/{video['id']}")
    if video.get("status") != "completed":
        raise gradio.Error((video.get("error") or {"message": "The job was cancelled."})["message"])
    clip = Path(tempfile.mkdtemp()) / "clip.mp4"
    clip.write_bytes(SERVER.get(f"/v1/videos/{video['id']}/content").content)
    return str(clip)


page = gradio.Interface(
    animate,
    inputs=[
        gradio.Image(type="filepath", label="Character"),
        gradio.File(label="Poses, a video of a person, or keypoints"),
        gradio.Radio(["pose", "driving", "keypoints"], value="pose", label="What the file is"),
        gradio.Slider(1, 50, value=25, step=1, label="Steps"),
    ],
    outputs=gradio.Video(),
    analytics_enabled=False,  # gradio reports its use to its makers otherwise
)

if __name__ == "__main__":
    page.launch()
