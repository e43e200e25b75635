// Keys that work everywhere: "/" to the search box, arrows among the results, Esc back.

import { byId } from "./dom.js";
import { ask } from "./query.js";
import { moveFocus } from "./results.js";

const ARROWS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
const TYPED = "input, select, textarea";

/** Listen to the keys of the page. */
export function setUpKeyboard() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches(TYPED);
    if (event.key === "/" && !typing) toSearch(event);
    else if (event.key === "Escape") back(event);
    else if (event.target === byId("text")) fromSearch(event);
    else if (ARROWS.includes(event.key) && event.target.closest("#hits") && !typing && moveFocus(event.key)) event.preventDefault();
  });
}

function toSearch(event) {
  event.preventDefault();
  byId("text").focus();
  byId("text").select();
}

function fromSearch(event) {
  if (event.key === "ArrowDown" && moveFocus(event.key)) event.preventDefault();
}

function back(event) {
  const text = byId("text");
  if (event.target !== text) return text.focus();
  event.preventDefault();
  text.value = "";
  return ask({ text: "", parts: [] });
}
