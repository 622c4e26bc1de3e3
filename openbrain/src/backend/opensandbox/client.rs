//! The server: sandboxes are made, found, changed and deleted here.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use reqwest::{Method, Url, header::HeaderMap};

use crate::secret::Secret;

use super::{
    agent::Agent,
    failure::{Failure, FailureKind, Plane},
    http::{self, Call, Http, Target, Whole},
    wire::{
        CreateSandbox, Diagnostics, Endpoint, NetworkPolicy, NetworkPolicyState, NetworkRule, Page,
        Renewal, Sandbox, SandboxState, Version,
    },
};

/// The port of the agent in a sandbox.
const AGENT_PORT: u16 = 44772;

/// How many sandboxes are asked for at once, and how often at most.
const PAGE_SIZE: usize = 200;
const MOST_PAGES: usize = 50;

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its address, with or without `/v1` at the end: `http://localhost:8080`.
    pub url: String,
    /// Its key. Sent to the server, and to an agent only through the server.
    pub api_key: Option<Secret>,
    /// Whether agents are reached through the server, for where the sandboxes' own ports are not
    /// reachable.
    pub use_server_proxy: bool,
    /// The longest time for a request, retries included: 30 s.
    pub request_timeout: Duration,
    /// The longest time to create a sandbox, in which the server may pull the image: 5 min.
    pub create_timeout: Duration,
    /// The longest silence of a stream: 30 s. A running command is not silent; the agent sends a
    /// ping every 3 s.
    pub stall_timeout: Duration,
    /// Certificate authorities to trust beside those of the system, as a PEM file.
    pub ca_file: Option<PathBuf>,
}

impl Connection {
    /// A connection to `url` without a key and with the default limits.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            api_key: None,
            use_server_proxy: false,
            request_timeout: Duration::from_secs(30),
            create_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(30),
            ca_file: None,
        }
    }
}

/// A client of one server.
///
/// Cheap to clone; clones share connections. It can be used from any tokio runtime: connections
/// belong to the runtime that made them, so the first request in another runtime opens new ones and
/// closes those that are idle in the last.
#[derive(Clone, Debug)]
pub struct Client {
    http: Http,
    target: Target,
    options: Options,
}

#[derive(Clone, Copy, Debug)]
struct Options {
    use_server_proxy: bool,
    create_timeout: Duration,
    stall_timeout: Duration,
}

/// Which sandboxes to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// Labels that it has, all of them.
    pub metadata: BTreeMap<String, String>,
    /// States of which it is in one; none means any.
    pub states: Vec<SandboxState>,
}

/// What the server can tell about a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiagnosticsKind {
    /// What its container wrote.
    Logs,
    /// What happened to it.
    Events,
}

impl Client {
    /// A client for `connection`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When the address, the key or the file of authorities cannot be used.
    pub fn new(connection: Connection) -> Result<Self, Failure> {
        let base = base(&connection.url)?;
        let http = Http::new(base.scheme(), connection.ca_file.as_deref())?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &connection.api_key {
            let value = http::secret_value(key).map_err(|_| {
                Failure::connection("the API key holds characters that a header cannot")
            })?;
            headers.insert("open-sandbox-api-key", value);
        }
        let target = Target {
            plane: Plane::Server,
            base,
            headers,
            secrets: connection.api_key.into_iter().collect(),
            time: connection.request_timeout,
        };
        let options = Options {
            use_server_proxy: connection.use_server_proxy,
            create_timeout: connection.create_timeout,
            stall_timeout: connection.stall_timeout,
        };
        Ok(Self { http, target, options })
    }

    /// Asks whether the server is up; it does not look at what it runs sandboxes on.
    ///
    /// # Errors
    ///
    /// When it is not, or is something else.
    pub async fn health(&self) -> Result<(), Failure> {
        let call = Call::new("ask for its health", Method::GET, &["health"]);
        let answer: serde::de::IgnoredAny = self.fetch(call).await?.json()?;
        let serde::de::IgnoredAny = answer;
        Ok(())
    }

    /// The server's version.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; servers before 1.1 do not know.
    pub async fn version(&self) -> Result<String, Failure> {
        let call = Call::new("ask for its version", Method::GET, &["version"]);
        let answer: Version = self.fetch(call).await?.json()?;
        Ok(answer.version)
    }

