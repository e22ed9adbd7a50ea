// Requests to the server. Addresses are relative to the page, so that it works behind a proxy's prefix.

const TOKEN = "animate-rt.token"; // in the session storage
const RETRY_MS = [500, 1000, 2000, 4000];

// Sends "lost" when the server cannot be reached, and "back" when it answers again.
export const connection = new EventTarget();
let isLost = false;

let askForToken = null; // (wasRefused) => Promise of a token, or of null if the user gives none
let asking = null; // one question for all requests that need the token
let declined = false;

/** An answer that is an error, or no answer: then the status is 0. The message is one line for people. */
export class Failure extends Error {
  constructor(message, status = 0, code = "", retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export const unreachable = () => new Failure("The server cannot be reached. Trying again…");

export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** Ask for the token again, after the user has given none. */
export function askAgain() {
  declined = false;
}

/** Send a request and return the response. Throws Failure, or AbortError for an aborted signal. */
export async function request(path, { method = "GET", headers = {}, signal } = {}) {
  for (;;) {
    const token = storedToken();
    let response;
    try {
      response = await fetch(address(path), { method, signal, headers: { ...headers, ...authorization(token) } });
    } catch (error) {
      throw signal?.aborted ? error : lost();
    }
    report(false);
    if (response.status === 401) {
      await newToken(token);
    } else if (response.ok) {
      return response;
    } else {
      throw failure(response.status, await response.text(), (name) => response.headers.get(name));
    }
  }
}

export async function json(path, options) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch (error) {
    throw options?.signal?.aborted ? error : lost();
  }
}

/** What the server does: "ready", "loading", "draining" or "failed". */
export async function health() {
  try {
    return (await (await fetch(address("readyz"))).json()).status;
  } catch {
    throw lost();
  }
}

/** Send a form and return the answer's JSON. `onProgress` receives the share that is sent, 0 to 1. */
export async function upload(path, form, { headers = {}, onProgress, signal }) {
  for (;;) {
    const token = storedToken();
    const sent = await send(path, form, { ...headers, ...authorization(token) }, onProgress, signal);
    if (sent.status === 401) {
      await newToken(token);
    } else if (sent.status >= 200 && sent.status < 300) {
      return JSON.parse(sent.responseText);
    } else {
      throw failure(sent.status, sent.responseText, (name) => sent.getResponseHeader(name));
    }
  }
}

/** Yield the data of server-sent events. Ends when the server ends them. */
export async function* events(path, signal) {
  const response = await request(path, { signal, headers: { Accept: "text/event-stream" } });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await read(reader, signal);
    if (done) return;
    const blocks = (text + value).split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield JSON.parse(lines.map((line) => line.slice(5)).join("\n"));
    }
  }
}

/** Yield the bytes of an answer as they come. */
export async function* bytes(path, signal) {
  const response = await request(path, { signal });
  const reader = response.body.getReader();
  for (;;) {
    const { value, done } = await read(reader, signal);
    if (done) return;
    yield value;
  }
}

/** Something that <img> and <video> can show. They cannot send a token, so that then it is fetched. */
export async function mediaSource(path, signal) {
  if (!storedToken()) return address(path);
  const response = await request(path, { signal });
  return URL.createObjectURL(await response.blob());
}

/** Release what `mediaSource` has fetched. */
export function release(source) {
  if (source?.startsWith("blob:")) URL.revokeObjectURL(source);
}

/** Wait before another try; longer after every failure, and no longer once the network is back. */
export function pause(failures, signal) {
  return new Promise((resolve) => {
    const stop = new AbortController();
    const wake = () => {
      stop.abort();
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(wake, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
    window.addEventListener("online", wake, { signal: stop.signal });
    signal?.addEventListener("abort", wake, { signal: stop.signal });
  });
}

function address(path) {
  return new URL(path, document.baseURI).href;
}

function authorization(token) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

export const hasToken = () => Boolean(storedToken());

function storedToken() {
  return sessionStorage.getItem(TOKEN);
}

/** Return once there is another token than the refused one. Throws Failure if the user gives none. */
async function newToken(refused) {
  if (storedToken() !== refused) return;
  if (!declined) {
    asking ??= askForToken(Boolean(refused)).finally(() => (asking = null));
    const token = await asking;
    if (token) {
      sessionStorage.setItem(TOKEN, token);
      return;
    }
    declined = true;
  }
  throw new Failure("This server needs a token.", 401, "token_needed");
}

function send(path, form, headers, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much is sent
    request.open("POST", address(path));
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => onProgress?.(total ? loaded / total : 0);
    request.onload = () => {
      report(false);
      resolve(request);
    };
    request.onerror = () => {
      report(true);
      reject(new Failure("The connection was lost while the files were sent. Press the button to try again."));
    };
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    throw signal?.aborted ? error : lost();
  }
}

function failure(status, text, header) {
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // a proxy's page; the status says enough
  }
  const message = error.message || `The server answered with status ${status}.`;
  return new Failure(message, status, error.code ?? "", Number(header("Retry-After")) || 0);
}

function lost() {
  report(true);
  return unreachable();
}

function report(now) {
  if (now === isLost) return;
  isLost = now;
  connection.dispatchEvent(new Event(now ? "lost" : "back"));
}
