//! The one place that sends a request: addresses, headers, time limits, bounded reading, retries.
//!
//! Proxies: the environment's `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` hold for every host but the
//! loopback ones, which are never asked through a proxy: a server on this machine is no proxy's
//! business, and most proxies would answer for a `localhost` of their own.
//!
//! Redirects are not followed: they would carry the key to whoever is named in them, and no route of
//! the protocol has any.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use reqwest::{
    Method, StatusCode, Url,
    header::{
        CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, LOCATION, RETRY_AFTER,
    },
    multipart::Form,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    runtime::{self, Handle},
    time::{Instant, sleep, timeout_at},
};

use crate::secret::Secret;

use super::{
    failure::{Context, Failure, FailureKind, Plane},
    wire,
};

/// The value of a header that nothing shows.
pub(super) fn secret_value(secret: &Secret) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose())?;
    value.set_sensitive(true);
    Ok(value)
}

/// The longest time to make a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a connection is kept for the next request. Less than the 5 s after which the server's
/// HTTP library closes it by default, because a request on a connection that is just being closed
/// fails, and only some may be sent again.
const IDLE: Duration = Duration::from_secs(4);

/// The most that is read of an answer that refuses.
const MOST_REFUSAL: usize = 64 << 10;

/// The most that is read of an answer in JSON or text.
const MOST_ANSWER: usize = 16 << 20;

/// How often a request is sent again.
const RETRIES: u32 = 3;

/// The shortest and the longest pause before a request is sent again, unless the server asks for one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The longest pause that the server may ask for; beyond, the request fails at once.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Sends requests. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(super) struct Http(Arc<Shared>);

struct Shared {
    tls: rustls::ClientConfig,
    pools: Mutex<Option<(runtime::Id, Pools)>>,
}

/// The connections, by whether a proxy of the environment may be used.
#[derive(Clone)]
struct Pools {
    direct: reqwest::Client,
    proxied: reqwest::Client,
}

/// Where requests go and what they carry.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) plane: Plane,
    /// May have a path, which is kept: an agent can be at `host:40002/proxy/44772`.
    pub(super) base: Url,
    pub(super) headers: HeaderMap,
    /// What no error may show.
    pub(super) secrets: Vec<Secret>,
    /// The longest time for a whole request, retries included; for a stream, for its head.
    pub(super) time: Duration,
}

/// One request.
pub(super) struct Call<'a> {
    operation: &'static str,
    method: Method,
    path: Vec<&'a str>,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    json: Option<Bytes>,
    time: Option<Duration>,
    retries: u32,
}

/// The head of an answer that does not refuse, and the way to its body.
pub(super) struct Answer {
    response: reqwest::Response,
    pub(super) context: Context,
    deadline: Instant,
}

/// A whole answer.
pub(super) struct Whole {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    context: Context,
}

/// What is left of a request's attempts and time.
struct Retries {
    left: u32,
    idempotent: bool,
    pause: Duration,
    deadline: Instant,
}

impl Http {
    /// Prepares TLS for `scheme`: the system's authorities, and those in `ca_file`.
    pub(super) fn new(scheme: &str, ca_file: Option<&Path>) -> Result<Self, Failure> {
        let tls = match scheme {
            "https" => verified_tls(ca_file)?,
            // Loading the system's authorities takes longer than a request on this machine.
            _ => tls_builder()?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth(),
        };
        Ok(Self(Arc::new(Shared { tls, pools: Mutex::new(None) })))
    }

    /// Sends `call` and reads the whole answer.
    pub(super) async fn fetch(&self, target: &Target, call: Call<'_>) -> Result<Whole, Failure> {
        let context = target.context(&call);
        let mut retries = Retries::new(&call, &context);
        loop {
            let result = match self.attempt(target, &call, &context, retries.deadline, None).await {
                Ok(answer) => answer.whole().await,
                Err(failure) => Err(failure),
            };
            match result {
                Ok(whole) => return Ok(whole),
                Err(failure) => retries.wait(failure).await?,
            }
        }
    }

