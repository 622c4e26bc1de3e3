//! `openbrain mcp`: the MCP server over standard input and output.

use std::{fs::File, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use rmcp::{ServiceExt, service::ServerInitializeError};
use rustix::{
    fs::{Mode, OFlags, open},
    io::fcntl_dupfd_cloexec,
    stdio::{dup2_stdin, dup2_stdout},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    lines::Lines,
    server::{Core, Server},
    session::Session,
};
use crate::{
    args::McpArgs,
    config, exit,
    failure::{Failure, Result},
    serve::{Log, allow_many_files},
    service::Service,
    settle,
    signals::Signals,
};

/// How long commands whose client is gone have to end: TERM, half a second, KILL.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// How long answers that are on their way may take once there is nobody left to wait for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs `openbrain mcp` and returns the exit code.
pub(crate) fn run(args: &McpArgs) -> Result<u8> {
    let settings = config::load(&args.settings)?.settings;
    let log = Log::start(&args.log)?;
    allow_many_files();
    let (input, output) = take_streams()
        .map_err(|error| Failure::system("cannot take standard input and output", error))?;
    let runtime = settle::runtime()?;
    let result = runtime.block_on(serve(Service::new(settings), input, output));
    // A read of standard input cannot be taken back, so it is not waited for.
    runtime.shutdown_background();
    log.finish();
    settle::wait(false);
    result
}

/// Takes standard input and output away from the rest of the process. Only the transport can reach
/// them now: no command inherits them, and whatever else is printed goes to standard error.
fn take_streams() -> io::Result<(File, File)> {
    let take = |stream: &dyn std::os::fd::AsFd| -> io::Result<OwnedFd> {
        Ok(fcntl_dupfd_cloexec(stream.as_fd(), 3)?)
    };
    let (input, output) = (take(&io::stdin())?, take(&io::stdout())?);
    dup2_stdin(open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
    dup2_stdout(io::stderr())?;
    Ok((input.into(), output.into()))
}

async fn serve(service: Arc<Service>, input: File, output: File) -> Result<u8> {
    let failed = |error| Failure::system("cannot serve", error);
    let mut signals = Signals::listen().map_err(failed)?;
    let core = Core::new(Arc::clone(&service)).await.map_err(failed)?;
    let session = Arc::<Session>::default();
    let most = usize::try_from(service.settings().server.max_body).unwrap_or(usize::MAX);
    let (input, output) = (tokio::fs::File::from_std(input), tokio::fs::File::from_std(output));
    let lines = Lines::new(input, output, most, session.gone().clone());
    let server = Server::connected(core, Arc::clone(&session));
    let stop = CancellationToken::new();
    let served = tokio::spawn(transport(server, lines, stop.clone()));
    let code = tokio::select! {
        () = session.gone().cancelled() => exit::SUCCESS,
        kind = signals.end() => {
            info!(signal = kind.as_raw_value(), "asked to end");
            exit::of_signal(kind.as_raw_value())
        }
    };
    session.end();
    // What does not end in time dies with this process.
    let _ = timeout(LAST_WAIT, session.ended()).await;
    service.kill();
    stop.cancel();
    let _ = timeout(LAST_WORDS, served).await;
    service.close().await;
    Ok(code)
}

/// Serves one client until it is gone.
async fn transport(
    server: Server,
    lines: Lines<tokio::fs::File, tokio::fs::File>,
    stop: CancellationToken,
) {
    match server.serve_with_ct(lines, stop).await {
        Ok(running) => drop(running.waiting().await),
        Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => {}
        Err(error) => tracing::error!(%error, "the client did not begin as it should"),
    }
}
