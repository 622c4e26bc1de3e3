//! `/docs`: the OpenAPI document as a page without scripts, which needs nothing from elsewhere.

use std::fmt::{self, Display, Formatter, Write};

use axum::{body::Body, response::Response};
use http::{HeaderValue, header};
use serde_json::Value;

use super::{openapi::DOCUMENT, problem::Code};

pub(super) const HTML: &str = "text/html; charset=utf-8";
pub(super) const CSS: &str = "text/css; charset=utf-8";

/// Where the style sheet is.
pub(super) const STYLE_PATH: &str = "/docs/style.css";

/// Nothing but the server's own style sheet may be loaded, and nothing may be run, sent or framed. The
/// page is not in a sandbox as other answers are: from there even its style sheet would be another
/// site's.
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const STYLE: &str = "body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { background: #8881; padding: 1rem; overflow: auto }
h3 { margin-top: 2.5rem }
table { border-collapse: collapse }
td, th { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } a { color: #8cf } }
";

/// A text in a page: nothing of it is markup.
struct Plain<'a>(&'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Gives the page.
pub(super) async fn serve() -> Response {
    // Writing to a String cannot fail.
    let page = page(&DOCUMENT).unwrap_or_default();
    let mut response = respond(page, HTML);
    let policy = HeaderValue::from_static(POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// Gives the style sheet.
pub(super) async fn style() -> Response {
    respond(STYLE.into(), CSS)
}

fn respond(text: String, content_type: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn page(document: &Value) -> Result<String, fmt::Error> {
    let mut page = String::new();
    let (title, version) = (text(&document["info"]["title"]), text(&document["info"]["version"]));
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title} {version}\
         </title>\n<link rel=\"stylesheet\" href=\"{STYLE_PATH}\">\n<h1>{title} {version}</h1>\n\
         <p>{}</p>\n<p>For programs: <a href=\"/openapi.json\">openapi.json</a></p>\n",
        text(&document["info"]["description"])
    )?;
    operations(&mut page, &document["paths"])?;
    problems(&mut page)?;
    schemas(&mut page, &document["components"]["schemas"])?;
    Ok(page)
}

fn operations(page: &mut String, paths: &Value) -> fmt::Result {
    page.write_str("<h2>Requests</h2>\n")?;
    for (path, methods) in fields(paths) {
        for (method, operation) in fields(methods) {
            let (method, id) = (method.to_ascii_uppercase(), text(&operation["operationId"]));
            writeln!(page, "<h3 id=\"{id}\"><code>{method} {}</code></h3>", Plain(path))?;
            writeln!(page, "<p>{}.</p>", text(&operation["summary"]))?;
            parameters(page, &operation["parameters"])?;
            if let Some((media, body)) = fields(&operation["requestBody"]["content"]).next() {
                writeln!(page, "<p>Body: {}</p>", Media(media, body))?;
            }
            responses(page, &operation["responses"])?;
        }
    }
    Ok(())
}

fn parameters(page: &mut String, parameters: &Value) -> fmt::Result {
    let Some(parameters) = parameters.as_array() else { return Ok(()) };
    page.write_str("<table>\n")?;
    for parameter in parameters {
        writeln!(
            page,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
            text(&parameter["name"]),
            text(&parameter["in"]),
            text(&parameter["description"]),
        )?;
    }
    page.write_str("</table>\n")
}

fn responses(page: &mut String, responses: &Value) -> fmt::Result {
    page.write_str("<table>\n")?;
    for (status, response) in fields(responses) {
        write!(page, "<tr><td>{status}</td><td>{}", text(&response["description"]))?;
        for (media, body) in fields(&response["content"]) {
            write!(page, "<br>{}", Media(media, body))?;
        }
        page.write_str("</td></tr>\n")?;
    }
    page.write_str("</table>\n")
}

fn problems(page: &mut String) -> fmt::Result {
    page.write_str("<h2>Problems</h2>\n<table>\n")?;
    for code in Code::ALL {
        let (name, status, title) = (code.name(), code.status().as_u16(), code.title());
        let title = Plain(title);
        writeln!(
            page,
            "<tr id=\"{name}\"><td><code>{name}</code></td><td>{status}</td><td>{title}</td></tr>"
        )?;
    }
    page.write_str("</table>\n")
}

fn schemas(page: &mut String, schemas: &Value) -> fmt::Result {
    page.write_str("<h2>Schemas</h2>\n")?;
    for (name, schema) in fields(schemas) {
        let name = Plain(name);
        let schema = serde_json::to_string_pretty(schema).unwrap_or_default();
        writeln!(page, "<h3 id=\"schema-{name}\">{name}</h3>\n<pre>{}</pre>", Plain(&schema))?;
    }
    Ok(())
}

/// A body in a page: its content type, and its schema where it has one with a name.
struct Media<'a>(&'a str, &'a Value);

impl Display for Media<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(media, body) = self;
        write!(f, "<code>{}</code>", Plain(media))?;
        let named = body["schema"]["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        let Some(name) = named.map(Plain) else { return Ok(()) };
        write!(f, " <a href=\"#schema-{name}\">{name}</a>")
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> Plain<'_> {
    Plain(value.as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{DOCUMENT, Plain, page};

    #[test]
    fn the_page_shows_every_request_and_runs_nothing() {
        let page = page(&DOCUMENT).unwrap();
        for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                let title = format!("<code>{} {}</code>", method.to_uppercase(), Plain(path));
                assert!(page.contains(&title), "{title}");
            }
        }
        assert!(page.contains("id=\"schema-Exec\""));
        for word in ["<script", "javascript:", " on", "http-equiv", "//"] {
            let markup: String = page.split(['<', '>']).skip(1).step_by(2).collect();
            assert!(!markup.contains(word.trim_start_matches('<')), "{word}");
        }
    }

    #[test]
    fn text_is_not_markup() {
        assert_eq!(Plain("<a href='x\"'>&").to_string(), "&lt;a href=&#39;x&quot;&#39;&gt;&amp;");
    }
}
