// A place to drop or choose a file, which shows the file.

import { isKeypoints } from "./motion_file.js";

export class Drop {
  constructor(name, onChange) {
    this.input = document.getElementById(name);
    this.place = this.input.closest(".drop");
    this.onChange = onChange;
    this.file = null;
    this.shown = Promise.resolve(null); // the <img> or <video> that shows the file, or null
    this.address = null;
    this.input.addEventListener("change", () => {
      if (this.input.files.length) this.set(this.input.files[0]);
    });
    for (const kind of ["dragenter", "dragover"]) {
      this.place.addEventListener(kind, () => this.place.classList.add("over"));
    }
    for (const kind of ["dragleave", "drop"]) {
      this.place.addEventListener(kind, () => this.place.classList.remove("over"));
    }
    this.place.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (event.dataTransfer.files.length) this.set(event.dataTransfer.files[0]);
    });
  }

  set(file, name = file.name) {
    this.file = file;
    this.input.value = ""; // so that the same file can be chosen again
    this.place.querySelector(".name").textContent = name;
    this.place.classList.add("filled");
    this.#show(file);
    this.onChange();
  }

  #show(file) {
    const preview = this.place.querySelector(".preview");
    preview.replaceChildren();
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(file);
    this.shown = isKeypoints(file) ? Promise.resolve(null) : display(file, this.address, preview);
  }
}

/** Show a picture or a video. Returns its element once it has pixels, or null if the browser cannot read it. */
function display(file, address, preview) {
  const isVideo = !file.type.startsWith("image/");
  const element = document.createElement(isVideo ? "video" : "img");
  if (isVideo) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    Object.assign(element, { muted: true, loop: true, playsInline: true, autoplay: !still, preload: "auto" });
  } else {
    element.alt = "";
  }
  return new Promise((resolve) => {
    element.addEventListener(isVideo ? "loadeddata" : "load", () => {
      preview.replaceChildren(element);
      resolve(element);
    });
    element.addEventListener("error", () => resolve(null)); // such as HEIC; the server can read it
    element.src = address;
  });
}
