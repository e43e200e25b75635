// The map of the space: a panel that is loaded when it is first opened, moved by pointer, wheel and keys.

import * as api from "./api.js";
import { picture } from "./item.js";
import { byId, element } from "./dom.js";
import { draw, fit, nearest, paint, paintMarked, zoom } from "./map_plot.js";
import { moreLike } from "./query.js";
import { capital, count, itemName } from "./words.js";

const LIMIT = 100000;
const REACH = 14; // pixels around the pointer
const STILL = 5; // pixels that a click may move
const STEP = 60; // pixels per arrow key
const LOOK = 150; // milliseconds before an item under the pointer is asked for

const state = { xs: [], ys: [], ids: [], places: new Map(), classes: [], marked: [], first: -1, view: null, data: null };
const pointers = new Map();
let [moved, asked, drawing] = [0, null, false];
let lastMarks = [[], []];

/** Make the button, the canvas and its controls work. */
export function setUpMap() {
  byId("map-toggle").addEventListener("click", () => toggle(byId("map").hidden));
  byId("map-colour").addEventListener("change", colour);
  byId("map-in").addEventListener("click", () => zoomBy(1.5));
  byId("map-out").addEventListener("click", () => zoomBy(1 / 1.5));
  byId("map-fit").addEventListener("click", () => move(null));
  const canvas = byId("map-canvas");
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", drag);
  for (const event of ["pointerup", "pointercancel"]) canvas.addEventListener(event, release);
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("keydown", keys);
  canvas.addEventListener("wheel", wheel, { passive: false });
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.data && colour());
}

/** Mark results on the map, and the item that they are like. */
export function mark(ids, like) {
  const places = [...ids, ...like].map((id) => state.places.get(id)).filter((place) => place !== undefined);
  Object.assign(state, { marked: places, first: state.places.get(like[0]) ?? -1 });
  state.painted = paintMarked(state.classes, places);
  lastMarks = [ids, like];
  redraw();
}

/** Forget the map, since the index has changed. */
export function forgetMap() {
  state.data = null;
  if (!byId("map").hidden) load();
}

function toggle(open) {
  byId("map").hidden = !open;
  byId("map-toggle").setAttribute("aria-expanded", String(open));
  if (open && !state.data) load();
}

async function load() {
  note("Drawing the map …");
  try {
    const data = await api.map(LIMIT);
    Object.assign(state, {
      data,
      ids: data.ids,
      xs: Float32Array.from(data.points, (point) => point[0]),
      ys: Float32Array.from(data.points, (point) => point[1]),
      places: new Map(data.ids.map((id, place) => [id, place])),
      view: null,
    });
    const names = ["modality", ...Object.keys(data.columns ?? {})];
    byId("map-colour").replaceChildren(...names.map((name, place) => element("option", { value: place }, place ? name : "Modality")));
    colour();
    mark(...lastMarks);
    note(data.ids.length ? "" : "The index is empty.");
    byId("map-canvas").dataset.points = data.ids.length;
  } catch (error) {
    note(error.message);
  }
}

function colour() {
  const { data } = state;
  const place = Number(byId("map-colour").value);
  const values = place ? Object.values(data.columns)[place - 1] : data.modality.map((number) => data.modalities[number]);
  const painted = paint(values);
  state.classes = painted.classes;
  state.painted = paintMarked(state.classes, state.marked);
  state.colours = readColours();
  byId("map-legend").classList.toggle("numeric", painted.numeric);
  byId("map-legend").replaceChildren(...painted.classes.map(legend));
  redraw();
}

function legend({ name, colour: variable, points }) {
  const swatch = element("i", { "aria-hidden": "true" });
  swatch.style.background = `var(${variable})`;
  return element("li", { title: `${name}: ${count(points.length)}` }, swatch, name);
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const read = new Map();
  return (variable) => {
    if (!read.has(variable)) read.set(variable, style.getPropertyValue(variable).trim());
    return read.get(variable);
  };
}

function size() {
  const { clientWidth: width, clientHeight: height } = byId("map-canvas");
  return { width, height, ratio: devicePixelRatio || 1 };
}

function redraw() {
  if (drawing || !state.data || byId("map").hidden) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const canvas = byId("map-canvas");
    const now = size();
    if (!now.width || !state.xs.length) return;
    [canvas.width, canvas.height] = [Math.round(now.width * now.ratio), Math.round(now.height * now.ratio)];
    state.view ??= fit(state.xs, state.ys, now.width, now.height);
    draw(canvas.getContext("2d"), now, state, state.view, state.colours);
  });
}

function move(view) {
  state.view = view;
  hideTip();
  redraw();
}

function zoomBy(factor, pointer = middle()) {
  if (state.view) move(zoom(state.view, factor, pointer, size()));
}

const middle = () => ({ x: size().width / 2, y: size().height / 2 });
const pan = (x, y) => state.view && move({ ...state.view, x: state.view.x - x / state.view.scale, y: state.view.y + y / state.view.scale });
const place = (event) => ({ x: event.offsetX, y: event.offsetY });
const under = (pointer, reach = REACH) => (state.view ? nearest(state.xs, state.ys, state.view, pointer, size(), reach) : -1);

function press(event) {
  event.target.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, place(event));
  moved = pointers.size > 1 ? Infinity : 0;
}

function drag(event) {
  const before = pointers.get(event.pointerId);
  const now = place(event);
  if (!before) return hover(now);
  const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
  pointers.set(event.pointerId, now);
  if (other) return zoomBy(distance(now, other) / Math.max(1, distance(before, other)), other);
  moved += distance(now, before);
  return pan(now.x - before.x, now.y - before.y);
}

function release(event) {
  const clicked = event.type === "pointerup" && moved < STILL && pointers.has(event.pointerId);
  pointers.delete(event.pointerId);
  if (clicked) choose(under(place(event)));
}

function choose(number) {
  if (number >= 0) moreLike(state.ids[number], state.ids[number], null);
}

function wheel(event) {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), place(event));
}

function keys(event) {
  const steps = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
  if (steps[event.key]) pan(...steps[event.key]);
  else if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") move(null);
  else if (event.key === "Enter") choose(under(middle(), Infinity));
  else return;
  event.preventDefault();
}

function hover(pointer) {
  const number = under(pointer);
  byId("map-canvas").classList.toggle("over", number >= 0);
  if (number < 0) return hideTip();
  if (asked?.number === number) return undefined;
  hideTip();
  asked = { number, timer: setTimeout(() => tell(number, pointer), LOOK) };
  return undefined;
}

async function tell(number, pointer) {
  const item = await api.item(state.ids[number]).catch(() => null);
  if (!item || asked?.number !== number) return;
  const tip = byId("map-tip");
  const image = item.kind === "image" && item.content ? picture(item.content, "", 160) : null;
  const words = item.kind === "text" ? item.text : itemName(item);
  tip.replaceChildren(...[image, element("small", {}, capital(item.modality)), element("span", {}, words)].filter(Boolean));
  tip.hidden = false;
  const { width, height } = size();
  tip.style.left = `${Math.min(pointer.x + 14, Math.max(0, width - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.min(pointer.y + 14, Math.max(0, height - tip.offsetHeight - 8))}px`;
}

function hideTip() {
  clearTimeout(asked?.timer);
  asked = null;
  byId("map-tip").hidden = true;
}

const distance = (one, other) => Math.hypot(one.x - other.x, one.y - other.y);
const note = (words) => (byId("map-note").textContent = words);
