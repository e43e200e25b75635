// The drawing of the map: where points lie on the canvas, in which colours, and which one is nearest.

import { drawPixels } from "./map_pixels.js";

const MARGIN = 24;
const COLOURS = 8;
const RAMP = 6;
const OTHER = "other";
const ROUND = 5000; // points that are drawn as discs; more are squares, which are quicker

/** The window on the space: `x` and `y` in its middle, `scale` in pixels per unit. */
export function fit(xs, ys, width, height) {
  const [left, right] = extent(xs);
  const [low, high] = extent(ys);
  const scale = Math.min((width - 2 * MARGIN) / (right - left || 1), (height - 2 * MARGIN) / (high - low || 1));
  return { x: (left + right) / 2, y: (low + high) / 2, scale: Math.max(scale, 1e-9) };
}

/** The window after a zoom by `factor` that keeps what is under the pointer in its place. */
export function zoom(view, factor, pointer, size) {
  const [x, y] = [pointer.x - size.width / 2, pointer.y - size.height / 2];
  const scale = view.scale * factor;
  return { x: view.x + x / view.scale - x / scale, y: view.y - y / view.scale + y / scale, scale };
}

/** Number of the point nearest to a place on the canvas, at most `reach` pixels away; -1 for none. */
export function nearest(xs, ys, view, pointer, size, reach) {
  const x = view.x + (pointer.x - size.width / 2) / view.scale;
  const y = view.y - (pointer.y - size.height / 2) / view.scale;
  let least = (reach / view.scale) ** 2;
  let place = -1;
  for (let i = 0; i < xs.length; i++) {
    const distance = (xs[i] - x) ** 2 + (ys[i] - y) ** 2;
    if (distance <= least) [least, place] = [distance, i];
  }
  return place;
}

/**
 * Points by colour.
 *
 * @returns `{classes: [{name, colour, points: Uint32Array}], numeric}`, `colour` the name of a CSS variable.
 */
export function paint(values) {
  const numeric = values.every((value) => value === null || typeof value === "number");
  return numeric && new Set(values).size > COLOURS ? byNumber(values) : byName(values);
}

/** The colour of each of the marked points. */
export const paintMarked = (classes, marked) =>
  new Map(marked.map((i) => [i, classes.find(({ points }) => points.includes(i))?.colour ?? "--muted"]));

/** Draw all points, then rings around those that are marked. */
export function draw(pen, size, plot, view, colours) {
  const { xs, ys, classes, marked } = plot;
  const alpha = marked.length ? 0.3 : 0.8;
  pen.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
  pen.clearRect(0, 0, size.width, size.height);
  if (xs.length > ROUND) {
    drawPixels(pen, size, plot, view, { alpha, side: xs.length > 30000 ? 1.8 : 2.6, colours });
  } else {
    pen.globalAlpha = alpha;
    for (const { colour, points } of classes) {
      pen.fillStyle = colours(colour);
      for (const i of points) disc(pen, ...onCanvas(xs[i], ys[i], view, size), 3.2);
    }
    pen.globalAlpha = 1;
  }
  drawMarks(pen, size, plot, view, colours);
}

const onCanvas = (x, y, view, size) => [(x - view.x) * view.scale + size.width / 2, size.height / 2 - (y - view.y) * view.scale];

function drawMarks(pen, size, { xs, ys, painted, marked, first }, view, colours) {
  pen.lineWidth = 2;
  pen.strokeStyle = colours("--ink");
  for (const i of marked) {
    pen.fillStyle = i === first ? colours("--ink") : colours(painted.get(i));
    disc(pen, ...onCanvas(xs[i], ys[i], view, size), i === first ? 7 : 5);
    pen.stroke();
  }
}

function disc(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fill();
}

function extent(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return [least, most];
}

function byName(values) {
  const places = grouped(values);
  const ordered = [...places].sort((one, other) => other[1].length - one[1].length);
  const shown = ordered.length > COLOURS ? ordered.slice(0, COLOURS - 1) : ordered;
  const rest = ordered.slice(shown.length).flatMap(([, points]) => points);
  const classes = shown.map(([name, points], place) => ({ name, colour: `--series-${place}`, points: Uint32Array.from(points) }));
  // The commonest lie below the rarest.
  return { classes: rest.length ? [{ name: OTHER, colour: "--muted", points: Uint32Array.from(rest) }, ...classes] : classes, numeric: false };
}

function byNumber(values) {
  const [least, most] = extent(values.filter((value) => value !== null));
  const step = (value) => Math.min(RAMP - 1, Math.floor((RAMP * (value - least)) / (most - least || 1)));
  const points = Array.from({ length: RAMP }, () => []);
  values.forEach((value, i) => value !== null && points[step(value)].push(i));
  const start = (place) => least + ((most - least) * place) / RAMP;
  const short = (value) => String(Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));
  const name = (place) => (place === 0 ? short(least) : place === RAMP - 1 ? short(most) : `from ${short(start(place))}`);
  return { classes: points.map((inside, place) => ({ name: name(place), colour: `--ramp-${place}`, points: Uint32Array.from(inside) })), numeric: true };
}

const named = (value) => (value === null || value === undefined || value === "" ? "(empty)" : String(value));

function grouped(values) {
  const places = new Map();
  values.forEach((value, i) => {
    const name = named(value);
    if (!places.has(name)) places.set(name, []);
    places.get(name).push(i);
  });
  return places;
}
