//! A run without the bridge, where the image cannot execute it: one of another architecture, or with
//! a /tmp whose files cannot be executed. The agent itself runs the command then, and its words are all
//! there is: text, whose line ends and bytes an agent may have changed. The result says so.

use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::{mpsc, oneshot},
};

use super::{
    agent::{Agent, CommandStream},
    client::Client,
    failure::Failure,
    files::Upload,
    job::{Job, Source},
    link::{End, explain},
    text::OutputText,
    wire::{AgentEvent, Completion, RunCommand},
};
use crate::{
    backend::{
        Ended,
        helper::wire::{self, Letter, bridge, letter},
    },
    error::{Error, ErrorKind, Result},
    output::{Resources, Status},
    sandbox::WORKSPACE,
    secret::Secret,
    spec::Spec,
};

/// A job that the agent runs itself: the command, and the file that it reads, because a script and its
/// quotes may together be too long for an argument. Or why the agent cannot.
pub(super) fn command(
    spec: &Spec,
    job: &Job,
    directory: &str,
    why: &str,
) -> Result<(RunCommand, Upload)> {
    if spec.tty.is_some() || !matches!(job.source, Source::Nothing) {
        return Err(Error::unavailable(format!(
            "the sandbox cannot run openbrain's helper, which a terminal and live input need: {why}"
        ))
        .with_remedy(
            "the image needs a /tmp whose files can be executed, and this machine's architecture; \
             input that is given as a whole works without",
        ));
    }
    let mut line = String::new();
    if spec.workdir.is_none() {
        line += &format!("mkdir -p {WORKSPACE} 2>/dev/null; cd {WORKSPACE} || exit 1; ");
    }
    if let Some(limit) = spec.limits.open_files {
        line += &format!("ulimit -n {limit}; ");
    }
    if job.has_script {
        line += &format!("exec 3<{directory}/{}; ", bridge::SCRIPT);
    }
    line += "exec";
    for argument in &job.argv {
        line += &format!(" '{}'", argument.replace('\'', r"'\''"));
    }
    if job.has_input {
        line += &format!(" <{directory}/{}", bridge::INPUT);
    }
    let path = format!("{directory}/line");
    let mut command = RunCommand::shell(format!(". {path}"));
    command.cwd = Some(match &spec.workdir {
        Some(workdir) => workdir.to_string_lossy().into_owned(),
        None => "/".into(),
    });
    let secret = |(name, value): (&String, &String)| (name.clone(), Secret::new(value));
    command.env = spec.env.iter().map(secret).collect();
    Ok((command, Upload::bytes(path, line)))
}

/// What the caller should know of such a run.
pub(super) fn warning(why: &str) -> String {
    format!(
        "the sandbox cannot run openbrain's helper ({why}): output is text as the agent sends it, and \
         what the command used is not known"
    )
}

/// What the reader of an agent's own words works with.
pub(super) struct Reader {
    pub(super) client: Client,
    pub(super) sandbox: String,
    pub(super) stream: CommandStream,
    pub(super) stdout: DuplexStream,
    pub(super) stderr: DuplexStream,
    pub(super) end: oneshot::Sender<End>,
}

impl Reader {
    /// Passes on what the command says until it has ended.
    pub(super) async fn read(mut self) {
        let end = match self.pass_on().await {
            Err(error) if error.kind() == ErrorKind::SandboxLost => {
                Err(explain(&self.client, &self.sandbox, error).await)
            }
            end => end,
        };
        let _ = self.end.send(end);
    }

    async fn pass_on(&mut self) -> End {
        let (mut out, mut err) = (OutputText::new(None), OutputText::new(None));
        loop {
            // A reader that is gone wants no more; the command runs on all the same.
            match self.stream.next().await.map_err(Failure::while_running)? {
                Some(AgentEvent::Stdout(text)) => {
                    let _ = self.stdout.write_all(out.push(text).as_bytes()).await;
                }
                Some(AgentEvent::Stderr(text)) => {
                    let _ = self.stderr.write_all(err.push(text).as_bytes()).await;
                }
                Some(AgentEvent::Done(completion)) => {
                    let _ = self.stdout.write_all(out.finish().as_bytes()).await;
                    let _ = self.stderr.write_all(err.finish().as_bytes()).await;
                    return ended(completion, out.lossy() || err.lossy());
                }
                Some(_) => {}
                None => return Err(Error::new(ErrorKind::SandboxLost, "the stream has no end")),
            }
        }
    }
}

fn ended(completion: Completion, lossy: bool) -> End {
    let status = match completion {
        Completion::Exited(code) => Status::Exited(code),
        Completion::Killed { signal } => Status::Signaled(signal.unwrap_or(libc::SIGKILL)),
        Completion::NotStarted { reason } => {
            return Err(Error::unavailable(format!(
                "the agent cannot start the command: {reason}"
            ))
            .with_remedy("check the working directory, and that the image has `sh`"));
        }
    };
    let warnings = match lossy {
        true => vec![
            "bytes of the output may have been lost: the agent sends lines without their ends, or \
             bytes that are no UTF-8"
                .into(),
        ],
        false => Vec::new(),
    };
    Ok(Ended { status, resources: Resources::default(), denials: Vec::new(), warnings })
}

/// Carries out letters as far as an agent can: it ends a command, gently and then by force.
pub(super) async fn obey(agent: Agent, id: String, mut letters: mpsc::Receiver<Letter>) {
    const ENDING: [i32; 5] =
        [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, wire::Order::KILL];
    while let Some(Letter { kind, value }) = letters.recv().await {
        if kind == letter::ORDER && ENDING.contains(&(value as i32)) {
            // One that has ended meanwhile is no failure.
            let _ = agent.interrupt(&id).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Completion, Status, ended};

    #[test]
    fn the_agents_words_become_a_status() {
        let status = |completion| ended(completion, false).map(|ended| ended.status).ok();
        assert_eq!(status(Completion::Exited(7)), Some(Status::Exited(7)));
        let killed = |signal| status(Completion::Killed { signal });
        assert_eq!(killed(Some(15)), Some(Status::Signaled(15)));
        assert_eq!(killed(None), Some(Status::Signaled(9)));
        assert_eq!(status(Completion::NotStarted { reason: "no".into() }), None);
        let warned = |lossy| ended(Completion::Exited(0), lossy).unwrap().warnings.len();
        assert_eq!((warned(false), warned(true)), (0, 1));
    }
}
