// The results: the grid, what is said above it, and what is shown instead when there are none.

import { card } from "./card.js";
import { byId, element } from "./dom.js";
import { ask, filter, isEmpty, mayShowMore, query, showMore } from "./query.js";
import { amount, capital, count, duration } from "./words.js";
import { NoAnswerError } from "./api.js";

const MEANING = "“1 in 2,000”: one in so many random items scores as high.";

/** Show the answer to a search. */
export function showHits(answer) {
  const { hits, nothing, seconds } = answer;
  show(hits);
  const results = `${count(hits.length)} ${hits.length === 1 ? "result" : "results"}`;
  say(hits.length ? `${nothing ? "Only the nearest" : results}, ${duration(seconds)}` : "No results");
  byId("meaning").textContent = MEANING;
  byId("meaning").hidden = !hits.some((hit) => typeof hit.share === "number");
  byId("hits").classList.toggle("weak", Boolean(nothing));
  byId("more").hidden = hits.length < query.k || !mayShowMore();
  if (!hits.length) showEmpty("Nothing fits");
  else if (nothing) {
    notice("Nothing here matches", "Ordinary queries find something nearer than this one does. Below is what is nearest all the same.");
  }
}

/** Show the collection itself, while nothing is asked. */
export function showCollection(answer, info) {
  show(answer.items);
  const kind = info.modalities[query.modality];
  const some = query.modality ? amount(answer.total, query.modality, kind) : amount(answer.total, "item");
  say(`${some}${query.modality || answer.total === 1 ? "" : "s"}${filter() ? " fit the filter" : " to search"}`);
  byId("meaning").hidden = true;
  byId("hits").classList.remove("weak");
  byId("more").hidden = answer.items.length < query.k || answer.items.length >= answer.total || !mayShowMore();
  if (!answer.items.length) {
    showEmpty(filter() || query.modality ? "Nothing fits" : "The index is empty");
  }
}

/** Show cards, or groups of them, that a view has made; `more` where there are further ones. */
export function showCards(cards, more, layout = "") {
  const list = byId("hits");
  list.replaceChildren(...cards);
  list.className = layout;
  byId("notice").replaceChildren();
  byId("more").hidden = !more || !mayShowMore();
}

/** Show why there is no answer; what was there before stays, out of the way. */
export function showProblem(error, retry) {
  const lost = error instanceof NoAnswerError;
  say("");
  byId("hits").classList.add("weak");
  const advice = lost ? "What is shown below is older. This page tries again when the connection is back." : capital(error.message);
  const button = element("button", { type: "button", class: "quiet", onclick: retry }, "Try again");
  const heading = error.status < 500 ? "The server cannot answer this" : "The server failed";
  notice(lost ? error.message : heading, advice, button, "problem");
}

/** Say something to everyone, on the line that screen readers follow. */
export function say(words) {
  byId("status").textContent = words;
}

/** A message in place of results, or above them. */
export function notice(heading, words, button = null, kind = "") {
  const content = [element("strong", {}, heading), element("p", {}, words), button];
  byId("notice").replaceChildren(element("div", { class: `notice ${kind}` }, ...content));
}

/** Move among the results with the arrows; gives whether there was somewhere to go. */
export function moveFocus(direction) {
  const places = [...byId("hits").querySelectorAll("[data-main]")];
  const cards = places.map((place) => place.closest(".card"));
  const now = cards.indexOf(document.activeElement?.closest(".card"));
  if (now < 0) return focus(places[0]);
  const width = Math.max(1, cards.filter((one) => one.offsetTop === cards[0].offsetTop).length);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width }[direction];
  if (now + step < 0 && direction === "ArrowUp") return focus(byId("text"));
  return focus(places[Math.min(now + step, places.length - 1)]);
}

/** Make the button under the results work. */
export function setUpResults() {
  byId("more").addEventListener("click", showMore);
}

function show(items) {
  const list = byId("hits");
  list.replaceChildren(...items.map((item) => card(item)));
  list.className = items.length && items.every((item) => item.kind === "text") ? "texts" : "";
  byId("notice").replaceChildren();
}

function showEmpty(heading) {
  const wide = query.modality && !filter() ? element("button", { type: "button", class: "quiet", onclick: () => ask({ modality: null }) }, "Find everything") : null;
  notice(heading, emptyAdvice(), wide, "empty");
}

function emptyAdvice() {
  if (filter()) return "No item has what the filters ask for. Take one away.";
  if (query.modality) return `The index has nothing of the kind “${query.modality}” to show.`;
  return isEmpty() ? "Add files to it: drop them here, or run lightcrl index add." : "Try other words.";
}

function focus(place) {
  place?.focus();
  return Boolean(place);
}
