// JSON schema in words: the type of a value, the fields of an object, an example.

const DEEPEST = 4;

/** A schema with its reference followed. */
export function resolve(api, schema) {
  return schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
}

/** The type in words: "text", "list of number", "TextPart or text". */
export function typeOf(api, schema) {
  const names = { string: "text", integer: "whole number", number: "number", boolean: "true or false", object: "object" };
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return [...new Set(schema.anyOf.filter((one) => one.type !== "null").map((one) => typeOf(api, one)))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(api, schema.items ?? {})}`;
  return (names[schema.type] ?? "anything") + rangeOf(schema);
}

function rangeOf({ minimum, maximum, exclusiveMinimum }) {
  const least = minimum ?? exclusiveMinimum;
  if (least === undefined && maximum === undefined) return "";
  if (maximum === undefined) return `, from ${least}`;
  return least === undefined ? `, to ${maximum}` : `, ${least} to ${maximum}`;
}

/** The fields of an object: `{name, type, required, meaning}`. */
export function fieldsOf(api, schema) {
  const { properties = {}, required = [] } = resolve(api, schema);
  return Object.entries(properties).map(([name, field]) => ({
    name,
    type: typeOf(api, field),
    required: required.includes(name),
    meaning: [field.description, field.default !== undefined && field.default !== null ? `${JSON.stringify(field.default)} by default.` : ""].filter(Boolean).join(" "),
  }));
}

/** The schema's own example, or one made of its types. */
export function exampleOf(api, schema, depth = 0) {
  const whole = resolve(api, schema);
  if (whole.examples?.length) return whole.examples[0];
  if (whole.default !== undefined && whole.default !== null) return whole.default;
  if (whole.anyOf) return exampleOf(api, whole.anyOf[0], depth);
  if (depth > DEEPEST) return null;
  if (whole.type === "array") return whole.items ? [exampleOf(api, whole.items, depth + 1)] : [];
  if (whole.type === "object") {
    const fields = Object.entries(whole.properties ?? {}).filter(([name]) => (whole.required ?? []).includes(name));
    return Object.fromEntries(fields.map(([name, field]) => [name, exampleOf(api, field, depth + 1)]));
  }
  return { string: "text", integer: 1, number: 1, boolean: true }[whole.type] ?? null;
}
