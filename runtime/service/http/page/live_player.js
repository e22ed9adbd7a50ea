// Plays a clip while it is made. What is there so far is repeated until more frames come.

import { bytes, pause } from "./api.js";

const REPEAT_MS = 600; // the last frame stays this long before the repetition
const Source = window.ManagedMediaSource ?? window.MediaSource; // the first is the iPhone's

export const canPlayLive = Boolean(Source);

/** Play into a <video> until the server ends the stream or the signal is aborted; reconnects. */
export async function playLive(video, path, seconds, signal) {
  let repeat = null;
  const stop = new AbortController();
  const options = { signal: stop.signal };
  video.addEventListener("waiting", () => {
    clearTimeout(repeat);
    repeat = setTimeout(() => {
      if (!video.paused && !video.seeking && video.readyState < 3 && video.buffered.length) {
        video.currentTime = video.buffered.start(0);
      }
    }, REPEAT_MS);
  }, options);
  video.addEventListener("playing", () => clearTimeout(repeat), options);
  try {
    for (let failures = 0; !signal.aborted; failures += 1) {
      try {
        await receive(video, path, seconds, signal);
        return;
      } catch (error) {
        // The server has no stream, or the browser no room for it; the finished clip follows.
        if (signal.aborted || error.status || error.name === "QuotaExceededError") return;
        await pause(failures, signal);
      }
    }
  } finally {
    stop.abort();
    clearTimeout(repeat);
  }
}

async function receive(video, path, seconds, signal) {
  const source = new Source();
  const address = URL.createObjectURL(source);
  let buffer = null;
  let head = new Uint8Array();
  try {
    for await (const chunk of bytes(path, signal)) {
      if (buffer) {
        await append(buffer, chunk, signal);
        continue;
      }
      head = joined(head, chunk);
      const type = typeOf(head);
      if (!type) continue;
      video.disableRemotePlayback = true; // ManagedMediaSource asks for it
      const opened = happened(source, "sourceopen", signal);
      video.src = address;
      await opened;
      buffer = source.addSourceBuffer(type);
      if (seconds) source.duration = seconds;
      await append(buffer, head, signal);
      video.play().catch(() => {}); // a browser may refuse; the controls are there
    }
    if (buffer && source.readyState === "open") source.endOfStream();
  } finally {
    URL.revokeObjectURL(address);
  }
}

async function append(buffer, chunk, signal) {
  const appended = happened(buffer, "updateend", signal);
  buffer.appendBuffer(chunk);
  await appended;
}

/** Wait for an event. Rejects if the signal is aborted first. */
function happened(target, name, signal) {
  return new Promise((resolve, reject) => {
    const listening = new AbortController();
    const listen = (from, event, end) => {
      from.addEventListener(event, () => {
        listening.abort();
        end();
      }, { signal: listening.signal });
    };
    listen(target, name, resolve);
    listen(signal, "abort", () => reject(signal.reason));
  });
}

/** The type for addSourceBuffer, from the codecs named in the header; null while that is incomplete. */
function typeOf(head) {
  const text = new TextDecoder("latin1").decode(head);
  const at = text.indexOf("avcC");
  if (at < 0 || at + 8 > head.length || !text.includes("moof")) return null;
  const profile = [...head.slice(at + 5, at + 8)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const codecs = [`avc1.${profile}`, ...(text.includes("mp4a") ? ["mp4a.40.2"] : [])];
  return `video/mp4; codecs="${codecs.join(", ")}"`;
}

function joined(first, second) {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}
