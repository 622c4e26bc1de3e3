//! `POST /exec`: a command that ends with its request.

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::{HeaderName, StatusCode};
use openbrain::{Caller, Exec, Stdin};

use super::{
    accept::{self, Wanted},
    idempotency,
    problem::{Problem, Result},
    sandboxes::Within,
    state::{App, Asker},
    stream::{self, Source, Writing},
    view::{insert, json_holding},
};

/// Tells a client the name of its command before there is a result.
pub(super) const EXEC_ID: HeaderName = HeaderName::from_static("openbrain-exec-id");

/// Runs a command where the settings say.
pub(super) async fn run(
    State(app): State<App>,
    Asker(caller): Asker,
    request: Request,
) -> Result<Response> {
    answer(app, caller, None, request).await
}

/// Runs a command and answers with its result, or with what happens as it happens. When the client
/// goes away the server drops the future or the body, and the command is killed.
pub(super) async fn answer(
    app: App,
    caller: Caller,
    within: Within,
    request: Request,
) -> Result<Response> {
    let wanted = accept::wanted(request.headers(), Wanted::Json);
    if request.headers().contains_key(idempotency::KEY) {
        return Err(Problem::invalid("a command of `/exec` ends with its request")
            .remedy("send a request with an `Idempotency-Key` to `/v1/execs`"));
    }
    let (exec, body) = app.exec(request).await?;
    check(&exec)?;
    let attached = app.service.attach(exec, caller, within.as_deref()).await?;
    drop(body);
    let (exec_id, room) = (attached.exec_id().to_owned(), &app.answers);
    let mut response = match wanted {
        Wanted::Json => {
            let ended = attached.wait().await;
            let (output, place) = ended.map_err(|error| Problem::from(error).of_exec(&exec_id))?;
            json_holding(StatusCode::OK, &output, place)
        }
        Wanted::Events => stream::response(None, Source::attached(attached), Writing::Events, room),
        Wanted::Lines => stream::response(None, Source::attached(attached), Writing::Lines, room),
    };
    insert(response.headers_mut(), EXEC_ID, &exec_id);
    Ok(response)
}

/// Refuses input that nobody could write: the request is over when the command starts.
fn check(exec: &Exec) -> Result<()> {
    if exec.stdin != Stdin::Pipe {
        return Ok(());
    }
    Err(Problem::invalid("nobody can write to the standard input of a command of `/exec`")
        .remedy("send the input itself, or start the command by `/v1/execs`"))
}
