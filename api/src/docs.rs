//! The page of the API for people, made from its OpenAPI description: one document, no script, nothing loaded.

use std::fmt::Write as _;

use serde_json::Value;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
    color:#1c1c1c;background:#fff}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}h3{margin-bottom:.2rem}\
    code{font:.9em ui-monospace,monospace;background:#f3f3f3;padding:.1em .3em}table{border-collapse:collapse;width:100%}\
    td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #eee}\
    .verb{font-weight:700;text-transform:uppercase}@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}\
    code{background:#2a2a2a}td,th{border-color:#333}}";

/// HTML from an OpenAPI document. What is missing in the document is missing on the page.
pub(crate) fn page(openapi: &str) -> String {
    let openapi: Value = serde_json::from_str(openapi).unwrap_or_default();
    let title = text(&openapi["info"]["title"]);
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title} API</title><style>{STYLE}</style><h1>{title} API</h1><p>{}</p>\
         <p>The same for programs: <a href=\"/openapi.json\">openapi.json</a></p>",
        prose(&openapi["info"]["description"])
    );
    for tag in items(&openapi["tags"]) {
        push(&mut html, format_args!("<h2>{}</h2><p>{}</p>", text(&tag["name"]), prose(&tag["description"])));
        for (path, calls) in entries(&openapi["paths"]) {
            for (verb, call) in entries(calls).filter(|(_, call)| items(&call["tags"]).any(|own| own == &tag["name"])) {
                push_call(&mut html, path, verb, call);
            }
        }
    }
    html.push_str("<h2>Objects</h2>");
    for (name, schema) in entries(&openapi["components"]["schemas"]) {
        push(&mut html, format_args!("<h3 id=\"{0}\">{0}</h3><p>{1}</p>", escape(name), prose(&schema["description"])));
        push_fields(&mut html, schema);
    }
    html
}

fn push_call(html: &mut String, path: &str, verb: &str, call: &Value) {
    let (path, verb, summary) = (escape(path), escape(verb), text(&call["summary"]));
    push(html, format_args!("<h3>{summary}</h3><p><code><span class=verb>{verb}</span> {path}</code></p>"));
    push(html, format_args!("<p>{}</p><table>", prose(&call["description"])));
    for parameter in items(&call["parameters"]) {
        let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
        push(html, format_args!("<tr><td>{place} <code>{name}</code><td>{}", prose(&parameter["description"])));
    }
    if let Some((_, content)) = entries(&call["requestBody"]["content"]).next() {
        push(html, format_args!("<tr><td>body<td>{}", kind(&content["schema"])));
    }
    for (status, response) in entries(&call["responses"]) {
        let body = entries(&response["content"]).next().map(|(_, content)| kind(&content["schema"]));
        let (status, description) = (escape(status), prose(&response["description"]));
        push(html, format_args!("<tr><td>{status} {}<td>{description}", body.unwrap_or_default()));
    }
    html.push_str("</table>");
}

fn push_fields(html: &mut String, schema: &Value) {
    html.push_str("<table>");
    let parts = items(&schema["allOf"]).chain(std::iter::once(schema));
    for part in parts {
        if part["$ref"].is_string() {
            push(html, format_args!("<tr><td>all of {}<td>", kind(part)));
        }
        for (name, field) in entries(&part["properties"]) {
            let (name, kind) = (escape(name), kind(field));
            push(html, format_args!("<tr><td><code>{name}</code><td>{kind}<td>{}", prose(&field["description"])));
        }
    }
    html.push_str("</table>");
}

/// A schema in few words, with a link where it has a name.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("<a href=\"#{0}\">{0}</a>", escape(name));
    }
    if let Some(choices) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(|value| format!("<code>{}</code>", text(value))).collect::<Vec<_>>().join(", ");
    }
    match (&schema["type"], &schema["items"]) {
        (Value::String(name), items) if name == "array" => format!("list of {}", kind(items)),
        (Value::String(name), _) => escape(name),
        (Value::Array(names), _) => names.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => String::new(),
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

/// Text with `code` in back-ticks.
fn prose(value: &Value) -> String {
    let escaped = text(value);
    let parts = escaped.split('`').enumerate();
    parts.map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn push(html: &mut String, arguments: std::fmt::Arguments<'_>) {
    html.write_fmt(arguments).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_call_and_loads_nothing() {
        let html = page(&crate::openapi::document());
        for path in ["/domains", "/domains/{id}/issue-certificate", "/domains/{id}/retry"] {
            assert!(html.contains(&format!("</span> {path}</code>")), "{path}");
        }
        for loads in ["src=", "<script", "http://", "https://", "url(", "@import"] {
            assert!(!html.contains(loads), "{loads}");
        }
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(prose(&Value::from("a <b> & `c`")), "a &lt;b&gt; &amp; <code>c</code>");
    }
}
