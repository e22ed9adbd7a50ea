// The queue and the clips of the past.

import { Failure, json, mediaSource, release } from "./api.js";
import { about, facts, isActive, moment, stateName } from "./words.js";

const $ = (id) => document.getElementById(id);
const PAGE = 24; // clips of one request

export class Clips {
  /** `onChoose` receives the id of a clip that the user chose. `pictures` are addresses by a clip's id. */
  constructor(onChoose, pictures) {
    this.onChoose = onChoose;
    this.pictures = pictures;
    this.videos = new Map();
    this.rows = new Map();
    this.thumbnails = new Map();
    this.removed = new Set();
    this.chosen = null;
    this.older = false; // older clips were asked for
    $("more").addEventListener("click", () => this.#more());
  }

  get anyActive() {
    return [...this.videos.values()].some(isActive);
  }

  /** Estimated seconds until the queue is empty; null if nothing is measured yet. */
  get secondsBusy() {
    const left = [...this.videos.values()].filter(isActive).map((video) => video.seconds_left);
    return left.some((seconds) => seconds == null) ? null : Math.max(0, ...left);
  }

  /** Read the newest clips again. Returns them. */
  async refresh(signal) {
    const { data, has_more: more } = await json(`v1/videos?limit=${PAGE}&order=desc`, { signal });
    const oldest = Math.min(...data.map((video) => video.created_at));
    const listed = new Set(data.map((video) => video.id));
    for (const video of this.videos.values()) {
      const wasInPage = !more || video.created_at > oldest;
      if (wasInPage && !listed.has(video.id)) this.videos.delete(video.id);
    }
    for (const video of data) this.#take(video);
    if (!this.older) $("more").hidden = !more;
    this.#draw();
    return data;
  }

  /** Take the news of one clip. */
  update(video) {
    this.#take(video);
    this.#draw();
  }

  remove(id) {
    this.removed.add(id); // an answer that is on its way may still list it
    this.videos.delete(id);
    this.#draw();
  }

  choose(id) {
    this.chosen = id;
    for (const [key, row] of this.rows) mark(row, key === id);
  }

  #take(video) {
    const before = this.videos.get(video.id);
    const isOlder = before && !isActive(before) && isActive(video);
    if (!this.removed.has(video.id) && !isOlder) this.videos.set(video.id, video);
  }

  async #more() {
    const ids = [...this.videos.values()].sort(byAge).map((video) => video.id);
    let page;
    try {
      page = await json(`v1/videos?limit=${PAGE}&order=desc&after=${ids.at(-1)}`);
    } catch (error) {
      if (error instanceof Failure) return; // the button is still there, to try again
      throw error;
    }
    const { data, has_more: more } = page;
    this.older = true;
    for (const video of data) this.#take(video);
    $("more").hidden = !more;
    this.#draw();
  }

  #draw() {
    const videos = [...this.videos.values()];
    this.#fill($("queue"), videos.filter(isActive).sort(byTurn));
    this.#fill($("past"), videos.filter((video) => !isActive(video)).sort(byAge));
    for (const [id, row] of this.rows) {
      if (this.videos.has(id)) continue;
      row.remove();
      this.rows.delete(id);
      release(row.querySelector("img").src);
      release(this.pictures.get(id));
      this.pictures.delete(id);
      this.thumbnails.delete(id);
    }
  }

  #fill(section, videos) {
    section.hidden = !videos.length;
    const list = section.querySelector("ul");
    videos.forEach((video, index) => {
      const row = this.rows.get(video.id) ?? this.#row(video.id);
      fill(row, video);
      if (list.children[index] !== row) keepingFocus(() => list.insertBefore(row, list.children[index]));
      if (video.status === "completed") this.#thumbnail(row, video.id);
    });
  }

  #row(id) {
    const row = $("row").content.firstElementChild.cloneNode(true);
    row.querySelector("button").addEventListener("click", () => this.onChoose(id));
    if (this.pictures.has(id)) Object.assign(row.querySelector("img"), { src: this.pictures.get(id), hidden: false });
    mark(row, id === this.chosen);
    this.rows.set(id, row);
    return row;
  }

  async #thumbnail(row, id) {
    if (this.thumbnails.has(id)) return;
    this.thumbnails.set(id, true);
    const image = row.querySelector("img");
    try {
      image.onload = () => (image.hidden = false);
      image.src = await mediaSource(`v1/videos/${encodeURIComponent(id)}/content?variant=thumbnail`);
    } catch {
      this.thumbnails.delete(id); // tried again with the next refresh
    }
  }
}

const byAge = (one, other) => other.created_at - one.created_at;

const byTurn = (one, other) =>
  (one.status === "queued") - (other.status === "queued") ||
  (one.queue_position ?? 0) - (other.queue_position ?? 0) ||
  one.created_at - other.created_at;

function fill(row, video) {
  const [name, soft] = [row.querySelector("b"), row.querySelector(".what .soft")];
  write(name, moment(video.created_at));
  write(soft, facts(video));
  const badge = row.querySelector(".badge");
  badge.dataset.status = video.status;
  write(badge, badgeOf(video));
  const bar = row.querySelector("progress");
  bar.hidden = video.status !== "in_progress";
  bar.value = video.progress ?? 0;
}

function badgeOf(video) {
  if (video.status === "completed") return "";
  if (video.status === "in_progress") return `${Math.floor(video.progress)} %`;
  if (video.status === "queued" && video.seconds_left != null) return `in ${about(video.seconds_left)}`;
  return stateName(video);
}

function mark(row, isChosen) {
  const button = row.querySelector("button");
  if (isChosen) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

/** Set a text only if it differs, so that a selection or a screen reader is not disturbed. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function keepingFocus(move) {
  const focused = document.activeElement;
  move();
  if (document.activeElement !== focused) focused.focus({ preventScroll: true });
}
