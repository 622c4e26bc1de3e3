//! Environment variables from flags and files.

use std::{collections::BTreeMap, convert::Infallible, env, fs, path::Path, str::FromStr};

use crate::failure::{Failure, Result};

/// The value of `--env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    /// `NAME=VALUE`.
    Set(String, String),
    /// `NAME`: the value that it has here.
    Copy(String),
}

impl FromStr for Variable {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once('=') {
            Some((name, value)) => Self::Set(name.into(), value.into()),
            None => Self::Copy(text.into()),
        })
    }
}

/// The variables of all files and flags; flags win over files, later ones over earlier ones.
pub(crate) fn collect(
    files: &[impl AsRef<Path>],
    flags: &[Variable],
) -> Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for file in files {
        read(file.as_ref(), &mut variables)?;
    }
    for flag in flags {
        let (name, value) = match flag {
            Variable::Set(name, value) => (name, value.clone()),
            Variable::Copy(name) => (name, copied(name)?),
        };
        variables.insert(name.clone(), value);
    }
    Ok(variables)
}

fn copied(name: &str) -> Result<String> {
    env::var(name).map_err(|e| match e {
        env::VarError::NotPresent => Failure::usage(
            format!("environment variable `{name}` is not set here"),
            format!("write `--env {name}=VALUE`"),
        ),
        env::VarError::NotUnicode(_) => Failure::usage(
            format!("environment variable `{name}` is not valid UTF-8"),
            "pass such data in a file or on standard input",
        ),
    })
}

/// Reads `NAME=VALUE` lines. The value is everything up to the end of the line, without quoting;
/// empty lines and lines that start with `#` say nothing.
fn read(file: &Path, variables: &mut BTreeMap<String, String>) -> Result<()> {
    let text = fs::read_to_string(file)
        .map_err(|e| Failure::system(format_args!("cannot read `{}`", file.display()), e))?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    for (line, number) in lines.filter(|(line, _)| !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Failure::usage(
                format!("`{}` line {number} is not NAME=VALUE", file.display()),
                "write one variable on each line, without `export`; `#` starts a comment",
            ));
        }
        variables.insert(name.into(), value.into());
    }
    Ok(())
}
