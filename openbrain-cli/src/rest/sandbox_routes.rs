//! What there is below `/v1/sandboxes`: a part of the list of [`routes`](super::routes).

use axum::{
    http::Method,
    routing::{delete, get, post, put},
};

use super::{
    accept::JSON,
    files,
    problem::Code,
    routes::{
        ACCEPT, Answer, BYTES, Content, ENDED_IN_TIME, IDEMPOTENCY, KEPT, PREFER, Query, RESULT,
        Route, START, STARTED_HEADERS, VIEW,
    },
    sandboxes, tar,
};

const SANDBOX: &[(&str, Content)] = &[(JSON, Content::Sandbox)];

/// What may be wrong with any work on files.
const FILE: &[Code] = &[
    Code::NotFound,
    Code::InvalidRequest,
    Code::FileFailed,
    Code::SandboxUnavailable,
    Code::SandboxLost,
    Code::ResourceExhausted,
    Code::Busy,
    Code::Closing,
];

/// What may be wrong beside that with a body that goes to a file.
const WRITE: &[Code] = &[Code::MalformedRequest, Code::RequestTimeout, Code::UnsupportedEncoding];

/// What may be wrong when a sandbox is to stand still, or to go on.
const PAUSE: &[Code] =
    &[Code::NotFound, Code::InvalidRequest, Code::SandboxUnavailable, Code::SandboxLost];

const fn done(text: &'static str) -> Answer {
    Answer::new(204, text, &[])
}

const fn sandbox(text: &'static str) -> Answer {
    Answer::new(200, text, SANDBOX)
}

