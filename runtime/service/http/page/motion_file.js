// What a chosen motion file holds, found out in the browser: its frames, and whether it shows drawn skeletons.

const HEADER = 16; // bytes of a box's size, name and long size
const MAX_MOOV = 64 << 20;
const DARK = 40; // of 255: the background of a drawn skeleton is black
const DARK_SHARE = 0.6;

export const isKeypoints = (file) => /\.(json|npz|npy)$/i.test(file.name);

export const isPicture = (file) => file.type.startsWith("image/") && file.type !== "image/gif";

/** The number of frames of an mp4, mov or animated WebP file; null if it cannot be told. */
export async function countFrames(file) {
  try {
    if (file.type === "image/webp") return countPictures(new DataView(await file.arrayBuffer()));
    const moov = await findMoov(file);
    return moov && countSamples(moov);
  } catch {
    return null; // damaged; the server says what is wrong with it
  }
}

/** Whether a picture or a video frame is mostly black, as drawn skeletons are. */
export function showsSkeleton(image) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 64;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, 64, 64);
  const { data } = context.getImageData(0, 0, 64, 64);
  let dark = 0;
  for (let at = 0; at < data.length; at += 4) {
    if (Math.max(data[at], data[at + 1], data[at + 2]) < DARK) dark += 1;
  }
  return dark > DARK_SHARE * 64 * 64;
}

async function findMoov(file) {
  for (let at = 0; at + 8 <= file.size; ) {
    const view = new DataView(await file.slice(at, at + HEADER).arrayBuffer());
    const { name, size, header } = boxAt(view, 0, file.size - at);
    if (name === "moov") {
      if (size > MAX_MOOV) return null;
      return new DataView(await file.slice(at + header, at + size).arrayBuffer());
    }
    if (size < header) return null;
    at += size;
  }
  return null;
}

function countSamples(moov) {
  for (const trak of boxes(moov, "trak")) {
    const media = first(trak, "mdia");
    const handler = first(media, "hdlr");
    if (nameAt(handler, 8) === "vide") {
      return first(first(first(media, "minf"), "stbl"), "stsz").getUint32(8) || null;
    }
  }
  return null;
}

/** The frames of an animated WebP. */
function countPictures(webp) {
  let pictures = 0;
  for (let at = 12; at + 8 <= webp.byteLength; ) {
    const size = webp.getUint32(at + 4, true);
    if (nameAt(webp, at) === "ANMF") pictures += 1;
    at += 8 + size + (size % 2);
  }
  return pictures || null;
}

function boxAt(view, at, rest) {
  let [size, header] = [view.getUint32(at), 8];
  if (size === 1) [size, header] = [Number(view.getBigUint64(at + 8)), HEADER];
  if (size === 0) size = rest;
  return { name: nameAt(view, at + 4), size, header };
}

function nameAt(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((index) => view.getUint8(at + index)));
}

/** The contents of the boxes with this name in another box. */
function* boxes(view, wanted) {
  for (let at = 0; at + 8 <= view.byteLength; ) {
    const { name, size, header } = boxAt(view, at, view.byteLength - at);
    if (size < header) return;
    if (name === wanted) yield new DataView(view.buffer, view.byteOffset + at + header, size - header);
    at += size;
  }
}

function first(view, name) {
  return boxes(view, name).next().value;
}
