//! Finding, reading and layering the settings, and remembering where each value came from.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Serialize, Serializer};
use serde_yaml::Value;

use super::{
    Settings, file,
    keys::{self, KEYS},
    policy,
};
use crate::{
    error::{Error, Result},
    spec::{SERVER_KEY, is_own_variable},
    units::{self, nearest},
};

/// The project file, below the current directory.
const PROJECT_FILE: &str = "config/settings.yaml";

/// The variable that names a settings file.
const CONFIG: &str = "OPENBRAIN_CONFIG";

/// The keys that a server and its key are known by.
const API_KEY: &str = "security.sandbox.api_key";
const SERVER_URL: &str = "security.sandbox.server_url";

/// Beginnings of variables that are none of the settings' business.
const IGNORED: [&str; 2] = ["OPENBRAIN_INTERNAL_", "OPENBRAIN_TEST_"];

/// Where settings are looked for. As plain data, so that nothing below reads the process's own
/// environment; [`Sources::from_process`] does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sources {
    /// A file the user named (`--config`). It takes the place of the project file, which is then
    /// not read, and may loosen what the user file says. `OPENBRAIN_CONFIG` does the same and is
    /// used when this is absent.
    pub explicit: Option<PathBuf>,
    /// The project file, read when it exists.
    pub project: Option<PathBuf>,
    /// The user file, read when it exists.
    pub user: Option<PathBuf>,
    /// The environment; only names that begin with `OPENBRAIN_` and `OPEN_SANDBOX_API_KEY` matter,
    /// and an empty value is the same as none.
    pub env: BTreeMap<String, String>,
    /// The directory that `~/` stands for.
    pub home: Option<PathBuf>,
    /// The directory of what programs keep between runs, where the audit log and saved changes are.
    pub state: Option<PathBuf>,
    /// Values given on the command line; a later one wins.
    pub flags: Vec<Flag>,
}

/// A value given on the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Flag {
    /// The name of the flag, for messages: `--mode`.
    pub name: String,
    /// The dotted key that it sets: `security.mode`.
    pub key: String,
    /// The value, as the settings file would have it.
    pub value: serde_json::Value,
}

/// Settings, and where they came from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loaded {
    /// The settings that hold.
    pub settings: Settings,
    /// Where the value of each key came from, by dotted key: `security.sandbox.image`.
    pub origins: BTreeMap<String, Origin>,
    /// The files that were read, the weakest first.
    pub files: Vec<PathBuf>,
}

/// Where the value of a key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The user file.
    UserFile(PathBuf),
    /// The project file.
    ProjectFile(PathBuf),
    /// The file that the user named.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// This flag of the command line.
    Flag(String),
}

/// What one source says, and nothing else.
struct Layer {
    origin: Origin,
    value: Value,
}

impl Settings {
    /// Loads the settings from the places of the running process: see [`Sources::from_process`].
    ///
    /// # Errors
    ///
    /// As [`Settings::load_from`], and `invalid_settings` when a variable is not UTF-8.
    pub fn load() -> Result<Loaded> {
        Self::load_from(&Sources::from_process()?)
    }

    /// Loads the settings from these sources.
    ///
    /// # Errors
    ///
    /// `invalid_settings` when a file or a variable is unreadable, empty, misspelt, wrong or not
    /// trusted, and when the project file loosens what the user file fixed.
    pub fn load_from(sources: &Sources) -> Result<Loaded> {
        let mut layers = file_layers(sources)?;
        let files = layers.iter().filter_map(|layer| layer.origin.path()).cloned().collect();
        layers.extend(environment_layers(&sources.env)?);
        for flag in &sources.flags {
            layers.push(flag.layer()?);
        }
        let mut settings = merge(&layers, sources.home.as_deref())?;
        let state = sources.state.as_deref();
        settings.audit.file =
            settings.audit.file.or_else(|| Some(state?.join("openbrain/audit.jsonl")));
        let server = settings.security.sandbox.server()?;
        let origins = origins(&layers);
        if let Some(server) = server {
            check_key_owner(&server.url, &origins)?;
        }
        Ok(Loaded { settings, origins, files })
    }
}

/// Where processes of this user find what others of them offer while they live:
/// `$XDG_RUNTIME_DIR/openbrain/sandboxes`, else `/tmp/openbrain-UID/sandboxes`.
pub(crate) fn runtime_directory() -> PathBuf {
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = given.filter(|path| path.is_absolute()).map(|path| path.join("openbrain"));
    let own = || format!("/tmp/openbrain-{}", rustix::process::geteuid().as_raw()).into();
    base.unwrap_or_else(own).join("sandboxes")
}

