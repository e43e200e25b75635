// The server's interface: one function per route, errors as two classes, the key for those who need one.

const WAITS = 4; // times that a busy server is asked again
const LONGEST_WAIT = 10; // seconds
let key = sessionStorage.getItem("lightcrl-key");
let askForKey = async () => null;

/** The server refused: its own words, and the status of HTTP. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** No answer came. */
export class NoAnswerError extends Error {}

/** Call `ask` for a key when the server wants one; it gives a promise of the key, or of null. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

export const info = (signal) => call("info", { signal });
export const search = (request, signal) => call("search", { ...json("POST", request), signal });
export const item = (id, signal) => call(itemPath(id), { signal });
export const items = (options, signal) => call(`items?${parameters(options)}`, { signal });
export const map = (limit, signal) => call(`map?limit=${limit}`, { signal });
export const duplicates = (options, signal) => call(`duplicates?${parameters(options)}`, { signal });
export const outliers = (options, signal) => call(`outliers?${parameters(options)}`, { signal });
export const remove = (id) => call(itemPath(id), { method: "DELETE" });

/** Add files; gives `{added, rejected: [{source, reason}]}`. */
export function add(files) {
  const body = new FormData();
  for (const file of files) body.append("files", file, file.name);
  return call("items", { method: "POST", body });
}

/** An address of content that elements may load; with a key it is loaded here, since elements send none. */
export async function contentAddress(content, size) {
  const address = content.replace(/^\//, "") + (size ? `?size=${size}` : "");
  if (!key) return address;
  const response = await fetch(address, { headers: headers() });
  if (!response.ok) throw await refusal(response);
  return URL.createObjectURL(await response.blob());
}

/** The key in use, or null. */
export const kept = () => key;

/** Use a key from now on, until the tab is closed; null for none. */
export function keep(given) {
  key = given;
  if (given) sessionStorage.setItem("lightcrl-key", given);
  else sessionStorage.removeItem("lightcrl-key");
}

/** Send any request, with the key; gives the response as it is. */
export const send = (path, options) => fetch(path, { ...options, headers: { ...options.headers, ...headers() } });

const itemPath = (id) => `items/${encodeURIComponent(id)}`;
const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});
const json = (method, body) => ({
  method,
  body: JSON.stringify(body),
  headers: { "Content-Type": "application/json" },
});

function parameters(options) {
  return new URLSearchParams(Object.entries(options).filter(([, value]) => value !== null && value !== ""));
}

async function call(path, options, waits = WAITS) {
  let response;
  try {
    response = await send(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new NoAnswerError(navigator.onLine ? "The server does not answer." : "You are offline.");
  }
  const wait = Number(response.headers.get("Retry-After"));
  if ([429, 503].includes(response.status) && waits > 0 && wait > 0) {
    await pause(Math.min(wait, LONGEST_WAIT), options.signal);
    return call(path, options, waits - 1);
  }
  if (response.status === 401 && waits > 0) {
    const given = await askForKey();
    if (given) {
      keep(given);
      return call(path, options, waits - 1);
    }
  }
  if (!response.ok) throw await refusal(response);
  return response.json();
}

async function refusal(response) {
  const answer = await response.json().catch(() => null);
  const message = answer?.error?.message ?? `The server answered with ${response.status} ${response.statusText}`.trim();
  return new ServerError(message, response.status);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("a newer question was asked", "AbortError"));
    });
  });
}
