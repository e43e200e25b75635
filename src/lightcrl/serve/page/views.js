// Views of the whole index in place of results: groups of copies, and outliers.

import { card } from "./card.js";
import { byId, element } from "./dom.js";
import { ask, query } from "./query.js";
import { notice, say, showCards } from "./results.js";
import { count } from "./words.js";

const BUTTONS = { copies: "copies-toggle", outliers: "outliers-toggle" };

/** Make the buttons of the views work. */
export function setUpViews() {
  for (const [view, id] of Object.entries(BUTTONS)) {
    byId(id).addEventListener("click", () => ask({ text: "", parts: [], view: query.view === view ? null : view }));
  }
}

/** Show which view is on. */
export function showViewButtons() {
  for (const [view, id] of Object.entries(BUTTONS)) byId(id).setAttribute("aria-pressed", String(query.view === view));
}

/** Show groups of near-identical items; `answer` is that of GET /duplicates. */
export function showCopies(answer) {
  const groups = answer.duplicates.flatMap((side) => side.groups);
  showCards(groups.slice(0, query.k).map((ids, number) => group(ids, number, answer.items)), groups.length > query.k, "groups");
  say(groups.length ? `${count(groups.length)} ${groups.length === 1 ? "group" : "groups"} of copies` : "No copies");
  explain(answer.duplicates.map((side) => `${side.modality}: from ${side.threshold.toFixed(4)} alike, ${side.reason}`));
  if (!groups.length) notice("No copies", "No two items here are near-identical.", null, "empty");
}

/** Show items far from all others; `answer` is that of GET /outliers. */
export function showOutliers(answer) {
  const far = answer.outliers.filter((outlier) => answer.items[outlier.id]);
  const cards = far.slice(0, query.k).map((outlier) => card(answer.items[outlier.id], `farness ${outlier.farness.toFixed(3)}`));
  showCards(cards, far.length > query.k);
  say(far.length ? `${count(answer.outliers.length)} ${far.length === 1 ? "outlier" : "outliers"}, the farthest first` : "No outliers");
  explain(far.length ? ["Farness is 1 minus the mean similarity to the five nearest items."] : []);
  if (!far.length) notice("No outliers", "No item here lies far from all others.", null, "empty");
}

function group(ids, number, items) {
  const shown = ids.filter((id) => items[id]);
  const heading = `${count(ids.length)} copies${shown.length < ids.length ? `, ${count(shown.length)} shown` : ""}`;
  return element(
    "li",
    { class: ids.length > 2 ? "group many" : "group", "aria-label": `Group ${number + 1}` },
    element("h2", {}, heading),
    element("ul", { "aria-label": heading }, ...shown.map((id) => card(items[id]))),
  );
}

function explain(sentences) {
  byId("meaning").textContent = sentences.join(" · ");
  byId("meaning").hidden = !sentences.length;
}
