// Many points at once, written into pixels: some 8 times quicker than one rectangle of the canvas each.

/**
 * Draw points as squares; where several lie on a pixel it becomes less transparent.
 *
 * @param plot.classes points by colour, the last on top.
 * @param alpha opacity of one point, 0 to 1.
 * @param side of a square, in pixels of the page.
 */
export function drawPixels(pen, size, { xs, ys, classes }, view, { alpha, side, colours }) {
  const { width, height } = pen.canvas;
  const image = pen.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const scale = view.scale * size.ratio;
  const edge = Math.max(1, Math.round(side * size.ratio));
  const left = width / 2 - view.x * scale - edge / 2;
  const top = height / 2 + view.y * scale - edge / 2;
  for (const { colour, points } of classes) {
    const value = blueGreenRed(colours(colour));
    for (const i of points) {
      const x = Math.round(xs[i] * scale + left);
      const y = Math.round(top - ys[i] * scale);
      if (x < 0 || y < 0 || x + edge > width || y + edge > height) continue;
      for (let row = y; row < y + edge; row++) {
        for (let place = row * width + x, end = place + edge; place < end; place++) {
          const before = pixels[place] >>> 24;
          pixels[place] = ((before + (255 - before) * alpha) << 24) | value;
        }
      }
    }
  }
  pen.putImageData(image, 0, 0);
}

/** "#rrggbb" as the lower bytes of a pixel. */
function blueGreenRed(colour) {
  const number = Number.parseInt(colour.slice(1), 16);
  return ((number & 255) << 16) | (number & 0xff00) | (number >> 16);
}
