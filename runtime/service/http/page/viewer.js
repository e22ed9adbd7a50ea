// The chosen clip: its frames as they come, its progress, and what can be done with it.

import { Failure, json, mediaSource, pause, release, request } from "./api.js";
import { canPlayLive, playLive } from "./live_player.js";
import { activity, facts, isActive, moment, timing } from "./words.js";

const $ = (id) => document.getElementById(id);
const STEPS = { load: "prepare", extract: "prepare", reference: "prepare", denoise: "denoise", encode: "encode" };
const ORDER = ["queued", "prepare", "denoise", "encode"];
const RETRIES = 3; // chooses the longer pause before another try
const TRIES = 10; // to load a finished clip
const REMOVE_MS = 4000; // how long a second press removes the clip

export class Viewer {
  /** `onChange` receives a video that changed, and null for one that was removed. `pictures` as in Clips. */
  constructor(onChange, pictures) {
    this.onChange = onChange;
    this.pictures = pictures;
    this.video = null;
    this.scope = new AbortController(); // of what belongs to the chosen clip
    this.source = null;
    this.live = false; // the stream is played
    $("cancel").addEventListener("click", () => this.#act(() => json(this.#path("/cancel"), { method: "POST" })));
    $("remove").addEventListener("click", () => this.#remove());
  }

  get id() {
    return this.video?.id;
  }

  /** Choose a clip. */
  show(video) {
    if (video.id !== this.id) {
      this.#clear();
      $("empty").hidden = true;
      document.querySelector("#viewer .about").hidden = false;
      $("viewer-title").textContent = `Clip of ${moment(video.created_at)}`;
      const [width, height] = String(video.size).split("x").map(Number);
      if (width && height) document.querySelector(".stage").style.setProperty("--ratio", `${width} / ${height}`);
      const picture = this.pictures.get(video.id);
      if (picture) Object.assign($("still"), { src: picture, hidden: false });
    }
    this.update(video);
  }

  /** Choose no clip. */
  clear() {
    this.#clear();
    this.video = null;
    $("empty").hidden = false;
    document.querySelector("#viewer .about").hidden = true;
  }

  /** Take the news of the chosen clip. */
  update(video) {
    const before = this.video?.id === video.id ? this.video : null;
    if (before && !isActive(before) && isActive(video)) return; // an older answer that came late
    this.video = video;
    const active = isActive(video);
    const progress = $("progress");
    progress.hidden = $("stages").hidden = !active;
    if (video.status === "queued") progress.removeAttribute("value");
    else progress.value = video.progress;
    this.#showStep(video.status === "queued" ? "queued" : (STEPS[video.stage] ?? "prepare"));
    $("activity").textContent = activity(video);
    $("timing").textContent = timing(video);
    $("facts").textContent = facts(video);
    const hidesFocused = !active && document.activeElement === $("cancel");
    $("cancel").hidden = !active;
    $("remove").hidden = active;
    if (hidesFocused) $("viewer-title").focus({ preventScroll: true });
    $("still").classList.toggle("dim", active);
    if (video.error) this.#fail(video.error.message);
    if (video.status === "in_progress" && !this.live && canPlayLive) this.#playLive();
    if (video.status === "completed" && before?.status !== "completed") this.#playResult();
    if (!active && video.status !== "completed") this.#stopPlaying();
  }

  async #playLive() {
    this.live = true;
    const player = $("video");
    const { signal } = this.scope;
    player.loop = false;
    player.controls = true;
    player.addEventListener("loadeddata", () => this.#showVideo(), { once: true, signal });
    await playLive(player, this.#path("/stream"), Number(this.video.seconds) || 0, signal);
    await pause(RETRIES, signal);
    if (!signal.aborted) this.live = false; // the stream ended before the clip: it is tried again
  }

  async #playResult(failures = 0) {
    const id = this.id;
    const player = $("video");
    const at = player.hidden ? 0 : player.currentTime;
    this.scope.abort();
    this.scope = new AbortController();
    const { signal } = this.scope;
    const tryAgain = async () => {
      await pause(failures, signal);
      if (!signal.aborted && failures < TRIES) this.#playResult(failures + 1);
    };
    try {
      const source = await mediaSource(this.#path("/content"), signal);
      if (id !== this.id) return release(source);
      this.source = source;
      player.addEventListener("loadeddata", () => this.#showVideo(), { once: true, signal });
      player.addEventListener("error", tryAgain, { once: true, signal }); // the connection may be lost
      Object.assign(player, { src: source, loop: true, controls: true, currentTime: at });
      if (!matchMedia("(prefers-reduced-motion: reduce)").matches) player.play().catch(() => {});
      Object.assign($("download"), { href: source, download: `${id}.mp4`, hidden: false });
    } catch (error) {
      if (!(error instanceof Failure) || id !== this.id) return;
      if (error.status) this.#fail(error.message);
      else tryAgain();
    }
  }

  #remove() {
    const button = $("remove");
    if (button.dataset.asked) {
      this.#act(async () => {
        await request(this.#path(""), { method: "DELETE" });
        return null;
      });
    } else {
      button.dataset.asked = "yes";
      button.textContent = "Press again to remove";
      setTimeout(resetRemove, REMOVE_MS);
    }
  }

  async #act(action) {
    const id = this.id;
    try {
      this.onChange(id, await action());
    } catch (error) {
      if (id === this.id && error instanceof Failure) this.#fail(error.message);
    }
  }

  #path(rest) {
    return `v1/videos/${encodeURIComponent(this.id)}${rest}`;
  }

  #fail(message) {
    $("failure").textContent = message;
    $("failure").hidden = false;
  }

  #showStep(step) {
    for (const item of $("stages").children) {
      const [at, now] = [ORDER.indexOf(item.dataset.stage), ORDER.indexOf(step)];
      item.classList.toggle("done", at < now);
      if (at === now) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    }
  }

  #showVideo() {
    $("still").hidden = true;
    $("video").hidden = false;
  }

  #stopPlaying() {
    this.scope.abort();
    this.scope = new AbortController();
    $("video").pause();
    $("video").controls = false;
  }

  #clear() {
    this.scope.abort();
    this.scope = new AbortController();
    release(this.source);
    this.source = null;
    this.live = false;
    const player = $("video");
    player.hidden = true;
    player.removeAttribute("src");
    player.load();
    $("still").hidden = true;
    $("failure").hidden = true;
    $("download").hidden = true; // until the result is there
    resetRemove();
  }
}

function resetRemove() {
  const button = $("remove");
  delete button.dataset.asked;
  button.textContent = "Remove";
}
