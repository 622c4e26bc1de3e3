//! Programs given as text: which interpreter runs them, and how they reach it.

use crate::{
    error::{Error, Result},
    units::nearest,
};

/// The shell of a request that names none.
pub(crate) const SHELL: &str = "/bin/sh";

/// The longest text passed as one argument. The kernel's own limit is 128 KiB with the final NUL
/// (`MAX_ARG_STRLEN`, `execve(2)`); a longer program travels as a file.
const MAX_ARGUMENT: usize = 127 * 1024;

/// The language of a program on stdin that says nothing else.
const DEFAULT_LANGUAGE: &str = "python";

/// What to execute: an argument list, and the content of the file it refers to, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) argv: Vec<String>,
    pub(crate) file: Option<Vec<u8>>,
}

/// An interpreter: `inline` makes it run its next argument, `loader` is a program that runs the
/// file `{path}` with the same meaning as an inline one.
struct Interpreter {
    names: &'static [&'static str],
    program: &'static str,
    inline: &'static str,
    loader: &'static str,
}

const INTERPRETERS: [Interpreter; 7] = [
    Interpreter {
        names: &["python", "python3", "py"],
        program: "python3",
        inline: "-c",
        loader: "exec(compile(open('{path}','rb').read(),'<string>','exec'))",
    },
    Interpreter { names: &["sh", "shell"], program: "/bin/sh", inline: "-c", loader: ". {path}" },
    Interpreter { names: &["bash"], program: "bash", inline: "-c", loader: ". {path}" },
    Interpreter {
        names: &["node", "javascript", "js"],
        program: "node",
        inline: "-e",
        loader: "eval(require('fs').readFileSync('{path}','utf8'))",
    },
    Interpreter {
        names: &["ruby", "rb"],
        program: "ruby",
        inline: "-e",
        loader: "eval(File.read('{path}'))",
    },
    Interpreter {
        names: &["perl", "pl"],
        program: "perl",
        inline: "-e",
        loader: "open(F,'{path}');local $/;eval <F>;die $@ if $@",
    },
    Interpreter {
        names: &["php"],
        program: "php",
        inline: "-r",
        loader: "eval(file_get_contents('{path}'));",
    },
];

/// The languages that a [`Command::Script`](crate::Command::Script) may name.
pub fn languages() -> impl Iterator<Item = &'static str> {
    INTERPRETERS.iter().flat_map(|i| i.names.iter().copied())
}

/// A shell script: `shell -c source`, or by file when it is too long for an argument.
pub(crate) fn shell(shell: &str, source: &str, path: &str) -> Program {
    by_argument(shell, "-c", ". {path}", source, path)
}

/// A program in `language`; without one its `#!` line decides, and Python without that.
pub(crate) fn program(language: Option<&str>, source: &str, path: &str) -> Result<Program> {
    if let (None, Some(line)) = (language, shebang(source)) {
        return Ok(by_shebang(line, source, path));
    }
    let name = language.unwrap_or(DEFAULT_LANGUAGE);
    let Some(found) = by_name(name) else {
        let hint = nearest(name, languages()).unwrap_or("python");
        return Err(Error::invalid(format!("`{name}` is not a known language"))
            .with_remedy(format!("did you mean `{hint}`? or start the program with a `#!` line")));
    };
    Ok(by_argument(found.program, found.inline, found.loader, source, path))
}

fn by_name(name: &str) -> Option<&'static Interpreter> {
    let name = name.to_ascii_lowercase();
    INTERPRETERS.iter().find(|i| i.names.contains(&name.as_str()))
}

fn by_argument(program: &str, inline: &str, loader: &str, source: &str, path: &str) -> Program {
    let argv = |text: String| vec![program.to_owned(), inline.to_owned(), text];
    if source.len() < MAX_ARGUMENT {
        return Program { argv: argv(source.to_owned()), file: None };
    }
    Program { argv: argv(loader.replace("{path}", path)), file: Some(source.into()) }
}

/// The rest of the first line of a program that starts with `#!`.
fn shebang(source: &str) -> Option<&str> {
    source.strip_prefix("#!")?.lines().next().map(str::trim).filter(|line| !line.is_empty())
}

/// Runs a program by its `#!` line. A plain `env` or path of a known interpreter is run as that
/// language is; anything else gets the file, as the kernel would do.
fn by_shebang(line: &str, source: &str, path: &str) -> Program {
    let words: Vec<&str> = line.split_whitespace().collect();
    let named = match words.as_slice() {
        ["/usr/bin/env", name] | [name] => Some(name.rsplit('/').next().unwrap_or(name)),
        _ => None,
    };
    if let Some(found) = named.and_then(by_name) {
        let program = if words.len() == 1 { words[0] } else { found.program };
        return by_argument(program, found.inline, found.loader, source, path);
    }
    let (program, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let mut argv = vec![program.to_owned()];
    if !argument.trim().is_empty() {
        argv.push(argument.trim().to_owned());
    }
    argv.push(path.to_owned());
    Program { argv, file: Some(source.into()) }
}

#[cfg(test)]
mod tests {
    use super::{MAX_ARGUMENT, program, shell};

    fn argv(language: Option<&str>, source: &str) -> Vec<String> {
        program(language, source, "/f").unwrap().argv
    }

    #[test]
    fn a_program_without_language_is_python() {
        assert_eq!(argv(None, "print(1)"), ["python3", "-c", "print(1)"]);
    }

    #[test]
    fn a_shebang_decides() {
        assert_eq!(argv(None, "#!/bin/bash\nls")[..2], ["/bin/bash", "-c"]);
        assert_eq!(argv(None, "#!/usr/bin/env node\n1")[..2], ["node", "-e"]);
        assert_eq!(argv(None, "#!/usr/bin/awk -f\n{}"), ["/usr/bin/awk", "-f", "/f"]);
    }

    #[test]
    fn a_named_language_wins_over_the_shebang() {
        assert_eq!(argv(Some("sh"), "#!/usr/bin/python3\n")[0], "/bin/sh");
    }

    #[test]
    fn a_long_program_travels_as_a_file() {
        let source = "#".repeat(MAX_ARGUMENT);
        let program = shell("/bin/sh", &source, "/f");
        assert_eq!(program.argv, ["/bin/sh", "-c", ". /f"]);
        assert_eq!(program.file.unwrap().len(), MAX_ARGUMENT);
    }

    #[test]
    fn an_unknown_language_names_the_nearest() {
        let error = program(Some("pyton"), "", "/f").unwrap_err();
        assert!(error.remedy().unwrap().contains("`python`"), "{error:?}");
    }
}
