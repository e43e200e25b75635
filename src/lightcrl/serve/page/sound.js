// A sound that can be played: a button, a line that can be dragged, the time.

import { contentAddress } from "./api.js";
import { changeIcon, element, icon } from "./dom.js";
import { clock } from "./words.js";

let playing = null;

/** A player of an item's content; it is loaded when it is first played. */
export function player(content, name) {
  const audio = new Audio();
  audio.preload = "none";
  const button = element("button", { type: "button", class: "play", "aria-label": `Play ${name}` }, icon("play"));
  const line = element("input", { type: "range", min: 0, max: 1000, value: 0, "aria-label": `Position in ${name}` });
  const time = element("span", { class: "time" });
  const state = () => {
    changeIcon(button, audio.paused ? "play" : "pause");
    button.setAttribute("aria-label", `${audio.paused ? "Play" : "Pause"} ${name}`);
  };
  button.addEventListener("click", async () => {
    if (!audio.paused) return audio.pause();
    if (playing !== audio) playing?.pause();
    playing = audio;
    try {
      if (!audio.src) audio.src = await contentAddress(content);
      await audio.play();
    } catch (error) {
      if (error.name !== "AbortError") time.textContent = "cannot be played";
    }
    return undefined;
  });
  line.addEventListener("input", () => {
    if (audio.duration) audio.currentTime = (line.value / 1000) * audio.duration;
  });
  audio.addEventListener("timeupdate", () => {
    line.value = audio.duration ? (1000 * audio.currentTime) / audio.duration : 0;
    time.textContent = clock(audio.currentTime);
  });
  for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, state);
  return element("div", { class: "player" }, button, line, time);
}
