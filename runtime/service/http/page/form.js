// What a clip is made from: the picture, the motion and the settings.

import { Failure, request, upload } from "./api.js";
import { Drop } from "./drop.js";
import { countFrames, isKeypoints, isPicture, showsSkeleton } from "./motion_file.js";
import { about, count, duration, sizeName } from "./words.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = { picture: "demo/reference.png", motion: "demo/pose.webp" };
const NAMES = {
  input_reference: "Character",
  control_reference: "Motion",
  num_frames: "Frames",
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  fps: "Frames per second",
  seed: "Seed",
};
const PROMPT = "animate the character"; // other servers of this interface need one

export class Form {
  /** `onAccepted` receives the new clip and the picture's address. `queueSeconds` estimates the waiting. */
  constructor(onAccepted, queueSeconds) {
    this.onAccepted = onAccepted;
    this.queueSeconds = queueSeconds;
    this.models = [];
    this.motionFrames = null;
    this.isExampleMotion = false;
    this.key = null; // one for each clip that is asked for, so that a repetition makes no second clip
    this.picture = new Drop("picture", () => this.#changed());
    this.motion = new Drop("motion", () => this.#newMotion());
    for (const name of ["picture", "motion"]) {
      $(`${name}-example`).addEventListener("click", () => this.#example(name));
    }
    $("new-seed").addEventListener("click", () => {
      $("seed").value = Math.floor(Math.random() * 1_000_000);
      this.#changed();
    });
    $("make").addEventListener("input", () => this.#changed());
    $("make").addEventListener("submit", (event) => this.#submit(event));
    $("stop").addEventListener("click", () => this.sending?.abort());
    dropAnywhere((file) => (isPicture(file) ? this.picture : this.motion).set(file));
  }

  /** Take what the server can make. */
  setModels(models) {
    this.models = models;
    const size = $("size");
    const before = size.value;
    size.replaceChildren(...models.map((model) => new Option(sizeName(model.size), model.size)));
    if (models.some((model) => model.size === before)) size.value = before;
    $("size-field").hidden = models.length < 2;
    this.showEstimate();
  }

  get model() {
    return this.models.find((model) => model.size === $("size").value);
  }

  /** Show the settings in one line, and how long the clip will take. */
  showEstimate() {
    const model = this.model;
    if (!model) return;
    const { steps, guidance_scale: guidance } = model.defaults ?? {};
    $("steps").placeholder = String(stepCount(steps) ?? "");
    $("guidance").placeholder = String(guidance ?? "");
    $("frames").max = model.limits?.frames ?? "";
    const frames = this.#frames();
    const given = (id) => $(id).value || $(id).placeholder;
    $("summary").textContent = [
      sizeName(model.size),
      $("frames").value ? count(Number($("frames").value), "frame") : "all frames",
      `${given("steps")} steps`,
    ].join(" · ");
    $("estimate").textContent = this.#estimate(model, frames);
  }

  #estimate(model, frames) {
    if (!this.motion.file) return "";
    if (model.seconds_per_frame == null) return "How long it takes is known after the first clip.";
    const share = Number($("steps").value || $("steps").placeholder) / stepCount(model.defaults?.steps);
    const each = model.seconds_per_frame * (Number.isFinite(share) ? share : 1);
    if (!frames) return `${capital(about(each * 100))} for every 100 frames.`;
    const waiting = this.queueSeconds();
    const text = `${capital(about(each * frames))} for ${count(frames, "frame")}`;
    return waiting >= 1 ? `${text}, after ${about(waiting)} of other clips.` : `${text}.`;
  }

  #frames() {
    const asked = Number($("frames").value) || Infinity;
    const frames = Math.min(asked, this.motionFrames ?? asked);
    return Number.isFinite(frames) ? frames : null;
  }

  #changed() {
    this.key = null;
    showProblem("");
    this.showEstimate();
  }

  async #newMotion() {
    const { file } = this.motion;
    this.motionFrames = null;
    const isExample = this.isExampleMotion;
    this.isExampleMotion = false;
    $("kind").hidden = !file || isKeypoints(file) || isExample;
    this.#changed();
    if (!file || isKeypoints(file)) return;
    const [frames, shown] = await Promise.all([countFrames(file), this.motion.shown]);
    if (file !== this.motion.file) return;
    this.motionFrames = frames;
    if (shown) setKind(showsSkeleton(shown) ? "pose" : "driving");
    this.showEstimate();
  }

  async #example(name) {
    try {
      const response = await request(EXAMPLES[name]);
      const blob = await response.blob();
      this.isExampleMotion = name === "motion";
      this[name].set(new File([blob], EXAMPLES[name].split("/").pop(), { type: blob.type }), "Example");
    } catch (error) {
      showProblem(error.message);
    }
  }

