//! `openbrain config`, and the settings of every other command.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use openbrain::settings::{Loaded, SETTINGS_TEMPLATE, Settings, Sources};
use serde_json::{Map, Value};

use crate::{
    args::{ConfigCommand, SettingsArgs},
    console::{print, print_json},
    exit,
    failure::{Failure, Result},
    program::absolute,
};

/// Runs `openbrain config` and returns the exit code.
pub(crate) fn run(command: ConfigCommand) -> Result<u8> {
    match command {
        ConfigCommand::Show { origin, json, settings } => show(&load(&settings)?, origin, json),
        ConfigCommand::Check { file } => check(file),
        ConfigCommand::Init { path, force } => init(path, force),
        ConfigCommand::Schema => print_json(&Settings::schema()),
        ConfigCommand::Path => places(),
    }?;
    Ok(exit::SUCCESS)
}

/// Loads the settings that hold here, with those of the command line above all others.
pub(crate) fn load(args: &SettingsArgs) -> Result<Loaded> {
    Ok(Settings::load_from(&sources(args)?)?)
}

/// The same for a server, which may be told on the command line where to listen.
pub(crate) fn load_for_server(args: &SettingsArgs, listen: Option<&str>) -> Result<Loaded> {
    let mut sources = sources(args)?;
    if let Some(listen) = listen {
        sources = sources.flag("--listen", "server.listen", listen);
    }
    Ok(Settings::load_from(&sources)?)
}

fn sources(args: &SettingsArgs) -> Result<Sources> {
    let SettingsArgs {
        config,
        runtime,
        server_url,
        image,
        use_server_proxy,
        ca_file,
        request_timeout,
        start_timeout,
        extension,
    } = args;
    let mut sources = Sources::from_process()?;
    sources.explicit = config.clone();
    let text = |text: &Option<String>| text.as_deref().map(Value::from);
    let ca_file = ca_file.as_deref().map(absolute).transpose()?;
    let extensions: Map<_, _> =
        extension.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    for (flag, key, value) in [
        ("--runtime", "runtime", text(runtime)),
        ("--server-url", "server_url", text(server_url)),
        ("--image", "image", text(image)),
        ("--use-server-proxy", "use_server_proxy", use_server_proxy.then_some(Value::Bool(true))),
        ("--ca-file", "ca_file", ca_file.as_deref().and_then(Path::to_str).map(Value::from)),
        ("--request-timeout", "request_timeout_seconds", text(request_timeout)),
        ("--start-timeout", "start_timeout_seconds", text(start_timeout)),
        ("--extension", "extensions", (!extensions.is_empty()).then_some(extensions.into())),
    ] {
        if let Some(value) = value {
            sources = sources.flag(flag, format!("security.sandbox.{key}"), value);
        }
    }
    Ok(sources)
}

fn show(loaded: &Loaded, origin: bool, json: bool) -> Result<()> {
    match (json, origin) {
        (true, true) => print_json(loaded),
        (true, false) => print_json(&loaded.settings),
        (false, true) => print(with_origins(loaded)?),
        (false, false) => print(loaded.settings.to_yaml()?),
    }
}

/// A line for each key: its value, and where that came from.
fn with_origins(loaded: &Loaded) -> Result<String> {
    let settings = serde_json::to_value(&loaded.settings)
        .map_err(|e| Failure::system("cannot write the settings", e))?;
    let value = |key: &str| settings.pointer(&format!("/{}", key.replace('.', "/")));
    let lines = loaded.origins.iter().map(|(key, origin)| {
        let value = value(key).unwrap_or(&Value::Null);
        format!("{key}: {value}  # {origin}\n")
    });
    Ok(lines.collect())
}

/// Checks one file on its own, or everything that holds here.
fn check(file: Option<PathBuf>) -> Result<()> {
    let here = Sources::from_process()?;
    let sources = match file {
        Some(file) => Sources { explicit: Some(file), home: here.home, ..Sources::default() },
        None => here,
    };
    let files = Settings::load_from(&sources)?.files;
    if files.is_empty() {
        return print("no settings file, the defaults hold\n");
    }
    print(files.iter().map(|file| format!("{}: ok\n", file.display())).collect::<String>())
}

fn init(path: Option<PathBuf>, force: bool) -> Result<()> {
    let Some(path) =
        path.map_or_else(|| Ok(Sources::from_process()?.user), |p| Ok::<_, Failure>(Some(p)))?
    else {
        return Err(Failure::usage("there is no home to write to", "set HOME, or name a file"));
    };
    write(&path, force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::usage(
            format!("`{}` exists", path.display()),
            "name another file, or replace it with --force",
        ),
        _ => Failure::system(format_args!("cannot write `{}`", path.display()), error),
    })?;
    print(format!("wrote {}\n", path.display()))
}

fn write(path: &Path, force: bool) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = File::options();
    // A settings file that everybody can write is not trusted, whatever the umask.
    options.write(true).mode(0o644);
    match force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    options.open(path)?.write_all(SETTINGS_TEMPLATE.as_bytes())
}

/// Prints where settings files are looked for, the strongest first.
fn places() -> Result<()> {
    let Sources { explicit, project, user, env, home: _, state: _, flags: _ } =
        Sources::from_process()?;
    let named = explicit.or_else(|| env.get("OPENBRAIN_CONFIG").map(PathBuf::from));
    let lines = [("named", named), ("project", project), ("user", user)]
        .into_iter()
        .filter_map(|(name, path)| Some((name, path?)))
        .map(|(name, path)| {
            let state = if path.exists() { "present" } else { "absent" };
            format!("{name}\t{state}\t{}\n", path.display())
        });
    print(lines.collect::<String>())
}
