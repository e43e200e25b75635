// The page as a whole: asks the server when the question changes, and gives the answer to those who show it.

import * as api from "./api.js";
import { setUpDetails } from "./details.js";
import { byId, element } from "./dom.js";
import { setUpFiles } from "./files.js";
import { setUpFilters, showFilterCount } from "./filters.js";
import { setUpKeyboard } from "./keyboard.js";
import { forgetMap, mark, setUpMap } from "./map.js";
import { canRecord, setUpMicrophone } from "./microphone.js";
import { showParts } from "./parts.js";
import { ask, filter, isEmpty, onChange, query, readAddress, request } from "./query.js";
import { notice, say, setUpResults, showCollection, showHits, showProblem } from "./results.js";
import { setUpViews, showCopies, showOutliers, showViewButtons } from "./views.js";
import { amount, capital, count, plural } from "./words.js";

const TYPING = 180; // milliseconds after the last keystroke

let index = null; // what /info says
let running = null; // the request in progress
let timer = null;

function changed(slowly) {
  showParts();
  showViewButtons();
  showModalities();
  showFilterCount();
  if (document.activeElement !== byId("text")) byId("text").value = query.text;
  byId("clear").hidden = !query.text && !query.parts.length;
  clearTimeout(timer);
  timer = setTimeout(answer, slowly ? TYPING : 0);
}

async function answer() {
  clearTimeout(timer);
  running?.abort();
  const own = (running = new AbortController());
  busy(true);
  try {
    if (!index) await start(own.signal);
    if (query.view) await showView(own.signal);
    else if (isEmpty()) showCollection(await api.items(listing(), own.signal), index);
    else showHits(await search(own.signal));
    tidy();
  } catch (error) {
    if (error.name !== "AbortError" && own === running) showProblem(error, answer);
  } finally {
    if (own === running) busy(false);
  }
}

async function showView(signal) {
  const asked = { filter: filter(), modality: query.modality };
  say("Comparing all items …");
  if (query.view === "copies") showCopies(await api.duplicates(asked, signal));
  else showOutliers(await api.outliers(asked, signal));
}

async function search(signal) {
  const found = await api.search(request(), signal);
  mark(found.hits.map((hit) => hit.id), likes());
  return found;
}

function tidy() {
  if (isEmpty()) mark([], []);
  byId("results").dataset.ready = "true";
}

const likes = () => query.parts.filter((part) => part.kind === "like" && !part.minus).map((part) => part.value);
const listing = () => ({ offset: 0, limit: query.k, filter: filter(), modality: query.modality });

async function start(signal) {
  index = await api.info(signal);
  showIndex();
  setUpFilters(index.columns ?? {});
  showModalities();
}

function showIndex() {
  const counts = Object.entries(index.counts).map(([modality, number]) => amount(number, modality, index.modalities[modality]));
  byId("counts").textContent = counts.join(" · ");
  const interfaceLink = element("a", { class: "link", href: "docs" }, "interface");
  byId("engine").replaceChildren(`${index.model} · ${index.engine} search · LightCRL ${index.version} · `, interfaceLink);
  byId("add").hidden = !index.writable;
  byId("attach").hidden = !kinds().length;
  byId("microphone").hidden = !(kinds().includes("audio") && canRecord());
  byId("attach-files").accept = kinds().map((kind) => `${kind}/*`).join(",");
}

const kinds = () => [...new Set(Object.values(index?.modalities ?? {}))].filter((kind) => kind !== "text");

function showModalities() {
  if (!index) return;
  const choices = [[null, "Everything"], ...Object.entries(index.modalities).map(([name, kind]) => [name, capital(plural(name, kind))])];
  const focused = [...byId("modalities").children].indexOf(document.activeElement);
  byId("modalities").replaceChildren(...choices.map(([name, words]) => modalityChip(name, words)));
  byId("modalities").hidden = choices.length < 3;
  byId("modalities").children[focused]?.focus();
}

function modalityChip(name, words) {
  const number = name === null ? index.items : index.counts[name];
  return element(
    "button",
    { type: "button", class: "chip", "aria-pressed": String(query.modality === name), onclick: () => ask({ modality: name }) },
    words,
    element("small", {}, count(number ?? 0)),
  );
}

async function add(files) {
  if (!files.length) return;
  busy(true);
  say(`Adding ${count(files.length)} ${files.length === 1 ? "file" : "files"} …`);
  try {
    const { added, rejected } = await api.add(files);
    await refresh();
    const reasons = rejected.map((one) => `${one.source}: ${one.reason}`).join("; ");
    notice(`${count(added)} added`, reasons ? `${count(rejected.length)} not added: ${reasons}` : "They can be found from now on.");
  } catch (error) {
    notice("Nothing was added", error.message, null, "problem");
  } finally {
    busy(false);
  }
}

async function refresh() {
  index = await api.info();
  showIndex();
  forgetMap();
  await answer();
  showModalities();
}

function busy(now) {
  byId("progress").classList.toggle("busy", now);
  byId("hits").setAttribute("aria-busy", String(now));
}

function askForKey() {
  const dialog = byId("key");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(byId("key-value").value || null), { once: true });
  });
}

function setUp() {
  const refuse = (words) => notice("That cannot be used", words, null, "problem");
  api.onKeyNeeded(askForKey);
  onChange(changed);
  byId("text").addEventListener("input", () => ask({ text: byId("text").value }, true));
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    answer();
  });
  byId("clear").addEventListener("click", () => {
    ask({ text: "", parts: [] });
    byId("text").value = "";
    byId("text").focus();
  });
  setUpFiles({ kinds, writable: () => Boolean(index?.writable), add, refuse });
  setUpMicrophone(refuse);
  setUpResults();
  setUpKeyboard();
  setUpMap();
  setUpViews();
  setUpDetails(() => Boolean(index?.writable), refresh);
  addEventListener("online", answer);
  readAddress();
  byId("text").value = query.text;
  changed(false);
}

setUp();
