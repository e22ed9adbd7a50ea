// Numbers and states as people say them.

const STAGES = {
  load: "Loading the model",
  extract: "Finding the poses in the video",
  reference: "Looking at the picture",
  denoise: "Making frames",
  encode: "Writing the video",
};

const STATES = {
  queued: "Waiting",
  in_progress: "In progress",
  completed: "Finished",
  failed: "Failed",
  cancelled: "Cancelled",
};

export const isActive = (video) => video.status === "queued" || video.status === "in_progress";

export const stateName = (video) => STATES[video.status] ?? video.status;

/** 38 -> "38 s", 150 -> "2 min 30 s", 7300 -> "2 h 2 min". An estimate is rounded to what it can know. */
export function duration(seconds, isEstimate = false) {
  let whole = Math.max(1, Math.round(seconds));
  if (isEstimate) {
    const step = whole < 20 ? 1 : whole < 120 ? 5 : whole < 600 ? 15 : 60;
    whole = Math.round(whole / step) * step;
  }
  if (whole < 60) return `${whole} s`;
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  return rest && minutes < 10 ? `${minutes} min ${rest} s` : `${minutes} min`;
}

export const about = (seconds) => `about ${duration(seconds, true)}`;

export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** "128x192" -> "128 × 192" */
export const sizeName = (size) => String(size ?? "").replace("x", " × ");

/** When a clip was asked for: the time, and the day if that was not today. */
export function moment(unixSeconds) {
  const date = new Date(unixSeconds * 1000);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}

/** What a clip is doing, in one sentence. */
export function activity(video) {
  if (video.status === "queued") {
    const before = video.queue_position;
    return before ? `Waiting for ${count(before, "other clip")}` : "Waiting to begin";
  }
  if (video.status === "in_progress") {
    const stage = STAGES[video.stage] ?? "Beginning";
    const frames = video.frames_done ? `: ${video.frames_done} of ${video.num_frames} are ready` : "";
    return video.stage === "denoise" ? stage + frames : stage;
  }
  return stateName(video);
}

/** How long it will take, or took. */
export function timing(video) {
  if (isActive(video)) {
    if (video.seconds_left == null) return "";
    return video.status === "queued"
      ? `finished in ${about(video.seconds_left)}`
      : `${about(video.seconds_left)} left`;
  }
  if (video.status !== "completed" || video.inference_time_s == null) return "";
  return `made in ${duration(video.inference_time_s)}`;
}

/** Size, number of frames and length of a clip. */
export function facts(video) {
  const parts = [sizeName(video.size)];
  if (video.num_frames) parts.push(count(video.num_frames, "frame"));
  const seconds = Number(video.seconds);
  if (seconds) parts.push(`${Number(seconds.toFixed(1))} s`);
  return parts.filter(Boolean).join(" · ");
}
