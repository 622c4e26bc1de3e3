//! `openbrain serve`: one socket, the REST server on it and the MCP server at `/mcp`.

mod connection;
mod impatient;
mod listener;
mod logs;
#[cfg(feature = "otlp")]
mod otlp;
mod peer;
mod request;

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use openbrain::{Settings, protect_port, settings::Listen};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime::Builder,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::listener::{Bound, Listener};
pub(crate) use self::{
    logs::{Log, LogFormat, LogLevel},
    peer::Peer,
};
use crate::{
    args::ServeArgs,
    config,
    console::say,
    exit,
    failure::{Failure, Result},
    mcp, rest,
    service::Service,
    settle,
    signals::Signals,
};

/// Most connections at once; more wait in the kernel's queue. Each takes two descriptors, and at most
/// half of those that there may be are for connections: the other half is for commands.
const MOST_CONNECTIONS: usize = 4096;
const FILES_OF_EACH: u64 = 4;

/// Descriptors that a process of ours may need: connections, and a few for each command.
const MOST_FILES: u64 = 16_384;

/// How many connections at once are told that they are refused; more are closed without a word, so that
/// nobody else takes the places away from whom the server is for.
const MOST_STRANGERS: usize = 16;

/// How long we wait when the kernel has nothing left for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How long the answers of the last commands have to be on their way.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How long open connections have to end once there is nothing left to tell them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs `openbrain serve` and returns the exit code.
pub(crate) fn run(args: &ServeArgs) -> Result<u8> {
    let settings = config::load_for_server(&args.settings, args.listen.as_deref())?.settings;
    check_exposure(&settings)?;
    let bound = Bound::at(&settings.server.listen)?;
    let log = Log::start(&args.log)?;
    allow_many_files();
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::system("cannot start an async runtime", e))?;
    let result = runtime.block_on(serve(bound, settings));
    runtime.shutdown_timeout(LAST_WORDS);
    log.finish();
    settle::wait(true);
    result.map(|()| exit::SUCCESS)
}

/// Allows this process as many open files as a busy server needs; the usual soft limit of 1024 is
/// for programs that use `select(2)`.
pub(crate) fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST_FILES).min(MOST_FILES);
    if limit.current.is_some_and(|current| current < most) {
        limit.current = Some(most);
        // A limit that stays makes the server refuse connections earlier.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// Refuses to be reached by other machines without a token.
fn check_exposure(settings: &Settings) -> Result<()> {
    let Listen::Tcp(address) = &settings.server.listen else { return Ok(()) };
    if settings.server.listen.is_local() || settings.server.token.is_some() {
        return Ok(());
    }
    Err(Failure::usage(
        format!("other machines can reach `{address}`, and there is no token"),
        "set OPENBRAIN_SERVER_TOKEN (`openssl rand -hex 32` makes one), or listen on 127.0.0.1",
    ))
}

async fn serve(bound: Bound, settings: Settings) -> Result<()> {
    let failed = |e| Failure::system("cannot serve", e);
    let mut signals = Signals::listen().map_err(failed)?;
    let (url, address) = (bound.url(), bound.address());
    if let Some(address) = address {
        protect_port(address.port());
    }
    let service = Service::new(settings);
    let listening = address.map_or_else(|| service.settings().server.listen.clone(), Listen::Tcp);
    let streams = CancellationToken::new();
    let mcp = mcp::http::service(&service, &listening, streams.clone()).await.map_err(failed)?;
    let router = request::traced(router(&service, mcp, &listening));
    let connections = TaskTracker::new();
    let listener = bound.listen().map_err(failed)?;
    say(format_args!("listening on {url}"));
    tokio::select! {
        () = accept(&listener, router, &service, &connections) => {}
        kind = signals.end() => info!(signal = kind.as_raw_value(), "asked to end"),
    }
    drop(listener);
    close(&service, &mut signals).await;
    connections.close();
    // Calls of MCP are answered before the streams end on which nothing is to come any more. Who does
    // not take the last answer in time does without.
    let _ = timeout(LAST_ANSWERS, connections.wait()).await;
    streams.cancel();
    let _ = timeout(LAST_WORDS, connections.wait()).await;
    Ok(())
}

/// What is served: who may call is decided before anything else.
fn router(service: &Arc<Service>, mcp: mcp::http::Mcp, listening: &Listen) -> Router {
    let served = rest::router(Arc::clone(service)).nest_service("/mcp", mcp);
    rest::guard::layer(served, &service.settings().server, listening)
}

/// Takes connections, for ever.
async fn accept(
    listener: &Listener,
    router: Router,
    service: &Arc<Service>,
    connections: &TaskTracker,
) {
    let places = Arc::new(Semaphore::new(most_connections(getrlimit(Resource::Nofile).current)));
    let for_strangers = Arc::new(Semaphore::new(MOST_STRANGERS));
    let settings = &service.settings().server;
    loop {
        // Nobody closes the semaphore.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, peer)) => {
                let strange = rest::guard::is_stranger(settings, peer)
                    .then(|| Arc::clone(&for_strangers).try_acquire_owned());
                let Ok(strange) = strange.transpose() else { continue };
                let served = connection::serve(connection, peer, router.clone(), service.closing());
                connections.spawn(async move {
                    served.await;
                    drop((place, strange));
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, "cannot take a connection");
                sleep(EXHAUSTED).await;
            }
        }
    }
}

/// How many connections there may be when so many files may be open.
fn most_connections(files: Option<u64>) -> usize {
    let room = files.map(|files| usize::try_from(files / FILES_OF_EACH).unwrap_or(usize::MAX));
    room.unwrap_or(MOST_CONNECTIONS).clamp(1, MOST_CONNECTIONS)
}

/// Whether an error of `accept(2)` is about a connection that is gone already.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
    )
}

/// Ends the service: running commands have some time, unless a second signal comes.
async fn close(service: &Service, signals: &mut Signals) {
    let drain = service.settings().server.drain;
    if service.running() > 0 {
        let (running, seconds) = (service.running(), drain.as_secs_f64());
        say(format_args!("{running} commands have {seconds} s to end; a second signal kills them"));
    }
    let mut closed = std::pin::pin!(service.close());
    tokio::select! {
        () = &mut closed => return,
        _ = signals.end() => service.kill(),
    }
    closed.await;
}

#[cfg(test)]
mod tests {
    use super::{MOST_CONNECTIONS, most_connections};

    #[test]
    fn half_of_the_files_are_left_for_commands() {
        for (files, connections) in
            [(Some(1024), 256), (Some(16_384), 4096), (Some(1 << 20), 4096), (Some(3), 1)]
        {
            assert_eq!(most_connections(files), connections);
        }
        assert_eq!(most_connections(None), MOST_CONNECTIONS);
    }
}
