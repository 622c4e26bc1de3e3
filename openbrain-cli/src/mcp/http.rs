//! The streamable HTTP transport, for `/mcp` of `openbrain serve`.
//!
//! Who may call at all is decided before a request arrives here. rmcp looks at `Host` and `Origin` a
//! second time, by the same settings but with fewer of the names of this machine.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, response::IntoResponse};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::combinators::BoxBody;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use openbrain::{
    Settings,
    settings::{Approval, Listen, ServerSettings},
};
use rmcp::{
    model::ProtocolVersion,
    transport::{
        StreamableHttpServerConfig, StreamableHttpService,
        streamable_http_server::session::local::LocalSessionManager,
    },
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    approval,
    server::{Core, Server},
};
use crate::{
    rest::{
        body::{Read, Reader},
        problem::{Code, Problem},
    },
    service::Service,
};

/// Sessions at once, of clients of revisions before 2026-07-28.
const MOST_SESSIONS: usize = 1000;

/// What a call may take beside what it waits for.
const MARGIN: Duration = Duration::from_secs(5);

const SESSION_ID: &str = "mcp-session-id";
const LAST_EVENT_ID: &str = "last-event-id";
const PROTOCOL_VERSION: &str = "mcp-protocol-version";

/// The MCP server as a service of HTTP.
#[derive(Clone)]
pub(crate) struct Mcp {
    inner: StreamableHttpService<Server, LocalSessionManager>,
    sessions: Arc<LocalSessionManager>,
    bodies: Arc<Reader>,
    core: Arc<Core>,
}

/// Told when the response stream of a request is closed.
#[derive(Clone, Debug)]
pub(super) struct Hangup(CancellationToken);

