// What is asked beside the words: pictures, sounds and items, as chips that can be turned around or taken away.

import { byId, element, icon } from "./dom.js";
import { query, removePart, turnPart, weighPart } from "./query.js";

const KINDS = { image: "Picture", audio: "Sound", like: "Like" };
const WEIGHTS = { min: 0.1, max: 3, step: 0.1 };
const chips = new WeakMap();

/** Draw the chips of the question. */
export function showParts() {
  const list = byId("parts");
  const wanted = query.parts.map(chipOf);
  // A chip whose weight is being dragged must stay where it is.
  if (wanted.length !== list.children.length || wanted.some((one, place) => one !== list.children[place])) {
    list.replaceChildren(...wanted);
  }
  list.hidden = !query.parts.length;
}

function chipOf(part) {
  if (!chips.has(part)) chips.set(part, chip(part));
  return chips.get(part);
}

function chip(part) {
  const said = `${part.minus ? "Unlike: " : ""}${KINDS[part.kind]} ${part.name}`;
  const turn = element(
    "button",
    { type: "button", class: "turn", "aria-label": `Away from ${part.name}`, "aria-pressed": String(part.minus), title: part.minus ? "Looks away from it" : "Looks for it", onclick: () => turnPart(part) },
    part.minus ? "−" : "+",
  );
  const image = part.preview ? element("img", { src: part.preview, alt: "" }) : null;
  const label = element("span", { class: "label", title: said }, element("small", {}, part.minus ? "unlike" : KINDS[part.kind].toLowerCase()), part.name);
  const told = element("output", {}, times(part.weight));
  const weight = element("input", { type: "range", class: "weight", ...WEIGHTS, "aria-label": `Weight of ${part.name}`, title: "Weight beside the words" });
  weight.value = part.weight;
  weight.addEventListener("input", () => {
    told.textContent = times(Number(weight.value));
    weighPart(part, Number(weight.value));
  });
  const close = element("button", { type: "button", class: "tool", "aria-label": `Take away ${part.name}`, onclick: () => removePart(part) }, icon("close"));
  return element("li", { class: `part${part.minus ? " minus" : ""}` }, turn, image, label, weight, told, close);
}

const times = (weight) => `×${weight.toFixed(1)}`;