    /// Sends `call` and gives its answer as soon as the head is there.
    pub(super) async fn open(&self, target: &Target, call: Call<'_>) -> Result<Answer, Failure> {
        let context = target.context(&call);
        let mut retries = Retries::new(&call, &context);
        loop {
            match self.attempt(target, &call, &context, retries.deadline, None).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => retries.wait(failure).await?,
            }
        }
    }

    /// Sends `call` with `form` as its body, once: a form may hold a stream.
    pub(super) async fn submit(
        &self,
        target: &Target,
        call: Call<'_>,
        form: Form,
    ) -> Result<Whole, Failure> {
        let context = target.context(&call);
        let deadline = Instant::now() + context.time;
        self.attempt(target, &call, &context, deadline, Some(form)).await?.whole().await
    }

    async fn attempt(
        &self,
        target: &Target,
        call: &Call<'_>,
        context: &Context,
        deadline: Instant,
        form: Option<Form>,
    ) -> Result<Answer, Failure> {
        let url = target.url(call);
        let client = self.client(&url, context)?;
        let mut request = client
            .request(call.method.clone(), url)
            .headers(target.headers.clone())
            .headers(call.headers.clone())
            .header("x-request-id", context.request_id.as_deref().unwrap_or_default());
        if let Some(json) = &call.json {
            request = request.header(CONTENT_TYPE, "application/json").body(json.clone());
        }
        if let Some(form) = form {
            request = request.multipart(form);
        }
        let response = match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::transport(context, error)),
            Err(_) => return Err(Failure::timed_out(context)),
        };
        let answer = Answer { response, context: context.clone(), deadline };
        match answer.response.status().is_success() {
            true => Ok(answer),
            false => Err(answer.refusal().await),
        }
    }

    /// The connections for the runtime that is running.
    ///
    /// A connection is served by a task of the runtime that made it, and is of no use in another one:
    /// where that runtime is gone the connection is too, and where nobody polls it a request would
    /// wait for ever. So another runtime gets connections of its own.
    fn client(&self, url: &Url, context: &Context) -> Result<reqwest::Client, Failure> {
        let id = Handle::current().id();
        let mut slot = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let pools = match &*slot {
            Some((owner, pools)) if *owner == id => pools.clone(),
            _ => slot.insert((id, Pools::new(&self.0.tls, context)?)).1.clone(),
        };
        Ok(if is_loopback(url) { pools.direct } else { pools.proxied })
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

impl Pools {
    fn new(tls: &rustls::ClientConfig, context: &Context) -> Result<Self, Failure> {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("openbrain/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                .pool_idle_timeout(IDLE)
                .redirect(reqwest::redirect::Policy::none())
                .tls_backend_preconfigured(tls.clone())
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| Failure::transport(context, error))
        };
        Ok(Self { direct: build(builder().no_proxy())?, proxied: build(builder())? })
    }
}

impl Target {
    fn url(&self, call: &Call<'_>) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        url
    }

