// The page: keeps the form, the chosen clip and the lists up to date.

import { askAgain, connection, events, Failure, hasToken, health, json, onTokenNeeded, pause } from "./api.js";
import { Clips } from "./clips.js";
import { Form, showProblem } from "./form.js";
import { Viewer } from "./viewer.js";
import { activity, isActive, sizeName } from "./words.js";

const $ = (id) => document.getElementById(id);
const HEALTH = {
  loading: "The model is being loaded…",
  draining: "The server is shutting down",
  failed: "The model could not be loaded",
};
const BUSY_MS = 2000; // between two looks at the list while something is made
const IDLE_MS = 15_000;
const ANNOUNCED = 25; // percent between two announcements of progress

const pictures = new Map(); // addresses of the characters of the clips that were asked for here, by the clip's id
const clips = new Clips((id) => choose(id, true), pictures);
const viewer = new Viewer(changed, pictures);
const form = new Form(accepted, () => clips.secondsBusy ?? 0);
let watching = new AbortController();
let state = ""; // of the server
let wake = () => {};
let announced = ""; // the last progress that was announced

onTokenNeeded(askForToken);
connection.addEventListener("lost", () => ($("lost").hidden = false));
connection.addEventListener("back", () => ($("lost").hidden = true));
document.addEventListener("visibilitychange", () => wake());
window.addEventListener("online", () => wake());
window.addEventListener("hashchange", () => choose(location.hash.slice(1)));
$("give-token").addEventListener("click", () => {
  askAgain();
  $("give-token").hidden = true;
  wake();
});
keepUpToDate();

/** Read the models and the list again and again. */
async function keepUpToDate() {
  for (let failures = 0; ; ) {
    try {
      if (!document.hidden) await refresh();
      failures = 0;
      await sleep(clips.anyActive || state !== "ready" ? BUSY_MS : IDLE_MS);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (error.status === 401) $("give-token").hidden = false;
      if (error.status) $("server").textContent = error.message;
      if (error.status === 401) await sleep(IDLE_MS);
      else await pause(failures++);
    }
  }
}

async function refresh() {
  const wasActive = clips.anyActive;
  const wasListed = clips.videos.has(viewer.id);
  await clips.refresh();
  state = await health();
  if (state !== "ready" || !form.models.length || wasActive) form.setModels((await json("v1/models")).data);
  form.showEstimate();
  const sizes = form.models.map((model) => sizeName(model.size)).join(", ");
  $("server").textContent = state === "ready" ? sizes : (HEALTH[state] ?? state);
  $("api").hidden = hasToken(); // a link cannot send it
  const video = clips.videos.get(viewer.id);
  if (video) viewer.update(video);
  else if (wasListed) viewer.clear(); // removed by somebody else, or not kept any longer
  if (!viewer.id) chooseFirst();
}

/** Choose the clip of the address, or what is being made, or the newest. */
function chooseFirst() {
  const named = location.hash.slice(1);
  const all = [...clips.videos.values()].sort((one, other) => other.created_at - one.created_at);
  const video = clips.videos.get(named) ?? all.find((one) => one.status === "in_progress") ?? all[0];
  if (video) choose(video.id);
}

function choose(id, isByUser = false) {
  const video = clips.videos.get(id);
  if (!video) return;
  if (location.hash.slice(1) !== id) history.replaceState(null, "", `#${id}`);
  clips.choose(id);
  if (id === viewer.id) return;
  announced = "";
  viewer.show(video);
  watch(id);
  if (isByUser) {
    $("viewer").scrollIntoView({ block: "nearest" });
    $("viewer-title").focus({ preventScroll: true });
  }
}

/** Follow a clip's events until it has ended or another one is chosen. */
async function watch(id) {
  watching.abort();
  watching = new AbortController();
  const { signal } = watching;
  for (let failures = 0; !signal.aborted && isActive(viewer.video ?? {}); failures += 1) {
    try {
      for await (const video of events(`v1/videos/${encodeURIComponent(id)}/events`, signal)) {
        if (signal.aborted) return;
        failures = 0;
        const ended = isActive(clips.videos.get(id) ?? {}) && !isActive(video);
        clips.update(video);
        viewer.update(video);
        announce(video);
        if (ended) wake();
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Failure) || error.status) return; // the list has the news
    }
    await pause(failures, signal);
  }
}

/** Tell screen readers what changed, but not every frame. */
function announce(video) {
  const share = Math.floor((video.progress ?? 0) / ANNOUNCED) * ANNOUNCED;
  const now = `${video.status} ${video.stage} ${share}`;
  if (now === announced) return;
  announced = now;
  const percent = video.status === "in_progress" && share ? `, ${share} percent` : "";
  $("announcement").textContent = activity(video) + percent;
}

function accepted(video, picture) {
  pictures.set(video.id, picture);
  clips.update(video);
  choose(video.id);
  $("viewer").scrollIntoView({ block: "nearest" });
  $("announcement").textContent = activity(video);
  wake();
}

function changed(id, video) {
  if (video) {
    clips.update(video);
    if (id === viewer.id) viewer.update(video);
  } else {
    clips.remove(id);
    viewer.clear();
    history.replaceState(null, "", location.pathname);
    chooseFirst();
    if (viewer.id) $("viewer-title").focus();
    else $("picture").focus();
  }
  wake();
}

/** Sleep for so many milliseconds, or until there is a reason to look again. */
function sleep(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

function askForToken(wasRefused) {
  const dialog = $("token");
  const input = $("token-input");
  input.value = "";
  $("token-title").textContent = wasRefused ? "This token was not accepted" : "This server needs a token";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      showProblem("");
      resolve(dialog.returnValue === "ok" ? input.value.trim() : null);
    }, { once: true });
  });
}
