// Figures and names as people read them.

const NAMES = { image: ["picture", "pictures"], text: ["text", "texts"], audio: ["sound", "sounds"] };

/** 12345 -> "12,345". */
export const count = (number) => Number(number).toLocaleString("en");

/** "12,345 pictures", for a modality of some kind; modalities with names of their own keep them. */
export const amount = (number, modality, kind) =>
  `${count(number)} ${number === 1 ? singular(modality, kind) : plural(modality, kind)}`;

/** "picture" for the modality `image`, "x_ray" for a modality of pictures that is called so. */
export const singular = (modality, kind) => (modality === kind && NAMES[kind] ? NAMES[kind][0] : modality);

/** "pictures" for the modality `image`, "x_ray" for a modality of pictures that is called so. */
export const plural = (modality, kind) => (modality === kind && NAMES[kind] ? NAMES[kind][1] : modality);

/** "Pictures". */
export const capital = (word) => word.charAt(0).toUpperCase() + word.slice(1);

/** The share of random items that score as high, in words: "1 in 2,000", "12 %". */
export function rarity(share) {
  if (share === null || share === undefined) return "";
  if (share <= 0) return "rarest";
  return share < 0.1 ? `1 in ${count(twoDigits(1 / share))}` : `${Math.round(share * 100)} %`;
}

/** How rare a score is, from 0 (every item scores as high) to 1 (one in 100,000 or fewer), by powers of ten. */
export const strength = (share) => Math.min(1, Math.max(0, -Math.log10(Math.max(share, 1e-5)) / 5));

/** 0.0123 -> "12 ms", 1.5 -> "1.5 s". */
export const duration = (seconds) =>
  seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(1)} s`;

/** 75 -> "1:15". */
export const clock = (seconds) =>
  Number.isFinite(seconds) ? `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}` : "";

/** What an item is called: its file's name, or its id. */
export const itemName = (item) => item.path || item.id;

function twoDigits(number) {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(number)) - 1);
  return Math.round(number / unit) * unit;
}
