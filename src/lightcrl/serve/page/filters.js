// Filters made from the index's own columns, in the words of SQLite that the server takes.

import { byId, element } from "./dom.js";
import { query, setCondition } from "./query.js";
import { count } from "./words.js";

const SHORT = 6; // values shown before "all"
const LISTED = 30; // values that the server lists at most; there may be more
const OWN = "\0own"; // the condition that people write themselves

/** The name of a column as SQLite reads it. */
export const quoteName = (name) => `"${name.replaceAll('"', '""')}"`;

/** A text as SQLite reads it. */
export const quoteText = (text) => `'${String(text).replaceAll("'", "''")}'`;

/** `"year" >= 2000 and "year" <= 2010`; null for no bounds. */
export function rangeCondition(name, low, high) {
  const bounds = [low === "" ? null : `${quoteName(name)} >= ${Number(low)}`, high === "" ? null : `${quoteName(name)} <= ${Number(high)}`];
  return bounds.filter(Boolean).join(" and ") || null;
}

/** `"split" in ('train', 'test')`; null for no values. */
export const choiceCondition = (name, values) =>
  values.length ? `${quoteName(name)} in (${values.map(quoteText).join(", ")})` : null;

/** `instr(lower("title"), lower('dog')) > 0`; null for no text. */
export const containsCondition = (name, text) =>
  text ? `instr(lower(${quoteName(name)}), lower(${quoteText(text)})) > 0` : null;

/** Draw a control for each column of `/info`. */
export function setUpFilters(columns) {
  const facets = Object.entries(columns).map(([name, column]) =>
    column.type === "number" ? range(name, column.values ?? []) : choices(name, (column.values ?? []).filter((value) => value !== null)),
  );
  byId("facets").replaceChildren(...facets, own(), clear(columns));
  byId("filters").hidden = !facets.length;
  byId("filters").open = matchMedia("(min-width: 900px)").matches;
}

/** Say how many filters stand. */
export function showFilterCount() {
  byId("filters-count").textContent = query.conditions.size ? count(query.conditions.size) : "";
  byId("facets").querySelector(".clear")?.toggleAttribute("hidden", !query.conditions.size);
}

function range(name, [least, most]) {
  const ends = ["from", "to"].map((end, place) =>
    element("input", { type: "number", step: "any", placeholder: [least, most][place], "aria-label": `${name} ${end}` }),
  );
  const change = () => setCondition(name, rangeCondition(name, ends[0].value, ends[1].value), true);
  for (const end of ends) end.addEventListener("input", change);
  return facet(name, element("div", { class: "range" }, ends[0], element("span", { "aria-hidden": "true" }, "–"), ends[1]));
}

function choices(name, values) {
  const boxes = values.map((value) => element("input", { type: "checkbox", value: String(value) }));
  const change = () => setCondition(name, choiceCondition(name, boxes.filter((box) => box.checked).map((box) => box.value)));
  const labels = boxes.map((box, place) => element("label", { class: "choice", hidden: place >= SHORT }, box, element("span", {}, box.value || "(empty)")));
  for (const box of boxes) box.addEventListener("change", change);
  const all = element("button", { type: "button", class: "link" }, `All ${values.length}`);
  all.addEventListener("click", () => {
    for (const label of labels) label.hidden = false;
    all.remove();
  });
  const more = values.length > SHORT ? all : null;
  return facet(name, ...labels, more, values.length >= LISTED || !values.length ? contains(name) : null);
}

function contains(name) {
  const input = element("input", { type: "text", placeholder: "contains", "aria-label": `${name} contains` });
  input.addEventListener("input", () => setCondition(`${name}\0contains`, containsCondition(name, input.value.trim()), true));
  return input;
}

function own() {
  const input = element("input", { type: "text", placeholder: "year > 2020 and split = 'train'", spellcheck: "false", "aria-label": "Condition of your own" });
  input.addEventListener("change", () => setCondition(OWN, input.value.trim()));
  return facet("Condition", input);
}

function clear(columns) {
  const button = element("button", { type: "button", class: "quiet clear", hidden: true }, "Clear the filters");
  button.addEventListener("click", () => {
    for (const name of [...query.conditions.keys()]) setCondition(name, null);
    const open = byId("filters").open;
    setUpFilters(columns);
    byId("filters").open = open;
    byId("filters").querySelector("summary").focus();
  });
  return button;
}

const facet = (name, ...controls) => element("fieldset", {}, element("legend", {}, name), ...controls);
