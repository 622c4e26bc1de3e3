//! `openbrain sandbox port`: a port of a sandbox, at an address of this machine.

use std::net::{Ipv4Addr, SocketAddr};

use super::{args::PortArgs, join};
use crate::{
    console::{print, say},
    exit,
    failure::{Failure, Result},
    signals::Signals,
};

/// Runs `openbrain sandbox port`: relays until it is told to end, or the sandbox has ended.
pub(super) async fn run(args: PortArgs) -> Result<u8> {
    let mut signals =
        Signals::listen().map_err(|e| Failure::system("cannot listen to signals", e))?;
    let joined = join(&args.settings, &args.sandbox).await?;
    let local = args.listen.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let mut forward = joined.forward_to(args.port, local).await?;
    print(format!("{}\n", forward.local_addr()))?;
    tokio::select! {
        kind = signals.end() => Err(Failure::Signal(kind.as_raw_value())),
        error = forward.ended() => Err(error.into()),
        _ = joined.ended() => {
            say(format_args!("the sandbox `{}` has ended", args.sandbox));
            Ok(exit::SUCCESS)
        }
    }
}
