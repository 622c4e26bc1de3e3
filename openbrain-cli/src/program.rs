//! What to run, and what it reads: from the words after the flags, a file or standard input.

use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::{self, Path, PathBuf},
};

use openbrain::{Command, Stdin, languages};

use crate::{
    args::{ProgramArgs, SurroundingsArgs},
    failure::{Failure, Result},
};

/// Where the program comes from.
enum Source<'a> {
    Script(&'a str),
    Argv(&'a [String]),
    File(&'a Path),
    Stdin,
}

/// What to run, and what it reads. `None` when no command was given and nothing can be read.
pub(crate) fn find(
    args: &ProgramArgs,
    surroundings: &SurroundingsArgs,
    tty: bool,
) -> Result<Option<(Command, Stdin)>> {
    let Some(source) = source(args) else {
        return Ok(None);
    };
    let stdin = stdin(surroundings, tty, matches!(source, Source::Stdin))?;
    let command = match source {
        Source::Script(script) if args.lang.is_some() => program(args, script.into(), None),
        Source::Script(script) => Command::Shell(script.into()),
        Source::Argv(argv) => argv_without_interpreter(args, argv)?,
        Source::File(file) => program(args, read_file(file)?, file.extension()),
        Source::Stdin => program(args, read_stdin()?, None),
    };
    Ok(Some((command, stdin)))
}

fn source(args: &ProgramArgs) -> Option<Source<'_>> {
    let dash = Path::new("-");
    match (&args.file, args.command.as_slice()) {
        (Some(file), _) if file == dash => Some(Source::Stdin),
        (Some(file), _) => Some(Source::File(file)),
        (None, argv) if args.literal => Some(Source::Argv(argv)),
        (None, [word]) if word == "-" => Some(Source::Stdin),
        (None, [script]) => Some(Source::Script(script)),
        (None, []) if io::stdin().is_terminal() => None,
        (None, []) => Some(Source::Stdin),
        (None, argv) => Some(Source::Argv(argv)),
    }
}

/// Arguments are run as they are; a flag that names an interpreter must be a mistake then.
fn argv_without_interpreter(args: &ProgramArgs, argv: &[String]) -> Result<Command> {
    let flag = match (&args.lang, &args.shell) {
        (Some(_), _) => "--lang",
        (None, Some(_)) => "--shell",
        (None, None) => return Ok(Command::Argv(argv.to_vec())),
    };
    Err(Failure::usage(
        format!("`{flag}` needs one script, and this is a program with arguments"),
        "quote the script as one argument, or leave the flag out",
    ))
}

/// What the command reads: our own standard input, unless the program itself came from there.
fn stdin(args: &SurroundingsArgs, tty: bool, taken: bool) -> Result<Stdin> {
    let ours = if tty { Stdin::Pipe } else { Stdin::Inherit };
    match &args.stdin {
        Some(file) if file == Path::new("-") && taken => Err(Failure::usage(
            "standard input cannot be both the program and its input",
            "give the program with --file, or its input with --stdin FILE",
        )),
        Some(file) if file == Path::new("-") => Ok(ours),
        Some(file) => Ok(Stdin::File(absolute(file)?)),
        None if taken || args.no_stdin => Ok(Stdin::Null),
        None => Ok(ours),
    }
}

/// A program as text. A language that was named wins, then the `#!` line, then the extension.
fn program(args: &ProgramArgs, source: String, extension: Option<&std::ffi::OsStr>) -> Command {
    let by_extension = || {
        let extension = extension?.to_str()?;
        languages().find(|language| *language == extension).map(str::to_owned)
    };
    let language = match &args.lang {
        Some(language) => Some(language.clone()),
        None if source.starts_with("#!") => None,
        None => by_extension(),
    };
    Command::Script { language, source }
}

fn read_file(file: &Path) -> Result<String> {
    fs::read_to_string(file).map_err(|e| {
        Failure::system(format_args!("cannot read the program `{}`", file.display()), e)
    })
}

/// The longest program on standard input; anything above is data by mistake.
const MAX_PROGRAM: u64 = 64 << 20;

fn read_stdin() -> Result<String> {
    let mut source = String::new();
    io::stdin()
        .lock()
        .take(MAX_PROGRAM + 1)
        .read_to_string(&mut source)
        .map_err(|e| Failure::system("cannot read a program from standard input", e))?;
    if source.len() as u64 > MAX_PROGRAM {
        return Err(Failure::usage(
            "the program on standard input is longer than 64 MiB",
            "give the command first, and data on standard input",
        ));
    }
    if source.trim().is_empty() {
        return Err(Failure::usage(
            "no command was given, and standard input has no program",
            "give the command as an argument; `--help` has examples",
        ));
    }
    Ok(source)
}

/// A path as the library wants it, whatever the working directory is later.
///
/// One with `..` is resolved by the file system, because a link before the `..` changes where it
/// leads.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let climbs = path.components().any(|part| part == path::Component::ParentDir);
    let absolute = if climbs { path.canonicalize() } else { path::absolute(path) };
    absolute.map_err(|e| {
        Failure::system(format_args!("cannot resolve the path `{}`", path.display()), e)
    })
}
