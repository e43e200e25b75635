// Searching with a recording, where the browser has a microphone and the model hears.

import { byId } from "./dom.js";
import { dataAddress } from "./files.js";
import { addPart } from "./query.js";
import { clock } from "./words.js";
import { decode, encodeWav } from "./wav.js";

const RATE = 16000;
const LONGEST = 15; // seconds

/** Whether this browser records, in this place: pages without https have no microphone. */
export const canRecord = () => Boolean(navigator.mediaDevices?.getUserMedia && window.MediaRecorder && window.AudioContext);

/** Make the button record until it is pressed again; `refuse` is called with words on what went wrong. */
export function setUpMicrophone(refuse) {
  const button = byId("microphone");
  let recorder = null;
  button.addEventListener("click", async () => {
    if (recorder) {
      if (recorder.state === "recording") recorder.stop();
      return;
    }
    button.disabled = true;
    try {
      recorder = await record(button, () => (recorder = null), refuse);
    } catch (error) {
      refuse(error.name === "NotAllowedError" ? "The browser does not let this page use the microphone." : "No microphone was found.");
    } finally {
      button.disabled = false;
    }
  });
}

async function record(button, done, refuse) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const pieces = [];
  const start = performance.now();
  const watch = setInterval(() => {
    const seconds = (performance.now() - start) / 1000;
    byId("recording-time").textContent = clock(seconds);
    if (seconds > LONGEST && recorder.state === "recording") recorder.stop();
  }, 250);
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.addEventListener("stop", async () => {
    clearInterval(watch);
    for (const track of stream.getTracks()) track.stop();
    mark(button, false);
    done();
    try {
      const sound = encodeWav(await decode(new Blob(pieces, { type: recorder.mimeType }), RATE), RATE);
      addPart({ kind: "audio", value: await dataAddress(sound), name: "recording", preview: null });
    } catch {
      refuse("The recording could not be read.");
    }
  });
  recorder.start();
  mark(button, true);
  return recorder;
}

function mark(button, recording) {
  button.setAttribute("aria-pressed", String(recording));
  button.setAttribute("aria-label", recording ? "Stop, and search with the recording" : "Record a sound");
  byId("recording-time").textContent = recording ? clock(0) : "";
}