    /// Creates a sandbox. That it runs does not mean that its agent answers yet: see [`Agent::ping`].
    ///
    /// # Errors
    ///
    /// When the server cannot or will not. After a failure in the middle (no answer in time, a broken
    /// connection) there may be a sandbox; labels in the request's metadata find it.
    pub async fn create(&self, request: &CreateSandbox) -> Result<Sandbox, Failure> {
        let call = Call::new("create a sandbox", Method::POST, &["v1", "sandboxes"])
            .json(request)
            .time(self.options.create_timeout);
        let image = request.image.as_ref().map(|image| image.uri.as_str());
        let answer = self.fetch(call).await;
        answer.and_then(|answer| answer.json()).map_err(|failure| match failure.kind() {
            FailureKind::ImageUnavailable => failure.about(image),
            _ => failure,
        })
    }

    /// How a sandbox stands.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] when there is none, and whatever keeps the server from answering.
    pub async fn get(&self, id: &str) -> Result<Sandbox, Failure> {
        let call = Call::new("look at a sandbox", Method::GET, &["v1", "sandboxes", id]);
        self.fetch(call).await?.json()
    }

    /// Every sandbox that `filter` lets through, up to 10 000.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn list(&self, filter: &ListFilter) -> Result<Vec<Sandbox>, Failure> {
        let mut found = Vec::new();
        for page in 1..=MOST_PAGES {
            let mut call = Call::new("list sandboxes", Method::GET, &["v1", "sandboxes"])
                .query("page", page)
                .query("pageSize", PAGE_SIZE);
            for state in &filter.states {
                call = call.query("state", state);
            }
            if !filter.metadata.is_empty() {
                call = call.query("metadata", query_text(&filter.metadata));
            }
            let page: Page = self.fetch(call).await?.json()?;
            let more = page.has_next();
            found.extend(page.items);
            if !more {
                break;
            }
        }
        Ok(found)
    }

    /// Sets when the server deletes a sandbox, and says what it made of that.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; [`FailureKind::WrongState`] for one that was created without an expiry.
    pub async fn renew(&self, id: &str, at: SystemTime) -> Result<SystemTime, Failure> {
        let path = ["v1", "sandboxes", id, "renew-expiration"];
        let call = Call::new("renew a sandbox", Method::POST, &path)
            .json(&Renewal { expires_at: Some(at) });
        let answer = self.fetch(call).await?;
        let renewal: Renewal = answer.json()?;
        renewal.expires_at.ok_or_else(|| answer.surprise("it tells no time"))
    }

    /// Pauses a sandbox. Its expiry is not paused.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; [`FailureKind::WrongState`] for one that does not run.
    pub async fn pause(&self, id: &str) -> Result<(), Failure> {
        let path = ["v1", "sandboxes", id, "pause"];
        let call = Call::new("pause a sandbox", Method::POST, &path);
        self.fetch(call).await.map(drop)
    }

    /// Lets a paused sandbox run again.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; [`FailureKind::WrongState`] for one that is not paused.
    pub async fn resume(&self, id: &str) -> Result<(), Failure> {
        let path = ["v1", "sandboxes", id, "resume"];
        let call = Call::new("resume a sandbox", Method::POST, &path);
        self.fetch(call).await.map(drop)
    }

    /// Deletes a sandbox, and says whether it was there.
    ///
    /// # Errors
    ///
    /// When the server cannot; that it is gone already is none.
    #[doc(alias = "kill")]
    pub async fn delete(&self, id: &str) -> Result<bool, Failure> {
        let call = Call::new("delete a sandbox", Method::DELETE, &["v1", "sandboxes", id]);
        match self.fetch(call).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.kind() == FailureKind::NotFound => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Where `port` of a sandbox can be reached.
    ///
    /// # Errors
    ///
    /// As [`Client::get`]; [`FailureKind::NotReady`] while it has no address.
    pub async fn endpoint(&self, id: &str, port: u16) -> Result<Endpoint, Failure> {
        let port = port.to_string();
        let path = ["v1", "sandboxes", id, "endpoints", &port];
        let mut call = Call::new("find the way into a sandbox", Method::GET, &path);
        if self.options.use_server_proxy {
            call = call.query("use_server_proxy", true);
        }
        self.fetch(call).await?.json()
    }

    /// Sets labels, and takes away those whose value is none.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn patch_metadata(
        &self,
        id: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<Sandbox, Failure> {
        let path = ["v1", "sandboxes", id, "metadata"];
        let call = Call::new("label a sandbox", Method::PATCH, &path).json(changes);
        self.fetch(call).await?.json()
    }

    /// The network policy in force.
    ///
    /// # Errors
    ///
    /// As [`Client::get`], and when the sandbox has no policy.
    pub async fn network_policy(&self, id: &str) -> Result<NetworkPolicyState, Failure> {
        let path = ["v1", "sandboxes", id, "networkpolicy"];
        let call = Call::new("read a network policy", Method::GET, &path);
        self.fetch(call).await?.json()
    }

    /// Puts another network policy in force.
    ///
    /// # Errors
    ///
    /// As [`Client::network_policy`].
    pub async fn set_network_policy(
        &self,
        id: &str,
        policy: &NetworkPolicy,
    ) -> Result<NetworkPolicyState, Failure> {
        let path = ["v1", "sandboxes", id, "networkpolicy"];
        let call = Call::new("set a network policy", Method::PUT, &path).json(policy);
        self.fetch(call).await?.json()
    }

    /// Adds rules to the network policy in force; a rule replaces one for the same target.
    ///
    /// # Errors
    ///
    /// As [`Client::network_policy`].
    pub async fn patch_network_policy(
        &self,
        id: &str,
        rules: &[NetworkRule],
    ) -> Result<NetworkPolicyState, Failure> {
        let path = ["v1", "sandboxes", id, "networkpolicy"];
        let call = Call::new("change a network policy", Method::PATCH, &path).json(&rules);
        self.fetch(call).await?.json()
    }

    /// What the server can tell about a sandbox, such as why its agent does not answer.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn diagnostics(
        &self,
        id: &str,
        kind: DiagnosticsKind,
    ) -> Result<Diagnostics, Failure> {
        let (name, operation) = match kind {
            DiagnosticsKind::Logs => ("logs", "read the logs of a sandbox"),
            DiagnosticsKind::Events => ("events", "read the events of a sandbox"),
        };
        let path = ["v1", "sandboxes", id, "diagnostics", name];
        let call = Call::new(operation, Method::GET, &path).query("scope", "all");
        self.fetch(call).await?.json()
    }

    /// Finds the agent of a sandbox. It may not answer yet: see [`Agent::ping`].
    ///
    /// # Errors
    ///
    /// As [`Client::endpoint`].
    pub async fn agent(&self, id: &str) -> Result<Agent, Failure> {
        let endpoint = self.endpoint(id, AGENT_PORT).await?;
        let target = self.agent_target(endpoint)?;
        Ok(Agent::new(self.http.clone(), target, self.options.stall_timeout))
    }

    async fn fetch(&self, call: Call<'_>) -> Result<Whole, Failure> {
        match self.http.fetch(&self.target, call).await {
            Err(failure) if failure.is_unexplained() => Err(self.explain(failure).await),
            result => result,
        }
    }

    /// Tells a server whose engine is gone from one that fails at something.
    ///
    /// Without its engine the server answers everything but its health with a bare 500. To list needs
    /// nothing but the engine.
    async fn explain(&self, failure: Failure) -> Failure {
        let list = Call::new("list sandboxes", Method::GET, &["v1", "sandboxes"])
            .query("pageSize", 1)
            .once();
        match self.http.fetch(&self.target, list).await {
            Err(again) if again.is_unexplained() => failure.explained_by(FailureKind::RuntimeDown),
            _ => failure,
        }
    }

    /// The way to an agent. The key goes along only through the server, whose it is.
    fn agent_target(&self, endpoint: Endpoint) -> Result<Target, Failure> {
        let Endpoint { endpoint, headers: required } = endpoint;
        let address = format!("{}://{endpoint}", self.target.base.scheme());
        let unusable =
            || Failure::connection(format!("the server gave `{endpoint}` as the agent's address"));
        let base = Url::parse(&address).map_err(|_| unusable())?;
        let through_server =
            self.options.use_server_proxy && base.origin() == self.target.base.origin();
        let mut headers = match through_server {
            true => self.target.headers.clone(),
            false => HeaderMap::new(),
        };
        let mut secrets = self.target.secrets.clone();
        for (name, value) in required {
            let name: reqwest::header::HeaderName = name.parse().map_err(|_| unusable())?;
            headers.insert(name, http::secret_value(&value).map_err(|_| unusable())?);
            secrets.push(value);
        }
        Ok(Target { plane: Plane::Agent, base, headers, secrets, time: self.target.time })
    }
}

/// The address without what every route adds by itself.
fn base(address: &str) -> Result<Url, Failure> {
    let address = address.trim();
    // The official clients are given `host:port`, and mean HTTP by it.
    let full = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let unusable = |why: &str| Failure::connection(format!("the server's address {why}"));
    let mut url = Url::parse(&full).map_err(|error| unusable(&format!("is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unusable(&format!("begins with `{}`, not `http` or `https`", url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(unusable("has a name or a password in it, which the server does not know"));
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v1").unwrap_or(path).to_owned();
    url.set_path(&path);
    Ok(url)
}

/// `k=v&k2=v2`, escaped: a query of its own inside of the query.
fn query_text(pairs: &BTreeMap<String, String>) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[cfg(test)]
mod tests;
