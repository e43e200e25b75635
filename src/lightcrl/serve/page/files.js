// Pictures and sounds that people drop, paste or choose.

import { byId } from "./dom.js";
import { addPart } from "./query.js";

const LARGEST_PICTURE = 1.5e6; // bytes; larger ones are made smaller before they travel
const SIDE = 1024; // pixels of what was made smaller

/**
 * Take files from everywhere.
 *
 * @param options.kinds gives the kinds that the model reads.
 * @param options.writable gives whether files may be added.
 * @param options.add is called with files to be added.
 * @param options.refuse is called with words on what cannot be used.
 */
export function setUpFiles(options) {
  const search = (files) => searchWith([...files], options);
  choose("attach", "attach-files", search);
  choose("add", "add-files", options.add);
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (!files.length) return;
    event.preventDefault();
    search(files);
  });
  dropping(options, search);
}

/** Ask for what is near the files. */
export async function searchWith(files, { kinds, refuse }) {
  for (const file of files) {
    const kind = file.type.split("/")[0];
    if (!kinds().includes(kind)) {
      refuse(`${file.name} is ${file.type || "of an unknown type"}; this index is searched with: ${kinds().join(", ")}.`);
      continue;
    }
    try {
      const value = await dataAddress(kind === "image" ? await smaller(file) : file);
      addPart({ kind, value, name: file.name, preview: kind === "image" ? value : null });
    } catch {
      refuse(`${file.name} cannot be read.`);
    }
  }
}

/** A file as `data:...;base64,...`. */
export function dataAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

async function smaller(file) {
  if (file.size <= LARGEST_PICTURE) return file;
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) return file; // The server may know the format all the same.
  const factor = Math.min(1, SIDE / Math.min(bitmap.width, bitmap.height));
  const canvas = Object.assign(document.createElement("canvas"), {
    width: Math.round(bitmap.width * factor),
    height: Math.round(bitmap.height * factor),
  });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob((blob) => resolve(blob ?? file), "image/jpeg", 0.92));
}

function choose(button, input, use) {
  byId(button).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", async () => {
    const files = [...byId(input).files];
    byId(input).value = "";
    await use(files);
  });
}

function dropping({ writable, add }, search) {
  const sheet = byId("drop");
  const zones = [...sheet.querySelectorAll(".zone")];
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (shown) => {
    sheet.hidden = !shown;
    zones[1].hidden = !writable();
  };
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(true);
    for (const zone of zones) zone.classList.toggle("over", zone.contains(event.target));
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) show(false);
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    const adding = event.target.closest?.(".zone")?.dataset.use === "add" && writable();
    show(false);
    (adding ? add : search)([...event.dataTransfer.files]);
  });
}