impl Sources {
    /// The places of the running process: `config/settings.yaml` in the current directory,
    /// `$XDG_CONFIG_HOME/openbrain/settings.yaml` or `~/.config/openbrain/settings.yaml`, and the
    /// variables that begin with `OPENBRAIN_`.
    ///
    /// # Errors
    ///
    /// `invalid_settings` when such a variable is not UTF-8.
    pub fn from_process() -> Result<Self> {
        let directory = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let home = directory("HOME");
        let user = directory("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        Ok(Self {
            explicit: None,
            project: Some(PROJECT_FILE.into()),
            user: user.map(|folder| folder.join("openbrain/settings.yaml")),
            env: own_variables(std::env::vars_os())?,
            state: directory("XDG_STATE_HOME")
                .or_else(|| Some(home.as_ref()?.join(".local/state"))),
            home,
            flags: Vec::new(),
        })
    }

    /// Where changes are saved: `openbrain/changes` below the state directory. `None` when nobody knows
    /// where that is.
    pub fn changes(&self) -> Option<PathBuf> {
        Some(self.state.as_ref()?.join("openbrain/changes"))
    }

    /// Adds the value of a command line flag, for example
    /// `sources.flag("--mode", "security.mode", "sandbox")`. A later one wins.
    pub fn flag(
        mut self,
        name: impl Into<String>,
        key: impl Into<String>,
        value: impl Into<serde_json::Value>,
    ) -> Self {
        self.flags.push(Flag { name: name.into(), key: key.into(), value: value.into() });
        self
    }
}

impl Flag {
    fn layer(&self) -> Result<Layer> {
        let Self { name, key, value } = self;
        if !KEYS.iter().any(|known| known.path == *key) {
            return Err(Error::settings(format!("flag `{name}` sets the unknown key `{key}`")));
        }
        let value = serde_yaml::to_value(value).map_err(|error| {
            Error::settings(format!("flag `{name}` has no usable value")).with_source(error)
        })?;
        Layer::of(Origin::Flag(name.clone()), key, value)
    }
}

impl Layer {
    /// A layer with one key, refused when the value does not suit it.
    fn of(origin: Origin, key: &str, value: Value) -> Result<Self> {
        match keys::layer_of(key, value) {
            Ok(value) => Ok(Self { origin, value }),
            Err(error) => Err(Error::settings(format!("{origin} is wrong")).with_source(error)),
        }
    }
}

