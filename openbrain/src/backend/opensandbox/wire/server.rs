//! The server's requests and answers.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    Secret, exposed, exposed_values, is_false, open_words, or_default, seconds, secret_values, time,
};

/// A sandbox to be made.
///
/// Give an image, a snapshot or a template, or a pool by [`extensions`](Self::extensions).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateSandbox {
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// A snapshot to start from instead of an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// A template to start from instead of an image; the server refuses most other fields with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<String>,
    /// The platform, where the server has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// After what time the server deletes it, in whole seconds (rounded up) and at least 60; without
    /// one it never does.
    #[serde(serialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Limits such as `cpu` (`500m`, `1`) and `memory` (`512Mi`, `2Gi`); none in it means no limits.
    /// The server wants the field except for pools and templates, where it must be `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_limits: Option<BTreeMap<String, String>>,
    /// What to reserve, on Kubernetes only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resource_requests: BTreeMap<String, String>,
    /// Environment variables of everything in it.
    #[serde(serialize_with = "exposed_values", skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Secret>,
    /// Labels to find it by: at most 63 characters each, `opensandbox.io/` is the server's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The program that keeps it alive; the server wants one with an image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// What it may reach. An empty policy denies everything; without one nothing is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<NetworkPolicy>,
    /// Whether its endpoints want a token, where there is a gateway.
    #[serde(skip_serializing_if = "is_false")]
    pub secure_access: bool,
    /// What is mounted into it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// What only some servers know, such as `poolRef`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, String>,
}

impl CreateSandbox {
    /// A sandbox of `image` that does nothing by itself and has no limits.
    pub fn image(image: impl Into<String>) -> Self {
        Self {
            image: Some(Image { uri: image.into(), auth: None }),
            entrypoint: ["tail", "-f", "/dev/null"].map(str::to_owned).to_vec(),
            resource_limits: Some(BTreeMap::new()),
            ..Self::default()
        }
    }
}

/// An image and who may pull it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The reference, as for `docker pull`.
    pub uri: String,
    /// The registry's account, if it wants one.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub auth: Option<RegistryAuth>,
}

/// An account of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegistryAuth {
    /// Its name.
    pub username: String,
    /// Its password or token.
    #[serde(serialize_with = "exposed")]
    pub password: Secret,
}

/// A platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux` or `windows`.
    pub os: String,
    /// `amd64` or `arm64`.
    pub arch: String,
}

/// Something mounted into a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name, a DNS label that no other volume of the sandbox has.
    pub name: String,
    /// What is mounted.
    #[serde(flatten)]
    pub source: VolumeSource,
    /// Where, an absolute path.
    pub mount_path: String,
    /// Whether it cannot be written to.
    pub read_only: bool,
    /// A path inside of the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
}

/// What a [`Volume`] mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum VolumeSource {
    /// A path of the server's host, below one of its `[storage].allowed_host_paths`.
    Host(HostVolume),
    /// A volume claim of Kubernetes, or a named volume of Docker.
    Pvc(Pvc),
    /// A bucket of an object store.
    Ossfs(OssfsVolume),
}

/// A path of the server's host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostVolume {
    /// An absolute path; a missing directory is made by the server.
    pub path: String,
}

/// A volume claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pvc {
    /// Its name.
    pub claim_name: String,
    /// Whether to make it where it is missing.
    pub create_if_not_exists: bool,
    /// Whether to delete it with the sandbox.
    pub delete_on_sandbox_termination: bool,
    /// The class of storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Its size, such as `1Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Its modes of access.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_modes: Vec<String>,
}

/// A bucket of an object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OssfsVolume {
    /// Its name.
    pub bucket: String,
    /// The store's address.
    pub endpoint: String,
    /// The version of ossfs, `1.0` or `2.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Options of ossfs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The account.
    #[serde(serialize_with = "exposed")]
    pub access_key_id: Secret,
    /// Its key.
    #[serde(serialize_with = "exposed")]
    pub access_key_secret: Secret,
}

/// What a sandbox may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// What holds where no rule matches; `deny` where the answer does not say.
    #[serde(default = "RuleAction::deny")]
    pub default_action: RuleAction,
    /// The rules; the first one that matches holds.
    #[serde(default, deserialize_with = "or_default")]
    pub egress: Vec<NetworkRule>,
}

