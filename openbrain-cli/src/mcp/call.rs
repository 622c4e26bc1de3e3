//! One call of a tool: who makes it, and whether they still wait for the answer.

use std::{future::pending, sync::Arc, time::Duration};

use http::request::Parts;
use openbrain::{Caller, Surface};
use rmcp::{
    RoleServer,
    model::{ProgressNotificationParam, ProtocolVersion},
    service::RequestContext,
};
use tokio::time::{Instant, interval_at};

use super::{
    http::{Hangup, LongBody},
    session::Session,
};
use crate::{rest::guard::Identity, service::Kept};

/// How often a client that wants to know is told that a command goes on.
const PROGRESS: Duration = Duration::from_secs(1);

/// The longest name of a client that is remembered.
const LONGEST_NAME: usize = 64;

/// One call of a tool.
pub(super) struct Call {
    pub(super) context: RequestContext<RoleServer>,
    /// What belongs to the client, where it stays connected.
    pub(super) session: Option<Arc<Session>>,
    /// How often the client had come back for lost events when it called.
    resumed: u64,
}

impl Call {
    pub(super) fn new(context: RequestContext<RoleServer>, session: Option<Arc<Session>>) -> Self {
        let resumed = session.as_ref().map_or(0, |session| session.resumed());
        Self { context, session, resumed }
    }

    /// Who calls: whom the guard of the HTTP server has seen, and the name that the client's program
    /// gives itself.
    pub(super) fn caller(&self) -> Caller {
        let seen = self.parts().and_then(|parts| parts.extensions.get());
        let seen = seen.map(|Identity(name)| name.as_str());
        let client = self.context.client_info().map(|client| printable(&client.name));
        let caller = Caller::new(Surface::Mcp);
        match (seen, client) {
            (Some(seen), Some(client)) => caller.named(format!("{seen} {client}")),
            (Some(seen), None) => caller.named(seen),
            (None, Some(client)) => caller.named(client),
            (None, None) => caller,
        }
    }

    /// Gives the place of a long body to another request.
    pub(super) fn let_body_go(&self) {
        if let Some(body) = self.parts().and_then(|parts| parts.extensions.get::<LongBody>()) {
            body.let_go();
        }
    }

    /// Whether the client speaks the revision in which the server cannot ask in the middle of a call.
    pub(super) fn is_stateless(&self) -> bool {
        let version = self.context.protocol_version();
        version.is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
    }

    /// Ends when nobody waits for the answer any more: the call was cancelled, its response stream
    /// was closed, or the client is gone.
    pub(super) async fn abandoned(&self) {
        let gone = async {
            match &self.session {
                Some(session) => session.gone().cancelled().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.context.ct.cancelled() => {}
            () = gone => {}
        }
    }

    /// Whether the response stream of a call in a session of HTTP is closed, and the client has not
    /// come back for its rest. There a closed stream cancels nothing by itself (revision 2025-11-25,
    /// "Sending Messages to the Server"), but a handle that goes nowhere is of no use.
    pub(super) fn is_cut_off(&self) -> bool {
        let Some(session) = &self.session else { return false };
        let closed = self.parts().and_then(|parts| parts.extensions.get::<Hangup>());
        closed.is_some_and(Hangup::is_closed) && session.resumed() == self.resumed
    }

    /// The head of the HTTP request that carries the call.
    pub(super) fn parts(&self) -> Option<&Parts> {
        self.context.extensions.get()
    }

    /// Tells the client from time to time that the command goes on, if it wants to know. Never ends.
    pub(super) async fn progress(&self, kept: &Kept) {
        let Some(token) = self.context.meta.get_progress_token() else { return pending().await };
        let began = Instant::now();
        let mut ticks = interval_at(began + PROGRESS, PROGRESS);
        loop {
            ticks.tick().await;
            let seconds = began.elapsed().as_secs();
            let so_far = kept.progress();
            let message = format!(
                "running for {seconds} s, {} bytes of output",
                so_far.stdout + so_far.stderr
            );
            let progress = ProgressNotificationParam::new(token.clone(), seconds as f64);
            // Who does not take it is told the result all the same.
            let _ = self.context.peer.notify_progress(progress.with_message(message)).await;
        }
    }
}

/// The name without what could confuse a log, cut where it is too long.
fn printable(name: &str) -> String {
    let decent = name.chars().filter(|c| !c.is_control());
    decent.take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_NAME, printable};

    #[test]
    fn a_name_is_short_and_printable() {
        assert_eq!(printable("claude-code"), "claude-code");
        assert_eq!(printable("a\nb\x1b[2J"), "ab[2J");
        assert_eq!(printable(&"é".repeat(1000)).chars().count(), LONGEST_NAME);
    }
}
