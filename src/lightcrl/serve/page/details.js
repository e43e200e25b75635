// Everything about one item, in a dialog.

import * as api from "./api.js";
import { byId, element, icon } from "./dom.js";
import { likeItem, picture } from "./item.js";
import { player } from "./sound.js";
import { itemName, rarity } from "./words.js";

const LARGE = 1024;
let mayRemove = () => false;
let removed = () => {};

/** Tell when items may be removed, and what to do afterwards. */
export function setUpDetails(writable, afterRemoval) {
  mayRemove = writable;
  removed = afterRemoval;
  const dialog = byId("details");
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

/** Open the dialog for an item. */
export function showDetails(item) {
  const dialog = byId("details");
  const name = itemName(item);
  const close = () => dialog.close();
  const buttons = element(
    "div",
    { class: "row" },
    element("button", { type: "button", class: "strong", onclick: () => (close(), likeItem(item)) }, icon("like"), "More like this"),
    mayRemove() ? removal(item, close) : null,
  );
  dialog.replaceChildren(
    element("button", { type: "button", class: "tool close", "aria-label": "Close", onclick: close }, icon("close")),
    ...appearance(item, name),
    element("div", { class: "told" }, element("h2", { id: "details-name" }, name), facts(item), buttons),
  );
  dialog.showModal();
}

function appearance(item, name) {
  if (item.kind === "image" && item.content) return [element("div", { class: "large" }, picture(item.content, name, LARGE))];
  if (item.kind === "audio" && item.content) return [element("div", { class: "sound" }, player(item.content, name))];
  return item.text ? [element("blockquote", {}, item.text)] : [];
}

function facts(item) {
  const rows = [["id", item.id], ["modality", item.modality], ...Object.entries(item.metadata ?? {})];
  if (item.kind !== "text" && item.text) rows.push(["text", item.text]);
  if (item.score !== undefined && item.score !== null) rows.push(["score", item.score.toFixed(3)]);
  if (rarity(item.share)) rows.push(["as high by chance", rarity(item.share)]);
  const shown = rows.filter(([, value]) => value !== null && value !== "");
  return element("dl", {}, ...shown.map(([key, value]) => [element("dt", {}, key), element("dd", {}, String(value))]));
}

function removal(item, close) {
  const button = element("button", { type: "button", class: "quiet" }, "Remove");
  button.addEventListener("click", async () => {
    if (button.textContent === "Remove") {
      button.textContent = "Remove from the index for good?";
      return;
    }
    button.disabled = true;
    try {
      await api.remove(item.id);
      close();
      removed(item);
    } catch (error) {
      button.replaceWith(element("p", { class: "small", role: "alert" }, error.message));
    }
  });
  return button;
}
