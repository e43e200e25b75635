// What is asked beside the words: pictures, sounds and items, as chips that can be turned around or taken away.

import { byId, element, icon } from "./dom.js";
import { query, removePart, turnPart } from "./query.js";

const KINDS = { image: "Picture", audio: "Sound", like: "Like" };

/** Draw the chips of the question. */
export function showParts() {
  const list = byId("parts");
  list.replaceChildren(...query.parts.map(chip));
  list.hidden = !query.parts.length;
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
  const close = element("button", { type: "button", class: "tool", "aria-label": `Take away ${part.name}`, onclick: () => removePart(part) }, icon("close"));
  return element("li", { class: `part${part.minus ? " minus" : ""}` }, turn, image, label, close);
}
