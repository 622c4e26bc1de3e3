//! Tests of the settings as a whole: layers, origins, the template and the schema.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use tempfile::TempDir;

use super::{Loaded, Mode, Origin, SETTINGS_TEMPLATE, Settings, Sources, keys, keys::KEYS};
use crate::{error::Result, sandbox::Limits};

/// The settings file of the documentation.
const DOCUMENTED: &str = "
security:
  mode: direct                      # or sandbox
  sandbox:
    server_url: http://localhost:8080
    image: opensandbox/code-interpreter:v1.0.1
    timeout_seconds: 300
    workspace_mount: /home/tom/.openbrain/workspace   # empty: ephemeral
    network:
      allow_egress: true
      allowed_ports: [80, 443]      # in force when restrict_egress is true
      block_egress: false
";

const TIMEOUT: &str = "security.sandbox.timeout_seconds";

/// Files in a directory of their own, and the sources that name them.
struct Files {
    folder: TempDir,
    sources: Sources,
}

impl Files {
    fn new() -> Self {
        let home = Some(PathBuf::from("/home/tom"));
        Self { folder: TempDir::new().unwrap(), sources: Sources { home, ..Sources::default() } }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn user(mut self, text: &str) -> Self {
        self.sources.user = Some(self.write("user.yaml", text));
        self
    }

    fn project(mut self, text: &str) -> Self {
        self.sources.project = Some(self.write("project.yaml", text));
        self
    }

    fn explicit(mut self, text: &str) -> Self {
        self.sources.explicit = Some(self.write("explicit.yaml", text));
        self
    }

    fn env(mut self, variable: &str, value: &str) -> Self {
        self.sources.env.insert(variable.into(), value.into());
        self
    }

    fn flag(mut self, name: &str, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.sources = self.sources.flag(name, key, value);
        self
    }

    fn load(&self) -> Result<Loaded> {
        Settings::load_from(&self.sources)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A settings file with this timeout.
fn timeout(seconds: u64) -> String {
    format!("security: {{sandbox: {{timeout_seconds: {seconds}}}}}")
}

#[test]
fn without_sources_the_defaults_hold() {
    let loaded = Files::new().load().unwrap();
    assert_eq!(loaded.settings, Settings::default());
    assert!(loaded.origins.values().all(|origin| *origin == Origin::Default));
    assert_eq!(loaded.files, Vec::<PathBuf>::new());
}

#[test]
fn stronger_sources_win() {
    let files = Files::new();
    let path = files.folder.path().to_owned();
    let check = |files: &Files, seconds, origin: Origin| {
        let loaded = files.load().unwrap();
        assert_eq!(loaded.settings.security.sandbox.timeout.as_secs(), seconds);
        assert_eq!(loaded.origins[TIMEOUT], origin);
    };
    let files = files.user(&timeout(50));
    check(&files, 50, Origin::UserFile(path.join("user.yaml")));
    let files = files.project(&timeout(40));
    check(&files, 40, Origin::ProjectFile(path.join("project.yaml")));
    let files = files.explicit(&timeout(60));
    check(&files, 60, Origin::File(path.join("explicit.yaml")));
    let files = files.env("OPENBRAIN_TIMEOUT_SECONDS", "70");
    check(&files, 70, Origin::Environment("OPENBRAIN_TIMEOUT_SECONDS".into()));
    let files = files.flag("--timeout", TIMEOUT, 80);
    check(&files, 80, Origin::Flag("--timeout".into()));
}

#[test]
fn layers_merge_key_by_key() {
    let files = Files::new()
        .user("security: {mode: sandbox, sandbox: {network: {block_egress: true}}}")
        .project("security: {sandbox: {network: {restrict_egress: true}, limits: {pids: 9}}}");
    let loaded = files.load().unwrap();
    let security = &loaded.settings.security;
    assert_eq!(security.mode, Mode::Sandbox);
    assert!(security.sandbox.network.block_egress && security.sandbox.network.restrict_egress);
    let limits = Limits { pids: Some(9), ..Settings::default().security.sandbox.limits };
    assert_eq!(security.sandbox.limits, limits);
    assert_eq!(loaded.files, [files.path("user.yaml"), files.path("project.yaml")]);
}

#[test]
fn a_named_file_replaces_the_project_file_and_may_loosen() {
    let files = Files::new().user(&timeout(50)).project("garbage: [").explicit(&timeout(60));
    let loaded = files.load().unwrap();
    assert_eq!(loaded.files, [files.path("user.yaml"), files.path("explicit.yaml")]);
    let mut files = Files::new().user(&timeout(50)).explicit(&timeout(70));
    let named = files.sources.explicit.take().unwrap();
    let files = files.env("OPENBRAIN_CONFIG", named.to_str().unwrap());
    assert_eq!(files.load().unwrap().origins[TIMEOUT], Origin::File(named));
    assert!(Files::new().env("OPENBRAIN_CONFIG", "/nowhere/s.yaml").load().is_err());
}

#[test]
fn a_project_that_loosens_is_refused_with_both_files_and_the_key() {
    let files = Files::new().user(&timeout(50)).project(&timeout(51));
    let error = files.load().unwrap_err();
    assert_eq!(error.code(), "invalid_settings");
    for part in ["user.yaml", "project.yaml", TIMEOUT] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// What a checkout may say of those who may run commands here, when nobody else says anything.
#[test]
fn a_project_alone_does_not_decide_who_may_run_commands_and_what_is_recorded() {
    for (key, loose, strict) in [
        ("server.listen", "'0.0.0.0:8000'", "'127.0.0.1:9000'"),
        ("server.token", "abcdefghijklmnopqrstuvwxyz", "null"),
        ("server.allowed_names", "[evil.example.com]", "[]"),
        ("server.allowed_origins", "['https://evil.example.com']", "[]"),
        ("server.allow_other_users", "true", "false"),
        ("server.allowed_mounts", "[/]", "[]"),
        ("server.pass_env", "[AWS_SECRET_ACCESS_KEY]", "[PATH]"),
        ("server.max_execs", "100000", "1"),
        ("server.max_timeout_seconds", "300d", "60"),
        ("audit.execs", "none", "all"),
        ("audit.file", "/dev/null", "null"),
    ] {
        let (section, name) = key.split_once('.').unwrap();
        let load = |value| Files::new().project(&format!("{section}: {{{name}: {value}}}")).load();
        let error = load(loose).unwrap_err();
        assert_eq!(error.code(), "invalid_settings", "{key}");
        for part in ["project.yaml", key] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert!(error.remedy().unwrap().contains("--config"), "{error:?}");
        load(strict).unwrap_or_else(|error| panic!("{key}: {error}"));
        // Whoever names the file has read it.
        Files::new().explicit(&format!("{section}: {{{name}: {loose}}}")).load().unwrap();
    }
    let approval = |value| format!("security: {{approval: {value}}}");
    Files::new().project(&approval("direct")).load().unwrap();
    assert!(Files::new().user(&approval("direct")).project(&approval("never")).load().is_err());
}

#[test]
fn variables_are_read_by_the_kind_of_their_key() {
    let loaded = Files::new()
        .env("OPENBRAIN_MODE", "sandbox")
        .env("OPENBRAIN_ALLOW_DIRECT", "0")
        .env("OPENBRAIN_IMAGE", "1.0")
        .env("OPENBRAIN_WORKSPACE_MOUNT", "~/a #b")
        .env("OPENBRAIN_TIMEOUT_SECONDS", "10m")
        .env("OPENBRAIN_MEMORY", "512m")
        .env("OPENBRAIN_CPUS", "1.5")
        .env("OPENBRAIN_ALLOWED_PORTS", "22, 443")
        .env("OPENBRAIN_ALLOWED_DOMAINS", "a.com,*.b.com")
        .env("OPENBRAIN_EXPOSE", "/opt,~/x")
        .env("OPENBRAIN_SERVER_URL", "")
        .env("OPENBRAIN_TEST_SERVER", "x")
        .env("PATH", "/bin")
        .load();
    let security = loaded.unwrap().settings.security;
    let sandbox = security.sandbox;
    assert_eq!((security.mode, security.allow_direct), (Mode::Sandbox, false));
    assert_eq!(sandbox.image, "1.0");
    assert_eq!(sandbox.workspace_mount, Some("/home/tom/a #b".into()));
    assert_eq!(sandbox.timeout.as_secs(), 600);
    assert_eq!((sandbox.limits.memory, sandbox.limits.cpus), (Some(512 << 20), Some(1.5)));
    assert_eq!(sandbox.network.allowed_ports, Some(vec![22, 443]));
    assert_eq!(sandbox.network.allowed_domains, Some(vec!["a.com".into(), "*.b.com".into()]));
    assert_eq!(sandbox.expose, [Path::new("/opt"), Path::new("/home/tom/x")]);
    assert_eq!(sandbox.server_url, None);
}

#[test]
fn a_wrong_variable_is_named() {
    for (variable, value, expected) in [
        ("OPENBRAIN_MODEE", "direct", "OPENBRAIN_MODE`?"),
        ("OPENBRAIN_CONFG", "x", "OPENBRAIN_CONFIG`?"),
        ("OPENBRAIN_ALLOW_DIRECT", "maybe", "OPENBRAIN_ALLOW_DIRECT"),
        ("OPENBRAIN_PIDS", "many", "OPENBRAIN_PIDS"),
        ("OPENBRAIN_MODE", "docker", "OPENBRAIN_MODE"),
        ("OPENBRAIN_ALLOWED_PORTS", "80,99999", "OPENBRAIN_ALLOWED_PORTS"),
        ("OPENBRAIN_RUNTIME", "opensandbox", "server_url"),
    ] {
        let error = Files::new().env(variable, value).load().unwrap_err();
        assert_eq!(error.code(), "invalid_settings");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn the_way_to_a_server_is_read() {
    let files = Files::new().user(
        "security: {sandbox: {server_url: 'https://sandboxes.example.com', api_key: of-file, \
         use_server_proxy: true, ca_file: ~/ca.pem, request_timeout_seconds: 5, \
         start_timeout_seconds: 2m, extensions: {poolRef: python}}}",
    );
    let sandbox = files.load().unwrap().settings.security.sandbox;
    let server = sandbox.server().unwrap().unwrap();
    assert_eq!(server.api_key.as_ref().unwrap().expose(), "of-file");
    assert!(server.use_server_proxy);
    assert_eq!(server.ca_file, Some("/home/tom/ca.pem".into()));
    assert_eq!((server.request_timeout.as_secs(), server.start_timeout.as_secs()), (5, 120));
    assert_eq!(server.extensions, [("poolRef".to_owned(), "python".to_owned())].into());

    let loaded = files
        .env("OPEN_SANDBOX_API_KEY", "of-clients")
        .env("OPENBRAIN_USE_SERVER_PROXY", "false")
        .env("OPENBRAIN_CA_FILE", "/etc/ca.pem")
        .env("OPENBRAIN_REQUEST_TIMEOUT_SECONDS", "7")
        .env("OPENBRAIN_START_TIMEOUT_SECONDS", "1m")
        .env("OPENBRAIN_EXTENSIONS", "poolRef=node, other=a=b")
        .load()
        .unwrap();
    let origin = Origin::Environment("OPEN_SANDBOX_API_KEY".into());
    assert_eq!(loaded.origins["security.sandbox.api_key"], origin);
    let server = loaded.settings.security.sandbox.server().unwrap().unwrap();
    assert_eq!(server.api_key.unwrap().expose(), "of-clients");
    assert!(!server.use_server_proxy);
    assert_eq!(server.ca_file, Some("/etc/ca.pem".into()));
    assert_eq!((server.request_timeout.as_secs(), server.start_timeout.as_secs()), (7, 60));
    let extensions = [("poolRef", "node"), ("other", "a=b")];
    assert_eq!(server.extensions, extensions.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
}

#[test]
fn our_own_variable_wins_over_that_of_the_clients() {
    let files =
        Files::new().env("OPEN_SANDBOX_API_KEY", "of-clients").env("OPENBRAIN_API_KEY", "ours");
    let sandbox = files.load().unwrap().settings.security.sandbox;
    assert_eq!(sandbox.api_key.unwrap().expose(), "ours");
}

#[test]
fn a_key_is_never_written_and_never_repeated() {
    let loaded = Files::new().env("OPEN_SANDBOX_API_KEY", "hunter2").load().unwrap();
    let texts = [
        format!("{loaded:?}"),
        serde_json::to_string(&loaded).unwrap(),
        loaded.settings.to_yaml().unwrap(),
    ];
    for text in texts {
        assert!(text.contains("***") && !text.contains("hunter2"), "{text}");
    }
    let error = Files::new().env("OPEN_SANDBOX_API_KEY", "hunter 2").load().unwrap_err();
    assert!(!format!("{error:?}").contains("hunter"), "{error}");
}

#[test]
fn the_key_of_a_user_is_not_for_the_server_of_a_project() {
    let project = |url: &str| {
        let text = format!("security: {{sandbox: {{server_url: '{url}'}}}}");
        Files::new().env("OPEN_SANDBOX_API_KEY", "mine").project(&text)
    };
    for url in ["http://192.0.2.1:8080", "https://localhost.example.com", "http://127.0.0.1@a.com"]
    {
        let error = project(url).load().unwrap_err();
        assert_eq!(error.code(), "invalid_settings");
        assert!(error.to_string().contains(url), "{error}");
        assert!(!format!("{error:?}").contains("mine"), "{error:?}");
    }
    for url in ["http://localhost:8080", "http://127.0.0.1:1", "http://[::1]:8080/v1"] {
        project(url).load().unwrap();
    }
    let remote = "http://192.0.2.1:8080";
    // Whoever names the server himself, or runs it elsewhere, or gives it no key.
    project(remote).env("OPENBRAIN_SERVER_URL", remote).load().unwrap();
    project(remote).env("OPENBRAIN_RUNTIME", "embedded").load().unwrap();
    let url = format!("security: {{sandbox: {{server_url: '{remote}', api_key: theirs}}}}");
    Files::new().project(&url).load().unwrap();
}

#[test]
fn a_flag_for_no_key_is_refused() {
    assert!(Files::new().flag("--x", "security.x", 1).load().is_err());
    assert!(Files::new().flag("--mode", "security.mode", "x").load().is_err());
}

#[test]
fn a_path_below_home_needs_a_home() {
    let mut files = Files::new().user("security: {sandbox: {workspace_mount: ~/w}}");
    let workspace = files.load().unwrap().settings.security.sandbox.workspace_mount;
    assert_eq!(workspace, Some("/home/tom/w".into()));
    files.sources.home = None;
    assert_eq!(files.load().unwrap_err().code(), "invalid_settings");
}

#[test]
fn every_key_has_its_own_variable() {
    let variables: BTreeSet<_> = KEYS.iter().map(|key| &key.variable).collect();
    assert_eq!(variables.len(), KEYS.len());
    assert!(KEYS.iter().all(|key| key.variable != "OPENBRAIN_CONFIG"));
}

#[test]
fn the_documented_file_is_read() {
    let sandbox = Files::new().project(DOCUMENTED).load().unwrap().settings.security.sandbox;
    assert_eq!(sandbox.server_url.as_deref(), Some("http://localhost:8080"));
    assert_eq!(sandbox.workspace_mount, Some("/home/tom/.openbrain/workspace".into()));
}

#[test]
fn the_template_says_the_defaults() {
    let written: serde_yaml::Value = serde_yaml::from_str(SETTINGS_TEMPLATE).unwrap();
    assert_eq!(serde_yaml::from_value::<Settings>(written).unwrap(), Settings::default());
    for key in KEYS.iter() {
        let name = format!("{}:", keys::leaf(&key.path));
        assert!(SETTINGS_TEMPLATE.contains(&name), "the template lacks {name}");
    }
}

#[test]
fn every_commented_example_of_the_template_is_valid() {
    let example = SETTINGS_TEMPLATE
        .replace("# server_url:", "server_url:")
        .replace("# allowed_domains:", "allowed_domains:")
        .replace("# cpus:", "cpus:");
    let settings: Settings = serde_yaml::from_str(&example).unwrap();
    assert_eq!(settings.security.sandbox.server_url.as_deref(), Some("http://localhost:8080"));
}

/// `config/settings.yaml` is a copy of the template; `UPDATE=1` rewrites it.
#[test]
fn the_committed_settings_are_the_template() {
    let folder = Path::new("../config");
    if !folder.is_dir() {
        eprintln!("skipped: not in the repository, `config/` is missing");
        return;
    }
    let path = folder.join("settings.yaml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, SETTINGS_TEMPLATE).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), SETTINGS_TEMPLATE);
}

#[test]
fn written_settings_read_back() {
    let settings = Files::new().project(DOCUMENTED).load().unwrap().settings;
    let text = settings.to_yaml().unwrap();
    assert_eq!(serde_yaml::from_str::<Settings>(&text).unwrap(), settings);
    let text = Settings::default().to_yaml().unwrap();
    assert_eq!(serde_yaml::from_str::<Settings>(&text).unwrap(), Settings::default());
}

#[test]
fn the_schema_refuses_unknown_keys_and_knows_the_defaults() {
    let schema = Settings::schema();
    let sandbox = &schema["properties"]["security"]["properties"]["sandbox"];
    assert_eq!(sandbox["additionalProperties"], false);
    assert_eq!(sandbox["properties"]["timeout_seconds"]["default"], 300);
}

/// A layer: for some keys a value that is valid at every strictness.
fn layer() -> impl Strategy<Value = BTreeMap<&'static str, serde_json::Value>> {
    let entry = prop_oneof![
        (Just("security.mode"), prop_oneof!["direct", "sandbox"].prop_map(Into::into)),
        (Just("security.allow_direct"), any::<bool>().prop_map(Into::into)),
        (Just(TIMEOUT), (1..9999u32).prop_map(Into::into)),
        (Just("security.sandbox.image"), "[a-z]{1,9}".prop_map(Into::into)),
        (Just("security.sandbox.limits.pids"), (2..999u32).prop_map(Into::into)),
        (Just("security.sandbox.network.allowed_ports"), Just(serde_json::json!([7]))),
        (Just("security.sandbox.network.block_egress"), any::<bool>().prop_map(Into::into)),
    ];
    proptest::collection::btree_map("[0-9]", entry, 0..6)
        .prop_map(|entries| entries.into_values().collect())
}

proptest! {
    #[test]
    fn every_key_has_the_value_of_the_strongest_layer(named in layer(), flags in layer()) {
        let nested = named.iter().fold(serde_yaml::Value::Null, |mut text, (key, value)| {
            keys::set(&mut text, key, serde_yaml::to_value(value).unwrap());
            text
        });
        let mut files = Files::new();
        if !named.is_empty() {
            files = files.explicit(&serde_yaml::to_string(&nested).unwrap());
        }
        for (key, value) in &flags {
            files = files.flag("--flag", key, value.clone());
        }
        let merged = serde_yaml::to_value(files.load().unwrap().settings).unwrap();
        let default = serde_yaml::to_value(Settings::default()).unwrap();
        for key in KEYS.iter() {
            let said = flags.get(key.path.as_str()).or(named.get(key.path.as_str()));
            let said = said.map(|value| serde_yaml::to_value(value).unwrap());
            let expected = said.or_else(|| keys::get(&default, &key.path).cloned());
            prop_assert_eq!(keys::get(&merged, &key.path), expected.as_ref());
        }
    }
}