/// One rule of a [`NetworkPolicy`]. There are no ports and no paths in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRule {
    /// What to do.
    pub action: RuleAction,
    /// A name, `*.` before a name for what is below it, an address or a network.
    pub target: String,
}

open_words! {
    /// What a rule does.
    RuleAction {
        /// Lets through.
        Allow = "allow",
        /// Refuses.
        Deny = "deny",
    }
}

impl RuleAction {
    fn deny() -> Self {
        Self::Deny
    }
}

impl Serialize for RuleAction {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// The network policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicyState {
    /// What the sidecar says about itself, such as `ok`.
    #[serde(default, deserialize_with = "or_default")]
    pub status: String,
    /// What the policy amounts to, such as `deny_all`.
    #[serde(default, deserialize_with = "or_default")]
    pub mode: String,
    /// How it is enforced: `dns` does not keep from connecting to an address, `dns+nft` does.
    #[serde(default, deserialize_with = "or_default")]
    pub enforcement_mode: String,
    /// Why the status is what it is.
    pub reason: Option<String>,
    /// The policy.
    pub policy: Option<NetworkPolicy>,
}

/// A sandbox, as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// How it stands.
    pub status: SandboxStatus,
    /// Its labels.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, String>,
    /// What only some servers know.
    #[serde(default, deserialize_with = "or_default")]
    pub extensions: BTreeMap<String, String>,
    /// Its platform.
    pub platform: Option<Platform>,
    /// When the server deletes it; never, if there is none.
    #[serde(default, deserialize_with = "time")]
    pub expires_at: Option<SystemTime>,
    /// When it was made.
    #[serde(default, deserialize_with = "time")]
    pub created_at: Option<SystemTime>,
    /// What it runs.
    #[serde(default, deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Its image; not in the answer to its creation.
    pub image: Option<Image>,
    /// The snapshot that it was made from.
    pub snapshot_id: Option<String>,
}

/// How a [`Sandbox`] stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxStatus {
    /// Its state.
    pub state: SandboxState,
    /// Why, as a word such as `CONTAINER_RUNNING`.
    pub reason: Option<String>,
    /// Why, as a sentence.
    pub message: Option<String>,
    /// Since when.
    #[serde(default, deserialize_with = "time")]
    pub last_transition_at: Option<SystemTime>,
}

open_words! {
    /// The state of a sandbox. A running one need not have an agent that answers yet.
    SandboxState {
        /// It is being made.
        Pending = "Pending",
        /// It runs.
        Running = "Running",
        /// It is about to be paused.
        Pausing = "Pausing",
        /// It is paused; its expiry is not.
        Paused = "Paused",
        /// It is about to run again.
        Resuming = "Resuming",
        /// It is being deleted.
        Stopping = "Stopping",
        /// It ended.
        Terminated = "Terminated",
        /// It ended with a failure.
        Failed = "Failed",
    }
}

/// Where a port of a sandbox can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// `host:port`, perhaps with a path. The protocol is that of the server's own address.
    pub endpoint: String,
    /// What every request there must carry.
    #[serde(default, deserialize_with = "secret_values")]
    pub headers: BTreeMap<String, Secret>,
}

/// What the server has to tell about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostics {
    /// What part of it, such as `container` or `all`.
    #[serde(default, deserialize_with = "or_default")]
    pub scope: String,
    /// The text.
    #[serde(default, deserialize_with = "or_default")]
    pub content: String,
    /// Whether there was more.
    #[serde(default, deserialize_with = "or_default")]
    pub truncated: bool,
    /// What the server wants to be known.
    #[serde(default, deserialize_with = "or_default")]
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
pub(in super::super) struct Version {
    pub(in super::super) version: String,
}

/// One page of a list.
#[derive(Deserialize)]
pub(in super::super) struct Page {
    pub(in super::super) items: Vec<Sandbox>,
    #[serde(default)]
    pagination: Pagination,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pagination {
    has_next_page: bool,
}

impl Page {
    pub(in super::super) fn has_next(&self) -> bool {
        self.pagination.has_next_page && !self.items.is_empty()
    }
}

/// A new expiry, asked for and answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct Renewal {
    #[serde(serialize_with = "utc", deserialize_with = "time")]
    pub(in super::super) expires_at: Option<SystemTime>,
}

fn utc<S: Serializer>(at: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => to.collect_str(&humantime::format_rfc3339_micros(*at)),
        None => to.serialize_none(),
    }
}
