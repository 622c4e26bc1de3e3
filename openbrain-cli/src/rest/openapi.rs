//! The OpenAPI 3.1 document: made of the list of routes and of the types themselves.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::response::Response;
use http::StatusCode;
use openbrain::{Changes, Exec, NewSandbox, Output};
use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    control::{InputQuery, SignalRequest},
    execs::{EventsQuery, PageQuery, StreamQuery},
    files::{FileList, ListQuery, PathQuery, ReadQuery, RemoveQuery, RenameQuery, WriteQuery},
    problem::{Code, Form, PROBLEM_JSON},
    ready::{Health, Ready, Version},
    routes::{Answer, Content, Query, Route, all},
    sandboxes::{RenewRequest, SandboxList, SandboxView},
    stream::Line,
    tar::{TAR, Unpacked},
    view,
    view::{ExecView, List},
};
use crate::file_view::FileView;

/// The document.
pub(super) static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// The paths of a command, and of a sandbox.
const EXEC: &str = "/v1/execs/{id}";
const SANDBOX: &str = "/v1/sandboxes/{id}";

/// Problems that the guard and the router have with any request.
const EVERYWHERE: [Code; 6] = [
    Code::MalformedRequest,
    Code::TokenMissing,
    Code::TokenInvalid,
    Code::HostNotAllowed,
    Code::OriginNotAllowed,
    Code::UserNotAllowed,
];

const DESCRIPTION: &str = "Runs commands, on the host or in a sandbox. A command that ran is an \
answer, whatever its exit code; what could not be run is a problem (RFC 9457) with a stable `code`. \
Bodies are JSON whatever their content type.";

/// Gives the document.
pub(super) async fn serve() -> Response {
    view::json(StatusCode::OK, &*DOCUMENT)
}

/// Schemas of what is sent and of what is answered: a field may have a default in one and be always
/// there in the other.
struct Schemas {
    asked: SchemaGenerator,
    answered: SchemaGenerator,
}

fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in all() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "openbrain",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost:8000" }],
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "The `server.token` of the settings; without one there, none.",
            }},
        },
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "responses": responses(route, schemas),
    });
    let parameters = parameters(route, schemas);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = route.body {
        let media = match body {
            Content::Bytes if route.id == "unpackSandboxTree" => TAR,
            Content::Bytes => "application/octet-stream",
            _ => "application/json",
        };
        let content = content(&[(media, body)], &mut schemas.asked);
        // A sandbox may be asked for without saying anything of it.
        let required = body != Content::NewSandbox;
        operation["requestBody"] = json!({ "required": required, "content": content });
    }
    operation
}

fn parameters(route: &Route, schemas: &mut Schemas) -> Vec<Value> {
    let mut parameters = Vec::new();
    if let Some((description, pattern)) = id_of(route.path) {
        parameters.push(json!({
            "name": "id",
            "in": "path",
            "required": true,
            "description": description,
            "schema": { "type": "string", "pattern": pattern },
        }));
    }
    let query = match route.query {
        None => Value::Null,
        Some(Query::Page) => schemas.query::<PageQuery>(),
        Some(Query::Events) => schemas.query::<EventsQuery>(),
        Some(Query::Stream) => schemas.query::<StreamQuery>(),
        Some(Query::Input) => schemas.query::<InputQuery>(),
        Some(Query::FilePath) => schemas.query::<PathQuery>(),
        Some(Query::FileRead) => schemas.query::<ReadQuery>(),
        Some(Query::FileWrite) => schemas.query::<WriteQuery>(),
        Some(Query::FileRemove) => schemas.query::<RemoveQuery>(),
        Some(Query::FileRename) => schemas.query::<RenameQuery>(),
        Some(Query::FileList) => schemas.query::<ListQuery>(),
    };
    let required = query["required"].clone();
    for (name, schema) in query["properties"].as_object().into_iter().flatten() {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let mut parameter = json!({
            "name": name,
            "in": "query",
            "description": description,
            "schema": schema,
        });
        if required.as_array().is_some_and(|names| names.iter().any(|one| one == name)) {
            parameter["required"] = true.into();
        }
        parameters.push(parameter);
    }
    // OpenAPI leaves `Accept` to the contents of the answers.
    let headers = route.headers.iter().filter(|(name, _)| *name != "Accept");
    parameters.extend(headers.map(|(name, description)| {
        json!({
            "name": name,
            "in": "header",
            "description": description,
            "schema": header_schema(name),
        })
    }));
    parameters
}

/// What the `{id}` in a path is, and the form that it has.
fn id_of(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        _ if path.starts_with(EXEC) => {
            Some(("The `exec_id` of the command.", "^exec_[0-9a-f]{32}$"))
        }
        _ if path.starts_with(SANDBOX) => {
            Some(("The `sandbox_id` of the sandbox.", "^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$"))
        }
        _ => None,
    }
}

fn header_schema(name: &str) -> Value {
    match name {
        "Idempotency-Key" => json!({ "type": "string", "pattern": "^[!-~]{1,255}$" }),
        "Last-Event-ID" => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
        _ => json!({ "type": "string" }),
    }
}

