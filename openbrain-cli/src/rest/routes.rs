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
    view,
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
    /// The problems that it has of its own: those of its kind, and others.
    problems: [&'static [Code]; 2],
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
    Changes,
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

impl Route {
    /// A route that looks at nothing but its path.
    pub(super) const fn new(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: fn() -> MethodRouter<App>,
    ) -> Self {
        Self {
            method,
            path,
            id,
            summary,
            query: None,
            headers: &[],
            body: None,
            answers: &[],
            problems: [&[], &[]],
            handler,
        }
    }

    pub(super) const fn query(mut self, query: Query) -> Self {
        self.query = Some(query);
        self
    }

    pub(super) const fn headers(
        mut self,
        headers: &'static [(&'static str, &'static str)],
    ) -> Self {
        self.headers = headers;
        self
    }

    pub(super) const fn body(mut self, body: Content) -> Self {
        self.body = Some(body);
        self
    }

    pub(super) const fn answers(mut self, answers: &'static [Answer]) -> Self {
        self.answers = answers;
        self
    }

    pub(super) const fn problems(mut self, problems: &'static [Code]) -> Self {
        self.problems[0] = problems;
        self
    }

    /// Problems beside those of its kind.
    pub(super) const fn also(mut self, problems: &'static [Code]) -> Self {
        self.problems[1] = problems;
        self
    }

    /// The problems that it has of its own.
    pub(super) fn all_problems(&self) -> impl Iterator<Item = &'static Code> {
        self.problems.into_iter().flatten()
    }
}

impl Answer {
    /// An answer without headers of its own.
    pub(super) const fn new(
        status: u16,
        text: &'static str,
        contents: &'static [(&'static str, Content)],
    ) -> Self {
        Self { status, text, contents, headers: &[] }
    }

    pub(super) const fn headers(
        mut self,
        headers: &'static [(&'static str, &'static str)],
    ) -> Self {
        self.headers = headers;
        self
    }
}

/// Bytes of any kind.
pub(super) const BYTES: &[(&str, Content)] = &[(view::BYTES, Content::Bytes)];
pub(super) const VIEW: &[(&str, Content)] = &[(JSON, Content::ExecView)];

pub(super) const ACCEPT: (&str, &str) =
    ("Accept", "`text/event-stream` or `application/x-ndjson` for what happens, as it happens.");
pub(super) const PREFER: (&str, &str) =
    ("Prefer", "`wait=SECONDS` holds the answer back until the command has ended, if it does.");
pub(super) const IDEMPOTENCY: (&str, &str) =
    ("Idempotency-Key", "A request with the same key starts nothing new.");

const EXEC_ID: (&str, &str) = ("Openbrain-Exec-Id", "The name of the command.");
pub(super) const STARTED_HEADERS: &[(&str, &str)] =
    &[EXEC_ID, ("Location", "Where the command is.")];

/// The answers to a command that ends with its request, and to one that has ended in time.
pub(super) const RESULT: Answer = Answer::new(
    200,
    "The result, whatever the exit code; or records, the last of which is the result.",
    &[(JSON, Content::Output), (EVENT_STREAM, Content::Events), (NDJSON, Content::Records)],
)
.headers(&[EXEC_ID]);
pub(super) const ENDED_IN_TIME: Answer =
    Answer::new(200, "The command has ended within the time of `Prefer: wait`.", VIEW)
        .headers(STARTED_HEADERS);

/// The answer with a part of what a command has written.
const STREAM: Answer = Answer::new(200, "The bytes that there are.", BYTES).headers(&[
    ("Openbrain-Offset", "The first byte of the body; higher than `offset` when it is forgotten."),
    ("Openbrain-Next-Offset", "Where to go on."),
    ("Openbrain-Total", "How many bytes the stream had so far."),
    ("Openbrain-Ended", "Whether the command has ended: `true` or `false`."),
]);

