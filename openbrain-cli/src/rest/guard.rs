//! Whom the server answers: what a web page, a foreign name, another user or a caller without the
//! token gets, before anything of a body is read.
//!
//! A page in a browser of this machine can send requests here and must not run commands. Each check
//! stops what the one before cannot: the name stops DNS rebinding, the origin stops forms and
//! scripts of other pages, `Sec-Fetch-Site` stops what sends no origin.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use openbrain::{
    Secret,
    settings::{Listen, ServerSettings},
};
use subtle::ConstantTimeEq;

use super::{
    host::{Host, Hosts},
    problem::{Code, Problem, Result},
};
use crate::serve::Peer;

/// The path that answers without a token, for whoever watches the server.
pub(super) const HEALTH: &str = "/health";

/// Who a caller is, as far as the guard has seen: `uid:1000`, `token`. In the extensions of every
/// request that it lets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) String);

/// Whom the server answers.
#[derive(Debug)]
struct Guard {
    hosts: Hosts,
    origins: Vec<String>,
    token: Option<Secret>,
    allow_other_users: bool,
    own_uid: u32,
}

/// Where a request comes from, by its `Origin`.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// Nothing says that it comes from a page.
    None,
    /// A page of this server.
    Own,
    /// A page that the settings allow.
    Allowed(HeaderValue),
}

/// Whether somebody will be refused whatever they send.
pub(crate) fn is_stranger(settings: &ServerSettings, peer: Peer) -> bool {
    let is_own = peer == Peer::Uid(rustix::process::geteuid().as_raw());
    let is_let_in = settings.allow_other_users && peer != Peer::Sandbox;
    settings.token.is_none() && !is_own && !is_let_in
}

/// Puts the guard before everything in `router`, what it does not find included.
pub(crate) fn layer(router: Router, settings: &ServerSettings, listening: &Listen) -> Router {
    let guard = Guard {
        hosts: Hosts::new(listening, &settings.allowed_names),
        origins: settings.allowed_origins.clone(),
        token: settings.token.clone(),
        allow_other_users: settings.allow_other_users,
        own_uid: rustix::process::geteuid().as_raw(),
    };
    router.layer(from_fn_with_state(Arc::new(guard), pass))
}

async fn pass(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let origin = guard.page(&request);
    let mut response = match &origin {
        Err(problem) => problem.clone().into_response(),
        Ok(Origin::Allowed(_)) if is_preflight(&request) => preflight(request.headers()),
        Ok(_) => match guard.caller(&request) {
            Err(problem) => problem.into_response(),
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                next.run(request).await
            }
        },
    };
    let headers = response.headers_mut();
    harden(headers);
    if !guard.origins.is_empty() {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    if let Ok(Origin::Allowed(origin)) = origin {
        share_with(origin, headers);
    }
    response
}

impl Guard {
    /// What the headers say about the page behind the request. The order matters: an origin that
    /// equals the name is worth something only when the name is one of ours.
    fn page(&self, request: &Request) -> Result<Origin> {
        let (text, host) = self.host(request)?;
        let origin = self.origin(request.headers(), &text, &host)?;
        check_site(request.headers(), &origin)?;
        Ok(origin)
    }

    /// The name by which the server is called, when it goes by it.
    fn host(&self, request: &Request) -> Result<(String, Host)> {
        let mut named = request.headers().get_all(header::HOST).iter();
        let (Some(value), None) = (named.next(), named.next()) else {
            return Err(Problem::malformed("a request has exactly one `Host` header"));
        };
        let text = value.to_str().unwrap_or_default();
        let host = self.known(text)?;
        // A request for a proxy names the server a second time, and the first line wins for some.
        if let Some(authority) = request.uri().authority() {
            self.known(authority.as_str())?;
        }
        Ok((text.to_owned(), host))
    }

    fn known(&self, text: &str) -> Result<Host> {
        let Some(host) = Host::parse(text) else {
            return Err(Problem::malformed(
                "the `Host` of the request is neither name nor address",
            ));
        };
        if self.hosts.allow(&host) {
            return Ok(host);
        }
        let detail = format!("the server is not called `{text}`");
        Err(Problem::new(Code::HostNotAllowed, detail)
            .remedy("call it `localhost`; other names are listed in `server.allowed_names`"))
    }

