// The server's interface, drawn from its own schema: fields, examples, and a form to try each endpoint.

import { keep, kept, send } from "./api.js";
import { byId, element } from "./dom.js";
import { exampleOf, fieldsOf, typeOf } from "./schema.js";

const LONGEST = 20000; // characters of an answer that are shown

async function show() {
  const api = await (await fetch("openapi.json")).json();
  byId("counts").textContent = `Interface, version ${api.info.version}`;
  const endpoints = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => endpoint(api, path, method, operation)),
  );
  byId("endpoints").replaceChildren(...endpoints);
  byId("endpoints").setAttribute("aria-busy", "false");
}

function endpoint(api, path, method, operation) {
  const content = operation.requestBody?.content ?? {};
  const body = content["application/json"]?.schema;
  const inputs = new Map((operation.parameters ?? []).map((parameter) => [parameter, parameterInput(parameter, method)]));
  const text = body ? element("textarea", { "aria-label": `Body of ${method.toUpperCase()} ${path}`, spellcheck: "false" }) : null;
  if (text) text.value = JSON.stringify(exampleOf(api, body), null, 2);
  const answer = element("div", { class: "answer", role: "status" });
  const button = element("button", { type: "button", class: "strong", onclick: () => tryOut(path, method, inputs, text, answer) }, "Send");
  return element(
    "details",
    { class: "endpoint" },
    element("summary", {}, element("span", { class: `verb ${method}` }, method.toUpperCase()), element("code", { class: "path" }, path), element("span", { class: "does" }, operation.description ?? operation.summary)),
    element(
      "div",
      { class: "body" },
      ...(inputs.size ? [element("h2", {}, "Parameters"), table(["name", "type", "meaning", "value"], [...inputs].map(([parameter, input]) => parameterRow(api, parameter, input)))] : []),
      ...(body ? [element("h2", {}, "Body, JSON"), table(["field", "type", "meaning"], fieldsOf(api, body).map(fieldRow)), element("h2", {}, "Example"), text] : []),
      content["multipart/form-data"] ? element("p", { class: "small" }, "Files are sent as a form, multipart/form-data: fields files and metadata.") : null,
      element("div", { class: "row" }, button),
      answer,
    ),
  );
}

function parameterInput(parameter, method) {
  return element("input", { "aria-label": `${parameter.name} of ${method.toUpperCase()}`, placeholder: parameter.schema.default ?? "" });
}

const parameterRow = (api, parameter, input) => [
  element("code", {}, parameter.name),
  typeOf(api, parameter.schema) + (parameter.required ? ", required" : ""),
  parameter.description ?? "",
  input,
];

const fieldRow = ({ name, type, required, meaning }) => [element("code", {}, name), type + (required ? ", required" : ""), meaning];

function table(heads, rows) {
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell))))),
  );
}

async function tryOut(path, method, inputs, text, answer) {
  const query = new URLSearchParams();
  let address = path;
  for (const [parameter, input] of inputs) {
    if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value !== "") query.set(parameter.name, input.value);
  }
  const options = { method: method.toUpperCase() };
  if (text) Object.assign(options, { body: text.value, headers: { "Content-Type": "application/json" } });
  answer.replaceChildren(element("pre", { tabindex: 0 }, "…"));
  try {
    const response = await send(address.slice(1) + (query.size ? `?${query}` : ""), options);
    answer.replaceChildren(element("pre", { tabindex: 0 }, `${response.status} ${response.statusText}`), await shown(response));
  } catch (error) {
    answer.replaceChildren(element("pre", { tabindex: 0 }, error.message));
  }
}

async function shown(response) {
  const kind = response.headers.get("Content-Type") ?? "";
  if (kind.startsWith("image/")) return element("img", { alt: "the answer", src: URL.createObjectURL(await response.blob()) });
  if (!kind.startsWith("application/json")) return element("pre", { tabindex: 0 }, kind.startsWith("text/") ? (await response.text()).slice(0, LONGEST) : kind);
  return element("pre", { tabindex: 0 }, JSON.stringify(await response.json(), null, 2).slice(0, LONGEST));
}

byId("key").value = kept() ?? "";
byId("key").addEventListener("change", () => keep(byId("key").value || null));
byId("access").addEventListener("submit", (event) => event.preventDefault());
show();