  async #submit(event) {
    event.preventDefault();
    if (this.sending) return;
    if (!this.picture.file) return this.#missing("picture", "Choose a picture of the character first.");
    if (!this.motion.file) return this.#missing("motion", "Choose a motion first: a video, keypoints or the example.");
    if (!$("make").checkValidity()) {
      $("settings").open = true;
      $("make").reportValidity();
      return;
    }
    showProblem("");
    this.sending = new AbortController();
    this.key ??= newKey();
    this.#showSending(0);
    try {
      const video = await upload("v1/videos", this.#data(), {
        headers: { "Idempotency-Key": this.key },
        onProgress: (share) => this.#showSending(share),
        signal: this.sending.signal,
      });
      this.key = null;
      this.onAccepted(video, URL.createObjectURL(this.picture.file));
    } catch (error) {
      if (error instanceof Failure) showProblem(lineOf(error));
      else if (error.name !== "AbortError") showProblem("The server's answer cannot be read.");
    } finally {
      this.sending = null;
      this.#showSending(null);
    }
  }

  #data() {
    const data = new FormData();
    data.append("prompt", PROMPT);
    data.append("input_reference", this.picture.file);
    const kind = isKeypoints(this.motion.file) ? "keypoints" : kindOf();
    data.append("control_type", kind);
    data.append("control_reference", this.motion.file);
    for (const field of $("settings").querySelectorAll("input[name], select[name]")) {
      if (field.type === "checkbox" ? field.checked : field.value) data.append(field.name, field.value);
    }
    return data;
  }

  #missing(input, message) {
    showProblem(message);
    $(input).focus();
  }

  #showSending(share) {
    const button = $("submit");
    $("stop").hidden = share === null;
    button.setAttribute("aria-disabled", share === null ? "false" : "true");
    if (share === null) button.textContent = "Make the video";
    else button.textContent = share < 1 ? `Sending ${Math.floor(share * 100)} %` : "Checking the files";
  }
}

export function showProblem(message) {
  $("problem").textContent = message;
  $("problem").hidden = !message;
}

/** Files that are dropped beside the two places are taken too, instead of opened by the browser. */
function dropAnywhere(take) {
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    for (const file of event.dataTransfer.files) take(file);
  });
}

/** An error in one line, with the page's names instead of the interface's. */
function lineOf({ message, status, retryAfter }) {
  const line = message.replace(/^(\w+)(?=: )/, (field) => NAMES[field] ?? field);
  const isFull = status === 429 || status === 503;
  return isFull && retryAfter ? `${line} (again in ${duration(retryAfter, true)})` : line;
}

const stepCount = (steps) => (Array.isArray(steps) ? steps.length : steps);

const capital = (text) => text[0].toUpperCase() + text.slice(1);

const kindOf = () => document.querySelector("input[name=control_type]:checked").value;

function setKind(value) {
  document.querySelector(`input[name=control_type][value=${value}]`).checked = true;
}

function newKey() {
  // crypto.randomUUID is missing on plain http addresses other than localhost
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