    fn context(&self, call: &Call<'_>) -> Context {
        Context {
            operation: call.operation,
            place: self.base.origin().ascii_serialization(),
            plane: self.plane,
            request_id: Some(random_id()),
            time: call.time.unwrap_or(self.time),
            secrets: self.secrets.clone(),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl<'a> Call<'a> {
    /// A request for `path`, whose segments are escaped; `operation` completes "cannot …".
    pub(super) fn new(operation: &'static str, method: Method, path: &[&'a str]) -> Self {
        Self {
            operation,
            method,
            path: path.to_vec(),
            query: Vec::new(),
            headers: HeaderMap::new(),
            json: None,
            time: None,
            retries: RETRIES,
        }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Self {
        let text = serde_json::to_vec(body).expect("requests are plain data with text keys");
        self.json = Some(text.into());
        self
    }

    pub(super) fn time(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Never sends it again, for whoever asks again anyway.
    pub(super) fn once(mut self) -> Self {
        self.retries = 0;
        self
    }
}

impl Answer {
    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next piece of the body, or nothing at its end; `silence` is the longest wait for it.
    ///
    /// May be dropped and called again without loss.
    pub(super) async fn chunk(&mut self, silence: Duration) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(silence, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(Failure::transport(&self.context, error)),
            Err(_) => {
                let words = format!("nothing was received for {} s", silence.as_secs_f64());
                Err(Failure::new(FailureKind::Stalled, &self.context, words))
            }
        }
    }

    async fn whole(mut self) -> Result<Whole, Failure> {
        let (body, more) = self.read(MOST_ANSWER).await?;
        if more {
            let words = format!("the answer is longer than {MOST_ANSWER} bytes");
            return Err(Failure::surprise(&self.context, &words, &body));
        }
        Ok(Whole { headers: self.response.headers().clone(), body, context: self.context })
    }

    /// The body up to `most` bytes, and whether there is more of it.
    async fn read(&mut self, most: usize) -> Result<(Bytes, bool), Failure> {
        let mut body = BytesMut::new();
        loop {
            let chunk = match timeout_at(self.deadline, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok((body.freeze(), false)),
                Ok(Err(error)) => return Err(Failure::transport(&self.context, error)),
                Err(_) => return Err(Failure::timed_out(&self.context)),
            };
            let room = most - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((body.freeze(), true));
            }
        }
    }

    async fn refusal(mut self) -> Failure {
        let status = self.response.status();
        if let Some(place) = self.headers().get(LOCATION).filter(|_| status.is_redirection()) {
            let words = format!("it redirects to `{}`", String::from_utf8_lossy(place.as_bytes()));
            return Failure::new(FailureKind::Surprise, &self.context, words);
        }
        let pause = retry_after(&self.response);
        // What could be read of a body that broke off is still the best that can be told.
        let body = self.read(MOST_REFUSAL).await.map(|(body, _)| body).unwrap_or_default();
        let refusal = wire::Refusal::read(&body);
        let words = if refusal.message.is_empty() { reason(status) } else { refusal.message };
        Failure::refused(&self.context, status.as_u16(), refusal.code, &words)
            .with_retry_after(pause)
    }
}

impl Retries {
    fn new(call: &Call<'_>, context: &Context) -> Self {
        Self {
            left: call.retries,
            idempotent: matches!(call.method, Method::GET | Method::PUT | Method::DELETE),
            pause: PAUSE.0,
            deadline: Instant::now() + context.time,
        }
    }

    /// Waits before the next attempt, or gives the failure back because there is to be none.
    async fn wait(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.left == 0 || !failure.may_retry(self.idempotent) {
            return Err(failure);
        }
        self.pause = match failure.retry_after() {
            Some(asked) if asked > MOST_RETRY_AFTER => return Err(failure),
            Some(asked) => asked,
            None => jitter(self.pause),
        };
        if Instant::now() + self.pause >= self.deadline {
            return Err(failure);
        }
        self.left -= 1;
        sleep(self.pause).await;
        Ok(())
    }
}

impl Whole {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let foreign = self.context.plane == Plane::Server
                && serde_json::from_slice::<serde::de::IgnoredAny>(&self.body).is_err();
            let words = format!("{error}: {}", super::failure::quote(&self.body));
            let kind = if foreign { FailureKind::NotOpenSandbox } else { FailureKind::Surprise };
            Failure::new(kind, &self.context, words)
        })
    }

    /// As [`Whole::json`], with nothing and `null` read as the default: Go writes an empty list so.
    pub(super) fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Failure> {
        match self.body.trim_ascii() {
            b"" | b"null" => Ok(T::default()),
            _ => self.json(),
        }
    }

    /// The failure of an answer that was read but makes no sense.
    pub(super) fn surprise(&self, words: &str) -> Failure {
        Failure::surprise(&self.context, words, &self.body)
    }
}

/// A pause between the shortest and three times the last one, as "decorrelated jitter" has it.
fn jitter(last: Duration) -> Duration {
    let (least, most) = PAUSE;
    let span = (last * 3).saturating_sub(least).as_millis().max(1) as u64;
    (least + Duration::from_millis(random() % span)).min(most)
}

/// A number that differs from call to call; std seeds each of these from the system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn random_id() -> String {
    format!("{:016x}{:016x}", random(), random())
}

fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

fn reason(status: StatusCode) -> String {
    format!("it answered {status} without a word")
}

/// Whether `url` names this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn verified_tls(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, Failure> {
    let extra = match ca_file {
        Some(path) => certificates(path)?,
        None => Vec::new(),
    };
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider())
        .map_err(|error| Failure::connection(format!("no certificate authorities: {error}")))?;
    Ok(tls_builder()?
        .dangerous() // The name is rustls's for any verifier that is not its own.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

fn tls_builder()
-> Result<rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier>, Failure> {
    rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::connection(format!("no TLS: {error}")))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Failure::connection(format!("`{}` holds no certificate", path.display()))),
        Err(error) => Err(Failure::connection(format!("`{}`: {error}", path.display()))),
    }
}
