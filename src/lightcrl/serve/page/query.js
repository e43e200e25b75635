// What is asked: its state, the request made of it, and the address that keeps it.

const PAGE = 24;
const MOST = 240;
const listeners = [];

/**
 * The question. `parts` are `{kind: "image" | "audio" | "like", value, name, preview, minus, weight}`; `conditions` holds
 * one filter per column; `view` is "copies" or "outliers" in place of a question.
 */
export const query = { text: "", parts: [], conditions: new Map(), modality: null, k: PAGE, view: null };

/** Call `listener(slowly)` after each change; `slowly` where more keystrokes may follow. */
export const onChange = (listener) => listeners.push(listener);

/** Change the question. */
export function ask(changes, slowly = false) {
  const asks = "text" in changes || "parts" in changes;
  Object.assign(query, { k: PAGE }, asks ? { view: null } : {}, changes);
  keepInAddress();
  for (const listener of listeners) listener(slowly);
}

export const addPart = (part) => ask({ parts: [...query.parts, { minus: false, weight: 1, ...part }] });
export const removePart = (part) => ask({ parts: query.parts.filter((other) => other !== part) });
export const moreLike = (id, name, preview) =>
  ask({ text: "", parts: [{ kind: "like", value: id, name, preview, minus: false, weight: 1 }] });
export const showMore = () => ask({ k: query.k + PAGE });
export const mayShowMore = () => query.k < MOST;

/** Turn a part around: towards it, or away from it. */
export const turnPart = (part) =>
  ask({ parts: query.parts.map((other) => (other === part ? { ...part, minus: !part.minus } : other)) });

/** Weigh a part against the others; the words have the weight 1. */
export function weighPart(part, weight) {
  part.weight = weight;
  ask({ parts: query.parts }, true);
}

/** Set the filter of a column; an empty one takes it away. */
export function setCondition(column, condition, slowly = false) {
  const conditions = new Map(query.conditions);
  if (condition) conditions.set(column, condition);
  else conditions.delete(column);
  ask({ conditions }, slowly);
}

/** Whether there is something to look for; parts that lead away from something are not enough. */
export const isEmpty = () => !query.text.trim() && !query.parts.some((part) => !part.minus);

/** All conditions as one. */
export const filter = () => [...query.conditions.values()].map((one) => `(${one})`).join(" and ") || null;

/** The body of POST /search. */
export function request() {
  const body = { filter: filter(), modality: query.modality, k: query.k };
  const text = query.text.trim();
  if (text) body.text = [{ value: text, weight: 1 }];
  for (const part of query.parts) {
    const side = part.minus ? (body.minus ??= {}) : body;
    const value = part.kind === "like" ? { id: part.value } : { data: part.value };
    (side[part.kind] ??= []).push({ ...value, weight: part.weight });
  }
  return body;
}

/** Take the question out of the address: words, modality and items; files are not in it. */
export function readAddress() {
  const kept = new URLSearchParams(location.hash.slice(1));
  query.text = kept.get("q") ?? "";
  query.modality = kept.get("modality");
  query.parts = kept.getAll("like").map((id) => ({ kind: "like", value: id, name: id, preview: null, minus: false, weight: 1 }));
  query.view = ["copies", "outliers"].find((view) => view === kept.get("view")) ?? null;
}

function keepInAddress() {
  const kept = new URLSearchParams();
  if (query.text.trim()) kept.set("q", query.text.trim());
  if (query.modality) kept.set("modality", query.modality);
  if (query.view) kept.set("view", query.view);
  for (const part of query.parts) if (part.kind === "like" && !part.minus) kept.append("like", part.value);
  history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname + location.search);
}