/// The place that a request with a long body takes up: as long as what was made of the body is in memory,
/// or until it is let go.
#[derive(Clone, Debug)]
pub(super) struct LongBody(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

/// A response whose stream tells when it is dropped before its end.
struct Watched {
    body: BoxBody<Bytes, Infallible>,
    guard: Option<DropGuard>,
}

/// The MCP server for the commands of a service, which listens there. `end` ends its streams.
///
/// # Errors
///
/// When the system has no random bytes.
pub(crate) async fn service(
    service: &Arc<Service>,
    listening: &Listen,
    end: CancellationToken,
) -> io::Result<Mcp> {
    let core = Core::new(Arc::clone(service)).await?;
    let settings = &service.settings().server;
    let mut sessions = LocalSessionManager::default();
    sessions.session_config.keep_alive = Some(keep_alive(service.settings()));
    let sessions = Arc::new(sessions);
    let made = Arc::clone(&core);
    let inner = StreamableHttpService::new(
        move || Ok(Server::new(Arc::clone(&made))),
        Arc::clone(&sessions),
        config(settings, listening).with_cancellation_token(end),
    );
    let bodies = Arc::new(Reader::new(settings.max_body));
    Ok(Mcp { inner, sessions, bodies, core })
}

/// How long a session is there without a sign of its client: as long as a command that has ended is
/// remembered, and longer than the client may have to wait for an answer.
fn keep_alive(settings: &Settings) -> Duration {
    let longest = match settings.security.approval {
        Approval::Never => settings.server.yield_after,
        Approval::Direct => settings.server.yield_after + approval::PATIENCE,
    };
    settings.server.keep.max(longest + MARGIN)
}

fn config(settings: &ServerSettings, listening: &Listen) -> StreamableHttpServerConfig {
    let allowed = settings.allowed_origins.iter().map(|origin| with_port(origin));
    StreamableHttpServerConfig::default()
        .with_allowed_hosts(allowed_hosts(settings))
        .with_allowed_origins(own_origins(listening).chain(allowed))
        .enforce_origin_validation()
        .with_json_response(true)
        .with_max_request_body_bytes(usize::try_from(settings.max_body).unwrap_or(usize::MAX))
}

/// The names by which the server may be called.
fn allowed_hosts(settings: &ServerSettings) -> Vec<String> {
    let own = match &settings.listen {
        Listen::Tcp(address) if !address.ip().is_unspecified() => Some(address.ip().to_string()),
        Listen::Tcp(_) | Listen::Unix(_) => None,
    };
    let usual = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    usual.into_iter().chain(own).chain(settings.allowed_names.iter().cloned()).collect()
}

/// The origins of this server itself, for clients that always send one.
fn own_origins(listening: &Listen) -> impl Iterator<Item = String> {
    let port = match listening {
        Listen::Tcp(address) => Some(address.port()),
        Listen::Unix(_) => None,
    };
    let names = ["localhost", "127.0.0.1", "[::1]"];
    port.into_iter().flat_map(move |port| names.map(|name| format!("http://{name}:{port}")))
}

/// An origin with the port that its scheme means: rmcp takes one without for any port.
fn with_port(origin: &str) -> String {
    let Some((scheme, rest)) = origin.split_once("://") else { return origin.into() };
    let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    match (has_port, scheme) {
        (false, "http") => format!("{origin}:80"),
        (false, "https") => format!("{origin}:443"),
        _ => origin.into(),
    }
}

impl LongBody {
    /// Gives the place to another request.
    pub(super) fn let_go(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Mcp {
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        self.try_answer(request).await.unwrap_or_else(IntoResponse::into_response)
    }

    async fn try_answer(mut self, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let (parts, body) = request.into_parts();
        let session = text(&parts.headers, SESSION_ID).map(str::to_owned);
        self.check_room(&parts, session.is_none()).await?;
        // rmcp waits for bodies without a bound in time, and holds any number of long ones.
        let Read { bytes, place } = self.bodies.read(&parts.headers, body).await?;
        let mut request = Request::from_parts(parts, Body::from(bytes));
        request.extensions_mut().insert(LongBody(Arc::new(Mutex::new(place))));
        let resumes = request.headers().contains_key(LAST_EVENT_ID);
        let method = request.method().clone();
        if let (&Method::GET, Some(id), true) = (&method, &session, resumes) {
            self.core.sessions().resume(id);
        }
        self.admit_address(request.headers());
        let hangup = CancellationToken::new();
        request.extensions_mut().insert(Hangup(hangup.clone()));
        let mut response = self.inner.handle(request).await;
        let deleted = method == Method::DELETE && response.status().is_success();
        if let (Some(id), true) = (&session, deleted) {
            self.core.sessions().end(id);
            // The official Python client takes rmcp's 202 for a failure.
            *response.status_mut() = StatusCode::OK;
        }
        let guard = (method == Method::POST).then(|| hangup.drop_guard());
        Ok(response.map(|body| Body::new(Watched { body, guard })))
    }

    /// Refuses to begin one session too many. Revisions that have none name themselves in a header.
    async fn check_room(&self, request: &Parts, is_without: bool) -> Result<(), Problem> {
        let version = text(&request.headers, PROTOCOL_VERSION).unwrap_or_default();
        let begins = request.method == Method::POST
            && is_without
            && version < ProtocolVersion::V_2026_07_28.as_str();
        if begins && self.sessions.sessions.read().await.len() >= MOST_SESSIONS {
            return Err(Problem::new(Code::Busy, "there are too many sessions")
                .remedy("end one by DELETE; those that are idle end by themselves"));
        }
        Ok(())
    }

    /// A server that listens on every address is called by any of them. A web page that is led here
    /// by a name server of its own cannot do that: its `Host` is a name.
    fn admit_address(&mut self, headers: &HeaderMap) {
        let Listen::Tcp(listen) = &self.core.settings().server.listen else { return };
        let host = text(headers, header::HOST.as_str()).unwrap_or_default();
        let authority: Option<http::uri::Authority> = host.parse().ok();
        let Some(authority) = authority.filter(|_| listen.ip().is_unspecified()) else { return };
        let host = authority.host().trim_matches(['[', ']']);
        if host.parse::<IpAddr>().is_ok() {
            self.inner.config.allowed_hosts.push(host.to_owned());
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl tower::Service<Request<Body>> for Mcp {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

impl Hangup {
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() {
            self.guard.take().map(DropGuard::disarm);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use openbrain::settings::ServerSettings;

    use super::{allowed_hosts, with_port};

    #[test]
    fn an_origin_means_the_port_of_its_scheme() {
        for (origin, expected) in [
            ("https://app.example.com", "https://app.example.com:443"),
            ("http://app.example.com", "http://app.example.com:80"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("vscode-webview://panel", "vscode-webview://panel"),
        ] {
            assert_eq!(with_port(origin), expected);
        }
    }

    #[test]
    fn the_server_is_called_by_its_own_names() {
        let mut settings =
            ServerSettings { allowed_names: vec!["box.lan".into()], ..Default::default() };
        assert_eq!(allowed_hosts(&settings)[3..], ["127.0.0.1", "box.lan"]);
        settings.listen = "10.0.0.1:80".parse().unwrap();
        assert_eq!(allowed_hosts(&settings)[3..], ["10.0.0.1", "box.lan"]);
        settings.listen = "0.0.0.0:80".parse().unwrap();
        assert_eq!(allowed_hosts(&settings)[3..], ["box.lan"]);
        settings.listen = "unix:/a".parse().unwrap();
        assert_eq!(allowed_hosts(&settings)[3..], ["box.lan"]);
    }
}