pub(super) const SANDBOX_ROUTES: &[Route] = &[
    Route::new(
        Method::POST,
        "/v1/sandboxes",
        "createSandbox",
        "Create a sandbox that stays open",
        || post(sandboxes::create),
    )
    .headers(&[IDEMPOTENCY])
    .body(Content::NewSandbox)
    .answers(&[Answer::new(201, "The sandbox is open.", SANDBOX)
        .headers(&[("Location", "Where the sandbox is.")])])
    .problems(&[
        Code::NotFound,
        Code::MalformedRequest,
        Code::RequestTimeout,
        Code::BodyTooLarge,
        Code::UnsupportedEncoding,
        Code::IdempotencyKeyReused,
        Code::InvalidRequest,
        Code::PolicyDenied,
        Code::SandboxUnavailable,
        Code::SandboxLost,
        Code::ResourceExhausted,
        Code::Busy,
        Code::Closing,
    ]),
    Route::new(
        Method::GET,
        "/v1/sandboxes",
        "listSandboxes",
        "List the open sandboxes, the newest first",
        || get(sandboxes::list),
    )
    .answers(&[Answer::new(200, "All of them.", &[(JSON, Content::Sandboxes)])]),
    Route::new(Method::GET, "/v1/sandboxes/{id}", "getSandbox", "Look at a sandbox", || {
        get(sandboxes::get)
    })
    .answers(&[sandbox("The sandbox.")])
    .problems(&[Code::NotFound]),
    Route::new(
        Method::DELETE,
        "/v1/sandboxes/{id}",
        "deleteSandbox",
        "End a sandbox with everything in it",
        || delete(sandboxes::delete),
    )
    .answers(&[done("It has ended."), Answer::new(202, "It is being ended.", SANDBOX)])
    .problems(&[Code::NotFound, Code::SandboxUnavailable, Code::Internal]),
    Route::new(
        Method::GET,
        "/v1/sandboxes/{id}/changes",
        "sandboxChanges",
        "Tell what its commands have changed until now",
        || get(sandboxes::changes),
    )
    .answers(&[Answer::new(200, "What has changed.", &[(JSON, Content::Changes)])])
    .problems(&[
        Code::NotFound,
        Code::SandboxUnavailable,
        Code::SandboxLost,
        Code::Busy,
        Code::Closing,
        Code::Internal,
    ]),
    Route::new(
        Method::POST,
        "/v1/sandboxes/{id}/renew",
        "renewSandbox",
        "Let a sandbox end in so much time from now",
        || post(sandboxes::renew),
    )
    .body(Content::Renew)
    .answers(&[sandbox("The sandbox, with its new end.")])
    .problems(&[
        Code::NotFound,
        Code::MalformedRequest,
        Code::RequestTimeout,
        Code::BodyTooLarge,
        Code::UnsupportedEncoding,
        Code::InvalidRequest,
        Code::PolicyDenied,
        Code::SandboxUnavailable,
        Code::SandboxLost,
        Code::Busy,
    ]),
    Route::new(
        Method::POST,
        "/v1/sandboxes/{id}/pause",
        "pauseSandbox",
        "Stop every process in a sandbox",
        || post(sandboxes::pause),
    )
    .answers(&[sandbox("The sandbox, which stands still.")])
    .problems(PAUSE),
    Route::new(
        Method::POST,
        "/v1/sandboxes/{id}/resume",
        "resumeSandbox",
        "Let every process in a sandbox go on",
        || post(sandboxes::resume),
    )
    .answers(&[sandbox("The sandbox, which goes on.")])
    .problems(PAUSE),
    Route::new(
        Method::POST,
        "/v1/sandboxes/{id}/exec",
        "runInSandbox",
        "Run a command in a sandbox that ends with its request",
        || post(sandboxes::run),
    )
    .headers(&[ACCEPT])
    .body(Content::Exec)
    .answers(&[RESULT])
    .problems(START)
    .also(KEPT),
    Route::new(
        Method::POST,
        "/v1/sandboxes/{id}/execs",
        "createSandboxExec",
        "Start a command in a sandbox that goes on without its request",
        || post(sandboxes::start),
    )
    .headers(&[PREFER, IDEMPOTENCY])
    .body(Content::Exec)
    .answers(&[
        Answer::new(
            202,
            "The command runs; it is looked at, followed and ended by `/v1/execs/{id}`.",
            VIEW,
        )
        .headers(STARTED_HEADERS),
        ENDED_IN_TIME,
    ])
    .problems(START)
    .also(KEPT),
    Route::new(
        Method::GET,
        "/v1/sandboxes/{id}/files",
        "readSandboxFile",
        "Read a regular file",
        || get(files::read),
    )
    .query(Query::FileRead)
    .answers(&[Answer::new(
        200,
        "The bytes of the file. A connection that breaks off before its end had not all of them.",
        BYTES,
    )])
    .problems(FILE),
    Route::new(
        Method::PUT,
        "/v1/sandboxes/{id}/files",
        "writeSandboxFile",
        "Write a regular file, and make the directories above it",
        || put(files::write),
    )
    .query(Query::FileWrite)
    .body(Content::Bytes)
    .answers(&[done("Written.")])
    .problems(FILE)
    .also(WRITE),
    Route::new(
        Method::DELETE,
        "/v1/sandboxes/{id}/files",
        "removeSandboxFile",
        "Remove a file or a directory",
        || delete(files::remove),
    )
    .query(Query::FileRemove)
    .answers(&[done("Removed.")])
    .problems(FILE),
    Route::new(
        Method::GET,
        "/v1/sandboxes/{id}/files/stat",
        "statSandboxFile",
        "Look at a file without reading it",
        || get(files::stat),
    )
    .query(Query::FilePath)
    .answers(&[Answer::new(200, "What is known of it.", &[(JSON, Content::File)])])
    .problems(FILE),
    Route::new(
        Method::GET,
        "/v1/sandboxes/{id}/files/list",
        "listSandboxFiles",
        "List a directory, or find files below it by name",
        || get(files::list),
    )
    .query(Query::FileList)
    .answers(&[Answer::new(200, "The files, by path.", &[(JSON, Content::Files)])])
    .problems(FILE),
    Route::new(
        Method::POST,
        "/v1/sandboxes/{id}/files/mkdir",
        "makeSandboxDirectory",
        "Make a directory and those above it",
        || post(files::mkdir),
    )
    .query(Query::FilePath)
    .answers(&[done("It is there.")])
    .problems(FILE),
    Route::new(
        Method::POST,
        "/v1/sandboxes/{id}/files/rename",
        "renameSandboxFile",
        "Give a file another name",
        || post(files::rename),
    )
    .query(Query::FileRename)
    .answers(&[done("Renamed.")])
    .problems(FILE),
    Route::new(
        Method::GET,
        "/v1/sandboxes/{id}/files/tar",
        "packSandboxTree",
        "Read everything below a directory as a tar archive",
        || get(tar::pack),
    )
    .query(Query::FilePath)
    .answers(&[Answer::new(
        200,
        "The archive. A connection that breaks off before its end had not all of it.",
        &[(tar::TAR, Content::Bytes)],
    )])
    .problems(FILE),
    Route::new(
        Method::PUT,
        "/v1/sandboxes/{id}/files/tar",
        "unpackSandboxTree",
        "Unpack a tar archive below a directory, which is made when it is missing",
        || put(tar::unpack),
    )
    .query(Query::FilePath)
    .body(Content::Bytes)
    .answers(&[Answer::new(200, "What was unpacked.", &[(JSON, Content::Unpacked)])])
    .problems(FILE)
    .also(WRITE),
];