/// What everybody may have done wrong who starts a command.
pub(super) const START: &[Code] = &[
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

/// What may be wrong beside that where a command has a key, or is started in a sandbox.
pub(super) const KEPT: &[Code] = &[Code::IdempotencyKeyReused, Code::NotFound];

const ROUTES: &[Route] = &[
    Route::new(Method::POST, "/exec", "exec", "Run a command that ends with its request", || {
        post(exec::run)
    })
    .headers(&[ACCEPT])
    .body(Content::Exec)
    .answers(&[RESULT])
    .problems(START),
    Route::new(
        Method::POST,
        "/v1/execs",
        "createExec",
        "Start a command that goes on without its request",
        || post(execs::create),
    )
    .headers(&[PREFER, IDEMPOTENCY])
    .body(Content::Exec)
    .answers(&[Answer::new(202, "The command runs.", VIEW).headers(STARTED_HEADERS), ENDED_IN_TIME])
    .problems(START)
    .also(KEPT),
    Route::new(
        Method::GET,
        "/v1/execs",
        "listExecs",
        "List the commands that are remembered, the newest first",
        || get(execs::list),
    )
    .query(Query::Page)
    .answers(&[Answer::new(200, "A page of the list.", &[(JSON, Content::List)])])
    .problems(&[Code::InvalidRequest]),
    Route::new(
        Method::GET,
        "/v1/execs/{id}",
        "getExec",
        "Look at a command, and at its result when it has ended",
        || get(execs::get),
    )
    .answers(&[Answer::new(200, "The command.", VIEW)])
    .problems(&[Code::NotFound, Code::Busy]),
    Route::new(
        Method::DELETE,
        "/v1/execs/{id}",
        "deleteExec",
        "End a command with all its processes",
        || delete(control::delete),
    )
    .answers(&[
        Answer::new(200, "It has ended.", VIEW),
        Answer::new(202, "It is being ended.", VIEW),
    ])
    .problems(&[Code::NotFound, Code::Busy]),
    Route::new(
        Method::GET,
        "/v1/execs/{id}/events",
        "getExecEvents",
        "Follow what happens to a command",
        || get(execs::events),
    )
    .query(Query::Events)
    .headers(&[
        ("Accept", "`application/x-ndjson` for a JSON record in each line."),
        ("Last-Event-ID", "Only records with a higher number; wins over `after`."),
    ])
    .answers(&[
        Answer::new(
            200,
            "Records, the last of which is the result. `gap` tells of forgotten ones.",
            &[(EVENT_STREAM, Content::Events), (NDJSON, Content::Records)],
        ),
        Answer::new(204, "The command has ended and there are no more records.", &[]),
    ])
    .problems(&[Code::NotFound, Code::InvalidRequest]),
    Route::new(
        Method::GET,
        "/v1/execs/{id}/stdout",
        "getExecStdout",
        "Read bytes of standard output",
        || get(execs::stdout),
    )
    .query(Query::Stream)
    .answers(&[STREAM])
    .problems(&[Code::NotFound, Code::InvalidRequest, Code::Busy]),
    Route::new(
        Method::GET,
        "/v1/execs/{id}/stderr",
        "getExecStderr",
        "Read bytes of standard error",
        || get(execs::stderr),
    )
    .query(Query::Stream)
    .answers(&[STREAM])
    .problems(&[Code::NotFound, Code::InvalidRequest, Code::Busy]),
    Route::new(
        Method::POST,
        "/v1/execs/{id}/stdin",
        "writeExecStdin",
        "Write bytes to standard input, for a command with `\"stdin\": {\"pipe\": true}`",
        || post(control::stdin),
    )
    .query(Query::Input)
    .body(Content::Bytes)
    .answers(&[Answer::new(204, "Written.", &[])])
    .problems(&[
        Code::MalformedRequest,
        Code::NotFound,
        Code::RequestTimeout,
        Code::InputClosed,
        Code::InputNotRead,
        Code::BodyTooLarge,
        Code::UnsupportedEncoding,
        Code::InvalidRequest,
        Code::Busy,
    ]),
    Route::new(
        Method::POST,
        "/v1/execs/{id}/signal",
        "signalExec",
        "Send a signal to the process group of a command",
        || post(control::signal),
    )
    .body(Content::Signal)
    .answers(&[Answer::new(204, "Sent.", &[])])
    .problems(&[
        Code::MalformedRequest,
        Code::NotFound,
        Code::RequestTimeout,
        Code::AlreadyEnded,
        Code::BodyTooLarge,
        Code::UnsupportedEncoding,
        Code::InvalidRequest,
        Code::Busy,
    ]),
    Route::new(
        Method::GET,
        HEALTH,
        "getHealth",
        "Whether the server lives; needs no token",
        || get(ready::health),
    )
    .answers(&[Answer::new(200, "It lives.", &[(JSON, Content::Health)])]),
    Route::new(
        Method::GET,
        "/ready",
        "getReady",
        "Whether the server can run commands where the settings want them",
        || get(ready::ready),
    )
    .answers(&[Answer::new(200, "It can.", &[(JSON, Content::Ready)])])
    .problems(&[Code::SandboxUnavailable, Code::Closing]),
    Route::new(Method::GET, "/version", "getVersion", "Which openbrain this is", || {
        get(ready::version)
    })
    .answers(&[Answer::new(200, "Name and version.", &[(JSON, Content::Version)])]),
    Route::new(Method::GET, "/metrics", "getMetrics", "Figures for Prometheus", || {
        get(ready::metrics)
    })
    .answers(&[Answer::new(
        200,
        "The figures, as OpenMetrics writes them.",
        &[(ready::OPENMETRICS, Content::Text)],
    )]),
    Route::new(
        Method::GET,
        "/openapi.json",
        "getOpenApi",
        "This description, for programs",
        || get(openapi::serve),
    )
    .answers(&[Answer::new(200, "An OpenAPI 3.1 document.", &[(JSON, Content::Object)])]),
    Route::new(Method::GET, "/docs", "getDocs", "This description, for people", || {
        get(page::serve)
    })
    .answers(&[Answer::new(200, "A page without scripts.", &[(page::HTML, Content::Text)])]),
    Route::new(Method::GET, page::STYLE_PATH, "getDocsStyle", "How that page looks", || {
        get(page::style)
    })
    .answers(&[Answer::new(200, "A style sheet.", &[(page::CSS, Content::Text)])]),
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