impl Origin {
    /// The file, where the value came from one.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::UserFile(path) | Self::ProjectFile(path) | Self::File(path) => Some(path),
            Self::Default | Self::Environment(_) | Self::Flag(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::UserFile(path) => write!(f, "user file `{}`", path.display()),
            Self::ProjectFile(path) => write!(f, "project file `{}`", path.display()),
            Self::File(path) => write!(f, "file `{}`", path.display()),
            Self::Environment(variable) => write!(f, "environment variable `{variable}`"),
            Self::Flag(name) => write!(f, "flag `{name}`"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Reads the user file and the file above it, and holds the project file to the user file.
fn file_layers(sources: &Sources) -> Result<Vec<Layer>> {
    let found = |path: &Option<PathBuf>, origin: fn(PathBuf) -> Origin| -> Result<Option<Layer>> {
        let Some(path) = path else { return Ok(None) };
        let value = file::read_found(path)?;
        Ok(value.map(|value| Layer { origin: origin(path.clone()), value }))
    };
    let named = sources.env.get(CONFIG).filter(|path| !path.is_empty()).map(PathBuf::from);
    let user = found(&sources.user, Origin::UserFile)?;
    if let Some(path) = sources.explicit.clone().or(named) {
        let value = file::read_named(&path)?;
        return Ok(user.into_iter().chain([Layer { origin: Origin::File(path), value }]).collect());
    }
    let project = found(&sources.project, Origin::ProjectFile)?;
    let has_project = project.is_some();
    let layers: Vec<_> = user.into_iter().chain(project).collect();
    if let (true, Some((project, below))) = (has_project, layers.split_last()) {
        let (home, silent) = (sources.home.as_deref(), Value::Null);
        let said = below.first().map_or(&silent, |user| &user.value);
        if let Some(key) = policy::loosened(said, &merge(below, home)?, &merge(&layers, home)?) {
            return Err(loosens(project, below.first(), key));
        }
    }
    Ok(layers)
}

fn loosens(project: &Layer, user: Option<&Layer>, key: &str) -> Error {
    let by = match user.filter(|user| keys::get(&user.value, key).is_some()) {
        Some(user) => format!("is fixed by {}", user.origin),
        None => "has a default that only your own file may loosen".to_owned(),
    };
    Error::settings(format!("{} loosens `{key}`, which {by}", project.origin)).with_remedy(format!(
        "remove `{key}` from the project file, or, if you trust the project, change it in your \
             own file or name the project's with `--config`"
    ))
}

/// A project's file can name a server; that the user's key is sent there is for the user to say. A
/// server on this machine is the user's own.
fn check_key_owner(url: &str, origins: &BTreeMap<String, Origin>) -> Result<()> {
    let of = |key: &str| origins.get(key);
    let is_projects = |origin: Option<&Origin>| matches!(origin, Some(Origin::ProjectFile(_)));
    let has_key = of(API_KEY).is_some_and(|origin| *origin != Origin::Default);
    if has_key
        && is_projects(of(SERVER_URL))
        && !is_projects(of(API_KEY))
        && !units::is_loopback(url)
    {
        let owner = of(API_KEY).map(ToString::to_string).unwrap_or_default();
        return Err(Error::settings(format!(
            "the project's settings name the server `{url}`, and the key of {owner} is not for it"
        ))
        .with_remedy("if it is, say so: `--server-url`, OPENBRAIN_SERVER_URL or your own file"));
    }
    Ok(())
}

fn environment_layers(env: &BTreeMap<String, String>) -> Result<Vec<Layer>> {
    let mut layers = Vec::new();
    if let Some(key) = env.get(SERVER_KEY).filter(|key| !key.is_empty()) {
        let origin = Origin::Environment(SERVER_KEY.into());
        layers.push(Layer::of(origin, API_KEY, Value::from(key.as_str()))?);
    }
    for (variable, text) in
        env.iter().filter(|(variable, text)| is_own(variable) && !text.is_empty())
    {
        let Some(key) = KEYS.iter().find(|key| key.variable == *variable) else {
            return Err(unknown_variable(variable));
        };
        let value = key.parse(text).map_err(|what| {
            Error::settings(format!("environment variable `{variable}`: `{text}` {what}"))
        })?;
        layers.push(Layer::of(Origin::Environment(variable.clone()), &key.path, value)?);
    }
    Ok(layers)
}

fn is_own(variable: &str) -> bool {
    variable.starts_with("OPENBRAIN_")
        && variable != CONFIG
        && !IGNORED.iter().any(|prefix| variable.starts_with(prefix))
}

fn unknown_variable(variable: &str) -> Error {
    let known = KEYS.iter().map(|key| key.variable.as_str()).chain([CONFIG]);
    // The prefix that all have in common would make every name look similar.
    let names = known.filter_map(|name| name.strip_prefix("OPENBRAIN_"));
    let hint = variable.strip_prefix("OPENBRAIN_").and_then(|name| nearest(name, names));
    let hint = hint.map(|name| format!(", did you mean `OPENBRAIN_{name}`?"));
    let hint = hint.unwrap_or_default();
    Error::settings(format!("environment variable `{variable}` is unknown{hint}"))
        .with_remedy(format!("unset it, or correct its name: `unset {variable}`"))
}

fn own_variables(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<BTreeMap<String, String>> {
    let text = |text: OsString| {
        text.into_string().map_err(|text| {
            Error::settings(format!("environment variable with {text:?} is not UTF-8"))
                .with_remedy("unset it, or set it to a text")
        })
    };
    variables
        .filter(|(name, _)| is_own_variable(name))
        .map(|(name, value)| Ok((text(name)?, text(value)?)))
        .collect()
}

/// The settings that the layers make together, the last layer being the strongest.
fn merge(layers: &[Layer], home: Option<&Path>) -> Result<Settings> {
    let mut merged = Value::Mapping(serde_yaml::Mapping::new());
    for key in KEYS.iter() {
        let said = layers.iter().rev().find_map(|layer| keys::get(&layer.value, &key.path));
        if let Some(value) = said {
            keys::set(&mut merged, &key.path, value.clone());
        }
    }
    let mut settings: Settings = serde_yaml::from_value(merged)
        .map_err(|error| Error::settings("the settings do not fit together").with_source(error))?;
    let sandbox = &mut settings.security.sandbox;
    let paths = sandbox.workspace_mount.iter_mut().chain(&mut sandbox.ca_file);
    let paths = paths.chain(&mut sandbox.expose).chain(&mut settings.server.allowed_mounts);
    for path in paths.chain(&mut settings.audit.file) {
        *path = expand(path, home)?;
    }
    Ok(settings)
}

/// Replaces a leading `~` by the home directory.
fn expand(path: &Path, home: Option<&Path>) -> Result<PathBuf> {
    match (path.strip_prefix("~"), home) {
        (Err(_), _) => Ok(path.to_owned()),
        (Ok(rest), Some(home)) => Ok(home.join(rest)),
        (Ok(_), None) => Err(Error::settings(format!("`{}` needs a home", path.display()))
            .with_remedy("set HOME, or write an absolute path")),
    }
}

fn origins(layers: &[Layer]) -> BTreeMap<String, Origin> {
    let of = |path: &str| {
        let said = layers.iter().rev().find(|layer| keys::get(&layer.value, path).is_some());
        said.map_or(Origin::Default, |layer| layer.origin.clone())
    };
    KEYS.iter().map(|key| (key.path.clone(), of(&key.path))).collect()
}