fn responses(route: &Route, schemas: &mut Schemas) -> Value {
    let mut responses = BTreeMap::new();
    for answer in route.answers {
        responses.insert(answer.status, response(answer, route, schemas));
    }
    let mut problems: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in EVERYWHERE.iter().chain(route.all_problems()) {
        for status in code.statuses() {
            let names = problems.entry(status.as_u16()).or_default();
            if !names.contains(&code.name()) {
                names.push(code.name());
            }
        }
    }
    let content = content_of(PROBLEM_JSON, schemas.answered.subschema_for::<Form>().into());
    for (status, codes) in problems {
        let description = format!("`{}`", codes.join("`, `"));
        responses.insert(status, json!({ "description": description, "content": content }));
    }
    responses.into_iter().map(|(status, value)| (status.to_string(), value)).collect()
}

fn response(answer: &Answer, route: &Route, schemas: &mut Schemas) -> Value {
    let mut response = json!({ "description": answer.text });
    if !answer.contents.is_empty() {
        response["content"] = content(answer.contents, &mut schemas.answered);
    }
    for (name, description) in answer.headers {
        response["headers"][name] =
            json!({ "description": description, "schema": { "type": "string" } });
    }
    let next = match route.id {
        "createExec" | "createSandboxExec" => Some((EXEC, "exec_id")),
        "createSandbox" => Some((SANDBOX, "sandbox_id")),
        _ => None,
    };
    if let Some((path, id)) = next {
        response["links"] = links(path, id);
    }
    response
}

/// What can be done next with a command that was started, or with a sandbox that was created.
fn links(path: &str, id: &str) -> Value {
    let next = all().filter(|route| route.path.starts_with(path));
    next.map(|route| {
        let parameters = json!({ "id": format!("$response.body#/{id}") });
        (route.id.to_owned(), json!({ "operationId": route.id, "parameters": parameters }))
    })
    .collect::<Map<_, _>>()
    .into()
}

fn content(contents: &[(&str, Content)], schemas: &mut SchemaGenerator) -> Value {
    let mut all = Map::new();
    for (media, content) in contents {
        let schema = match content {
            Content::Exec => of::<Exec>(schemas),
            Content::NewSandbox => of::<NewSandbox>(schemas),
            Content::Renew => of::<RenewRequest>(schemas),
            Content::Sandbox => of::<SandboxView>(schemas),
            Content::Sandboxes => of::<SandboxList>(schemas),
            Content::Changes => of::<Changes>(schemas),
            Content::File => of::<FileView>(schemas),
            Content::Files => of::<FileList>(schemas),
            Content::Unpacked => of::<Unpacked>(schemas),
            Content::Signal => of::<SignalRequest>(schemas),
            Content::Output => of::<Output>(schemas),
            Content::Events => event(of::<Line>(schemas)),
            Content::Records => of::<Line>(schemas),
            Content::ExecView => of::<ExecView>(schemas),
            Content::List => of::<List>(schemas),
            Content::Health => of::<Health>(schemas),
            Content::Ready => of::<Ready>(schemas),
            Content::Version => of::<Version>(schemas),
            Content::Object => json!({ "type": "object" }),
            Content::Text => json!({ "type": "string" }),
            Content::Bytes => json!({}),
        };
        all.insert((*media).to_owned(), json!({ "schema": schema }));
    }
    all.into()
}

/// One event of a stream: what OpenAPI 3.1 has no words for is told of each.
fn event(record: Value) -> Value {
    json!({
        "type": "object",
        "description": "One event.",
        "required": ["id", "event", "data"],
        "properties": {
            "id": { "type": "string", "description": "The `seq` of the record." },
            "event": { "type": "string", "description": "The `type` of the record." },
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": record,
            },
        },
    })
}

fn content_of(media: &str, schema: Value) -> Value {
    json!({ media: { "schema": schema } })
}

fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().into()
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            asked: settings().for_deserialize().into_generator(),
            answered: settings().for_serialize().into_generator(),
        }
    }

    /// The schema of a query, whose fields are parameters each.
    fn query<T: JsonSchema>(&mut self) -> Value {
        T::json_schema(&mut self.asked).into()
    }

    fn finish(mut self) -> Map<String, Value> {
        let mut all = self.asked.take_definitions(true);
        for (name, schema) in self.answered.take_definitions(true) {
            let both = all.insert(name.clone(), schema.clone());
            assert!(both.is_none_or(|other| other == schema), "two schemas are called {name}");
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{DOCUMENT, Value};

    /// Rewrite it with `UPDATE=1 cargo test -p openbrain-cli openapi`.
    #[test]
    fn the_committed_document_is_fresh() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
        let fresh = serde_json::to_string_pretty(&*DOCUMENT).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &fresh).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == fresh, "docs/openapi.json is stale: UPDATE=1 cargo test rewrites it");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let mut references = Vec::new();
        collect(&DOCUMENT, &mut references);
        assert!(references.len() > 10, "{references:?}");
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(DOCUMENT.pointer(pointer).is_some(), "{reference}");
        }
    }

    fn collect<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                references.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| collect(value, references));
            }
            Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }
}