    fn origin(&self, headers: &HeaderMap, host_text: &str, host: &Host) -> Result<Origin> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(Origin::None) };
        let text = origin.to_str().unwrap_or_default();
        if origins.next().is_none() {
            if self.origins.iter().any(|allowed| allowed == text && text != "null") {
                return Ok(Origin::Allowed(origin.clone()));
            }
            let same = text
                .strip_prefix("http://")
                .is_some_and(|origin| origin.eq_ignore_ascii_case(host_text));
            if same && self.hosts.own(host) {
                return Ok(Origin::Own);
            }
        }
        Err(refused_page("web pages other than those of `server.allowed_origins` may not call"))
    }

    /// Who is asking, when the server serves them.
    fn caller(&self, request: &Request) -> Result<Identity> {
        if request.uri().path() == HEALTH {
            return Ok(Identity("nobody".into()));
        }
        match &self.token {
            Some(token) => check_token(token, request.headers()),
            None => self.user(request.extensions().get().unwrap_or(&Peer::Unknown)),
        }
    }

    fn user(&self, peer: &Peer) -> Result<Identity> {
        let (name, is_own) = match peer {
            Peer::Uid(uid) => (format!("uid:{uid}"), *uid == self.own_uid),
            Peer::Unknown => ("unknown".into(), false),
            Peer::Sandbox => {
                let detail = "a command in a sandbox asks, which would get out of it here";
                return Err(Problem::new(Code::UserNotAllowed, detail)
                    .remedy("a `server.token` lets in whoever was given it"));
            }
        };
        if is_own || self.allow_other_users {
            return Ok(Identity(name));
        }
        let detail = "the server answers nobody but the user who runs it";
        Err(Problem::new(Code::UserNotAllowed, detail)
            .remedy("set a `server.token`, or `server.allow_other_users: true`"))
    }
}

/// Refuses what a browser says to come from another site. Older ones do not say it.
fn check_site(headers: &HeaderMap, origin: &Origin) -> Result<()> {
    static SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let known = |site: &HeaderValue| site == "same-origin" || site == "none";
    if matches!(origin, Origin::Allowed(_)) || headers.get_all(&SITE).iter().all(known) {
        return Ok(());
    }
    Err(refused_page("the browser says that a page of another site asks (`Sec-Fetch-Site`)"))
}

fn refused_page(detail: &str) -> Problem {
    Problem::new(Code::OriginNotAllowed, detail)
        .remedy("add the page's origin to `server.allowed_origins` if it may run commands")
}

/// Compares the token in a time that does not tell how much of it was right (RFC 6750, section 2.1).
fn check_token(token: &Secret, headers: &HeaderMap) -> Result<Identity> {
    let mut sent = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = sent.next() else {
        return Err(Problem::new(Code::TokenMissing, "the request has no token")
            .remedy("send `Authorization: Bearer TOKEN` with the `server.token` of the settings"));
    };
    if sent.next().is_some() {
        return Err(Problem::malformed("the request has more than one `Authorization` header"));
    }
    let given = value.as_bytes();
    let is_bearer = given.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    let given = given.get(7..).unwrap_or_default().trim_ascii();
    if is_bearer && bool::from(given.ct_eq(token.expose().as_bytes())) {
        return Ok(Identity("token".into()));
    }
    Err(Problem::new(Code::TokenInvalid, "the token is not the server's")
        .remedy("send `Authorization: Bearer TOKEN` with the `server.token` of the settings"))
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Lets a page of the settings send what it asks to send: it may run commands anyway.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, PUT, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// Lets the page of this origin read the answer. Cookies play no part and are not asked for.
fn share_with(origin: HeaderValue, headers: &mut HeaderMap) {
    const SHOWN: HeaderValue = HeaderValue::from_static(
        "location, retry-after, preference-applied, openbrain-exec-id, openbrain-offset, \
         openbrain-next-offset, openbrain-total, openbrain-ended, mcp-session-id, \
         x-request-id",
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, SHOWN);
}

/// Keeps a browser from taking an answer for a page or a part of one, and from storing it: what
/// commands print can look like anything.
fn harden(headers: &mut HeaderMap) {
    const FIXED: [(HeaderName, HeaderValue); 3] = [
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ];
    for (name, value) in FIXED {
        headers.insert(name, value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"));
}

#[cfg(test)]
mod tests;
