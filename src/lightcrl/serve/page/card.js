// One item among the results.

import { showDetails } from "./details.js";
import { element, icon } from "./dom.js";
import { likeItem, picture } from "./item.js";
import { player } from "./sound.js";
import { itemName, rarity, strength } from "./words.js";

const SHOWN_COLUMNS = 2;

/** A list item with what the item looks or sounds like, its score or a note, and a way to more of its kind. */
export function card(item, note = null) {
  const name = itemName(item);
  return element(
    "li",
    { class: `card ${item.kind}`, "data-id": item.id },
    stage(item, name),
    element("div", { class: "about" }, title(item, name), columns(item), score(item), note ? element("p", { class: "score" }, note) : null),
    element(
      "button",
      { type: "button", class: "like", "aria-label": `More like ${name}`, onclick: () => likeItem(item) },
      icon("like"),
      "More like this",
    ),
  );
}

function stage(item, name) {
  const open = { type: "button", class: "stage", "data-main": true, onclick: () => showDetails(item) };
  if (item.kind === "image" && item.content) return element("button", open, picture(item.content, name));
  if (item.kind === "audio" && item.content) {
    const sound = player(item.content, name);
    sound.querySelector("button").setAttribute("data-main", "");
    return element("div", { class: "stage" }, sound);
  }
  if (item.text) return element("button", open, element("span", { class: "quote" }, item.text));
  return element("button", { ...open, "aria-label": name }, element("span", { class: "missing" }, icon("missing")));
}

function title(item, name) {
  return element(
    "button",
    { type: "button", class: "name", title: item.id, "aria-label": `About ${name}`, onclick: () => showDetails(item) },
    name,
  );
}

function columns(item) {
  const values = Object.values(item.metadata ?? {}).filter((value) => value !== null && value !== "");
  const shown = values.slice(0, SHOWN_COLUMNS).join(" · ");
  return shown ? element("p", { class: "metadata" }, shown) : null;
}

function score(item) {
  if (item.score === undefined || item.score === null) return null;
  const told = rarity(item.share);
  const meter = element("span", { class: "meter", "aria-hidden": "true" }, element("i"));
  meter.firstChild.style.width = `${100 * (told ? strength(item.share) : 0)}%`;
  return element(
    "p",
    { class: "score", title: `Score ${item.score.toFixed(3)}` },
    told ? meter : null,
    element("span", {}, told || item.score.toFixed(3)),
  );
}
