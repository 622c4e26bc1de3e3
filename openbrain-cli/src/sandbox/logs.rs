//! `openbrain sandbox logs`: what a command in the background writes.

use std::io::{self, Write};

use openbrain::{BackgroundCommand, LogOffsets, LogPart, Status};

use super::{args::LogsArgs, join};
use crate::{
    console::{one_line, print, print_json, table},
    exit,
    failure::{Failure, Result},
    moment::rfc3339,
};

const TITLES: [&str; 4] = ["EXEC", "STARTED", "STATUS", "COMMAND"];

/// How much of a command has room in a line.
const COMMAND: usize = 80;

/// Runs `openbrain sandbox logs` and returns the exit code.
pub(super) async fn run(args: LogsArgs) -> Result<u8> {
    let joined = join(&args.settings, &args.sandbox).await?;
    let commands = joined.commands().await?;
    if args.list {
        match args.json {
            true => print_json(&commands)?,
            false => print(table(TITLES, commands.iter().map(row)))?,
        }
        return Ok(exit::SUCCESS);
    }
    let exec_id = match (args.exec, commands.last()) {
        (Some(exec_id), _) => exec_id,
        (None, Some(last)) => last.exec_id.clone(),
        (None, None) => {
            return Err(Failure::usage(
                format!("no command runs in the background of `{}`", args.sandbox),
                "start one: `openbrain sandbox exec --detach SANDBOX COMMAND`",
            ));
        }
    };
    let mut at = LogOffsets { stdout: args.stdout_from, stderr: args.stderr_from };
    // Unless they are followed, the logs are what there was at first: a command may write faster than
    // somebody reads.
    let mut until = None;
    loop {
        let logs = match args.follow {
            true => joined.next_logs(&exec_id, at).await?,
            false => joined.logs(&exec_id, at).await?,
        };
        print(shown(&logs.stdout, at.stdout))?;
        io::stderr().write_all(&shown(&logs.stderr, at.stderr)).map_err(Failure::output)?;
        at = logs.next();
        let totals = LogOffsets { stdout: logs.stdout.total, stderr: logs.stderr.total };
        let until = until.get_or_insert(totals);
        let is_all = !args.follow && at.stdout >= until.stdout && at.stderr >= until.stderr;
        if logs.ended || is_all {
            return Ok(exit::SUCCESS);
        }
    }
}

/// What comes after an offset, with a line in place of what is not remembered, as results have it.
fn shown(part: &LogPart, from: u64) -> Vec<u8> {
    let mut bytes = match part.offset.saturating_sub(from) {
        0 => Vec::new(),
        missing => format!("\n[openbrain: {missing} bytes omitted]\n").into_bytes(),
    };
    bytes.extend_from_slice(&part.data.bytes());
    bytes
}

fn row(command: &BackgroundCommand) -> [String; 4] {
    let BackgroundCommand { exec_id, command, started_at, status, error } = command;
    let status = match (status, error) {
        (Some(Status::Exited(code)), _) => format!("exited {code}"),
        (Some(Status::Signaled(signal)), _) => format!("signal {signal}"),
        (Some(Status::TimedOut), _) => "timed out".to_owned(),
        (Some(Status::Cancelled), _) => "cancelled".to_owned(),
        (None, Some(_)) => "unknown".to_owned(),
        (None, None) => "running".to_owned(),
    };
    [exec_id.clone(), rfc3339(*started_at), status, one_line(command, COMMAND)]
}
