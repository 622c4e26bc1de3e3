//! What there is: the one list from which the router, the OpenAPI document and `/docs` come.

use std::sync::Arc;

use axum::{
    Router,
    http::Method,
    routing::{MethodRouter, delete, get, post},
};

use super::{
    accept::{EVENT_STREAM, JSON, NDJSON},
    control, exec, execs,
    guard::HEALTH,
    openapi, page,
    problem::{Code, Problem},
    ready,
    sandbox_routes::SANDBOX_ROUTES,
    state::App,
};
use crate::service::Service;

/// One thing that can be asked for.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Its name for generated clients.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// What its query may say.
    pub(super) query: Option<Query>,
    /// The headers that it looks at, and why.
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) body: Option<Content>,
    pub(super) answers: &'static [Answer],
    /// The problems that it has of its own.
    pub(super) problems: &'static [Code],
    pub(super) handler: fn() -> MethodRouter<App>,
}

/// What the query of a URL may say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Query {
    Page,
    Events,
    Stream,
    Input,
    FilePath,
    FileRead,
    FileWrite,
    FileRemove,
    FileRename,
    FileList,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Exec,
    NewSandbox,
    Renew,
    Sandbox,
    Sandboxes,
    File,
    Files,
    Unpacked,
    Signal,
    Bytes,
    Output,
    Events,
    Records,
    ExecView,
    List,
    Health,
    Ready,
    Version,
    Object,
    Text,
}

/// An answer to a request that went well.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: &'static str,
    pub(super) contents: &'static [(&'static str, Content)],
    pub(super) headers: &'static [(&'static str, &'static str)],
}

pub(super) const EXEC_ID: (&str, &str) = ("Openbrain-Exec-Id", "The name of the command.");

/// What everybody may have done wrong who starts a command.
const START: &[Code] = &[
    Code::MalformedRequest,
    Code::RequestTimeout,
    Code::BodyTooLarge,
    Code::UnsupportedEncoding,
    Code::InvalidRequest,
    Code::PolicyDenied,
    Code::CommandNotFound,
    Code::CommandNotExecutable,
    Code::SandboxUnavailable,
    Code::SandboxLost,
    Code::ResourceExhausted,
    Code::Busy,
    Code::Closing,
];

const STREAM_HEADERS: &[(&str, &str)] = &[
    ("Openbrain-Offset", "The first byte of the body; higher than `offset` when it is forgotten."),
    ("Openbrain-Next-Offset", "Where to go on."),
    ("Openbrain-Total", "How many bytes the stream had so far."),
    ("Openbrain-Ended", "Whether the command has ended: `true` or `false`."),
];

pub(super) const VIEW: &[(&str, Content)] = &[(JSON, Content::ExecView)];

const ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/exec",
        id: "exec",
        summary: "Run a command that ends with its request",
        query: None,
        headers: &[(
            "Accept",
            "`text/event-stream` or `application/x-ndjson` for what happens, as it happens.",
        )],
        body: Some(Content::Exec),
        answers: &[Answer {
            status: 200,
            text: "The result, whatever the exit code; or records, the last of which is the result.",
            contents: &[
                (JSON, Content::Output),
                (EVENT_STREAM, Content::Events),
                (NDJSON, Content::Records),
            ],
            headers: &[EXEC_ID],
        }],
        problems: START,
        handler: || post(exec::run),
    },
    Route {
        method: Method::POST,
        path: "/v1/execs",
        id: "createExec",
        summary: "Start a command that goes on without its request",
        query: None,
        headers: &[
            (
                "Prefer",
                "`wait=SECONDS` holds the answer back until the command has ended, if it does.",
            ),
            ("Idempotency-Key", "A request with the same key starts nothing new."),
        ],
        body: Some(Content::Exec),
        answers: &[
            Answer {
                status: 202,
                text: "The command runs.",
                contents: VIEW,
                headers: &[EXEC_ID, ("Location", "Where the command is.")],
            },
            Answer {
                status: 200,
                text: "The command has ended within the time of `Prefer: wait`.",
                contents: VIEW,
                headers: &[EXEC_ID, ("Location", "Where the command is.")],
            },
        ],
        problems: &[
            Code::MalformedRequest,
            Code::RequestTimeout,
            Code::BodyTooLarge,
            Code::UnsupportedEncoding,
            Code::IdempotencyKeyReused,
            Code::NotFound,
            Code::InvalidRequest,
            Code::PolicyDenied,
            Code::CommandNotFound,
            Code::CommandNotExecutable,
            Code::SandboxUnavailable,
            Code::SandboxLost,
            Code::ResourceExhausted,
            Code::Busy,
            Code::Closing,
        ],
        handler: || post(execs::create),
    },
    Route {
        method: Method::GET,
        path: "/v1/execs",
        id: "listExecs",
        summary: "List the commands that are remembered, the newest first",
        query: Some(Query::Page),
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "A page of the list.",
            contents: &[(JSON, Content::List)],
            headers: &[],
        }],
        problems: &[Code::InvalidRequest],
        handler: || get(execs::list),
    },
    Route {
        method: Method::GET,
        path: "/v1/execs/{id}",
        id: "getExec",
        summary: "Look at a command, and at its result when it has ended",
        query: None,
        headers: &[],
        body: None,
        answers: &[Answer { status: 200, text: "The command.", contents: VIEW, headers: &[] }],
        problems: &[Code::NotFound],
        handler: || get(execs::get),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/execs/{id}",
        id: "deleteExec",
        summary: "End a command with all its processes",
        query: None,
        headers: &[],
        body: None,
        answers: &[
            Answer { status: 200, text: "It has ended.", contents: VIEW, headers: &[] },
            Answer { status: 202, text: "It is being ended.", contents: VIEW, headers: &[] },
        ],
        problems: &[Code::NotFound],
        handler: || delete(control::delete),
    },
    Route {
        method: Method::GET,
        path: "/v1/execs/{id}/events",
        id: "getExecEvents",
        summary: "Follow what happens to a command",
        query: Some(Query::Events),
        headers: &[
            ("Accept", "`application/x-ndjson` for a JSON record in each line."),
            ("Last-Event-ID", "Only records with a higher number; wins over `after`."),
        ],
        body: None,
        answers: &[
            Answer {
                status: 200,
                text: "Records, the last of which is the result. `gap` tells of forgotten ones.",
                contents: &[(EVENT_STREAM, Content::Events), (NDJSON, Content::Records)],
                headers: &[],
            },
            Answer {
                status: 204,
                text: "The command has ended and there are no more records.",
                contents: &[],
                headers: &[],
            },
        ],
        problems: &[Code::NotFound, Code::InvalidRequest],
        handler: || get(execs::events),
    },
    Route {
        method: Method::GET,
        path: "/v1/execs/{id}/stdout",
        id: "getExecStdout",
        summary: "Read bytes of standard output",
        query: Some(Query::Stream),
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "The bytes that there are.",
            contents: &[("application/octet-stream", Content::Bytes)],
            headers: STREAM_HEADERS,
        }],
        problems: &[Code::NotFound, Code::InvalidRequest],
        handler: || get(execs::stdout),
    },
    Route {
        method: Method::GET,
        path: "/v1/execs/{id}/stderr",
        id: "getExecStderr",
        summary: "Read bytes of standard error",
        query: Some(Query::Stream),
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "The bytes that there are.",
            contents: &[("application/octet-stream", Content::Bytes)],
            headers: STREAM_HEADERS,
        }],
        problems: &[Code::NotFound, Code::InvalidRequest],
        handler: || get(execs::stderr),
    },
    Route {
        method: Method::POST,
        path: "/v1/execs/{id}/stdin",
        id: "writeExecStdin",
        summary: "Write bytes to standard input, for a command with `\"stdin\": {\"pipe\": true}`",
        query: Some(Query::Input),
        headers: &[],
        body: Some(Content::Bytes),
        answers: &[Answer { status: 204, text: "Written.", contents: &[], headers: &[] }],
        problems: &[
            Code::MalformedRequest,
            Code::NotFound,
            Code::RequestTimeout,
            Code::InputClosed,
            Code::InputNotRead,
            Code::BodyTooLarge,
            Code::UnsupportedEncoding,
            Code::InvalidRequest,
            Code::Busy,
        ],
        handler: || post(control::stdin),
    },
    Route {
        method: Method::POST,
        path: "/v1/execs/{id}/signal",
        id: "signalExec",
        summary: "Send a signal to the process group of a command",
        query: None,
        headers: &[],
        body: Some(Content::Signal),
        answers: &[Answer { status: 204, text: "Sent.", contents: &[], headers: &[] }],
        problems: &[
            Code::MalformedRequest,
            Code::NotFound,
            Code::RequestTimeout,
            Code::AlreadyEnded,
            Code::BodyTooLarge,
            Code::UnsupportedEncoding,
            Code::InvalidRequest,
            Code::Busy,
        ],
        handler: || post(control::signal),
    },
    Route {
        method: Method::GET,
        path: HEALTH,
        id: "getHealth",
        summary: "Whether the server lives; needs no token",
        query: None,
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "It lives.",
            contents: &[(JSON, Content::Health)],
            headers: &[],
        }],
        problems: &[],
        handler: || get(ready::health),
    },
    Route {
        method: Method::GET,
        path: "/ready",
        id: "getReady",
        summary: "Whether the server can run commands where the settings want them",
        query: None,
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "It can.",
            contents: &[(JSON, Content::Ready)],
            headers: &[],
        }],
        problems: &[Code::SandboxUnavailable, Code::Closing],
        handler: || get(ready::ready),
    },
    Route {
        method: Method::GET,
        path: "/version",
        id: "getVersion",
        summary: "Which openbrain this is",
        query: None,
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "Name and version.",
            contents: &[(JSON, Content::Version)],
            headers: &[],
        }],
        problems: &[],
        handler: || get(ready::version),
    },
    Route {
        method: Method::GET,
        path: "/metrics",
        id: "getMetrics",
        summary: "Figures for Prometheus",
        query: None,
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "The figures, as OpenMetrics writes them.",
            contents: &[(ready::OPENMETRICS, Content::Text)],
            headers: &[],
        }],
        problems: &[],
        handler: || get(ready::metrics),
    },
    Route {
        method: Method::GET,
        path: "/openapi.json",
        id: "getOpenApi",
        summary: "This description, for programs",
        query: None,
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "An OpenAPI 3.1 document.",
            contents: &[(JSON, Content::Object)],
            headers: &[],
        }],
        problems: &[],
        handler: || get(openapi::serve),
    },
    Route {
        method: Method::GET,
        path: "/docs",
        id: "getDocs",
        summary: "This description, for people",
        query: None,
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "A page without scripts.",
            contents: &[(page::HTML, Content::Text)],
            headers: &[],
        }],
        problems: &[],
        handler: || get(page::serve),
    },
    Route {
        method: Method::GET,
        path: page::STYLE_PATH,
        id: "getDocsStyle",
        summary: "How that page looks",
        query: None,
        headers: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            text: "A style sheet.",
            contents: &[(page::CSS, Content::Text)],
            headers: &[],
        }],
        problems: &[],
        handler: || get(page::style),
    },
];

/// Everything that there is.
pub(super) fn all() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().chain(SANDBOX_ROUTES)
}

/// The server of this service, to be put behind the [`guard`](super::guard).
pub(crate) fn router(service: Arc<Service>) -> Router {
    let routed =
        all().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()));
    // The second fallback is for the routes that are there already.
    let routed = routed.fallback(not_found).method_not_allowed_fallback(method_not_allowed);
    routed.with_state(App::new(service))
}

async fn not_found() -> Problem {
    Problem::new(Code::NotFound, "the server has nothing at this path").remedy("see `/docs`")
}

async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path has other methods")
        .remedy("the header `Allow` names them; see `/docs`")
}
