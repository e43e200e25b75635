// What cards and details share: the picture of an item, and the question for its like.

import { contentAddress } from "./api.js";
import { element, icon } from "./dom.js";
import { moreLike } from "./query.js";
import { itemName } from "./words.js";

const THUMBNAIL = 384;

/** A picture that fills its place, or a sign where it cannot be shown. */
export function picture(content, alt, size = THUMBNAIL) {
  const image = element("img", { alt, loading: "lazy", decoding: "async" });
  const lost = () => image.replaceWith(element("span", { class: "missing", role: "img", "aria-label": alt }, icon("missing")));
  image.addEventListener("error", lost);
  contentAddress(content, size).then((address) => (image.src = address), lost);
  return image;
}

/** Ask for what is like an item. */
export async function likeItem(item) {
  const preview = item.kind === "image" && item.content ? await contentAddress(item.content, 96) : null;
  moreLike(item.id, item.text || itemName(item), preview);
  window.scrollTo({ top: 0 });
}
