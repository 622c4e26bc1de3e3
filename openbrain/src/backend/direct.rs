//! Commands on the host: trusted, with no isolation, but with the same guard.

use std::{ffi::OsString, sync::Arc};

use super::{
    Backend, BoxFuture, Running,
    helper::{self, CommandPlan, Descriptors, Guarded, Prepared, Program, wire},
};
use crate::{
    error::{Error, Result},
    output::BackendName,
    sandbox::Isolation,
    spec::Spec,
};

/// A variable and its value.
type Variable = (OsString, OsString);

/// The host itself.
#[derive(Clone, Debug)]
pub(crate) struct Direct {
    /// What commands inherit in place of the environment of this process.
    pub(crate) environment: Option<Arc<[Variable]>>,
}

impl Backend for Direct {
    fn spawn<'a>(&'a self, spec: &'a Spec) -> BoxFuture<'a, Result<Running>> {
        Box::pin(spawn(spec, self.environment.as_deref()))
    }
}

async fn spawn(spec: &Spec, inherited: Option<&[Variable]>) -> Result<Running> {
    let mut command = Prepared::on_host(spec)?;
    let program = compile(spec, inherited, &command)?;
    let link = helper::launch(&program, &command.fds())?;
    let (streams, _) = command.started(&link, &program).await.map_err(|failure| {
        let machine = |what, e| Error::system(format!("cannot {what}"), e);
        failure.into_error(&command.argv()[0], machine)
    })?;
    Ok(Running {
        backend: BackendName::Direct,
        sandbox_id: None,
        start: None,
        isolation: Isolation::none(),
        warnings: Vec::new(),
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr,
        changes: None,
        control: Box::new(Guarded::new(link, streams.terminal)),
    })
}

fn compile(spec: &Spec, inherited: Option<&[Variable]>, command: &Prepared) -> Result<Program> {
    let nofile = spec.limits.open_files.map(|limit| (libc::RLIMIT_NOFILE, limit));
    let plan = CommandPlan {
        env: environment(spec, inherited),
        descriptors: Descriptors::From(wire::FIRST_FD),
        terminal: spec.tty.is_some(),
        workdir: spec.workdir.as_deref(),
        rlimits: nofile.into_iter().collect(),
    };
    plan.guarded(Program::default(), command.has_file(), |program| {
        plan.execute(program, command.argv())
    })
}

/// Our own environment as far as the command may see it, with what the request sets. It is no
/// setting: it belongs to the command, and nothing here looks at the values.
fn environment(spec: &Spec, inherited: Option<&[Variable]>) -> Vec<Variable> {
    let mut env = inherited.map_or_else(|| std::env::vars_os().collect(), <[_]>::to_vec);
    env.retain(|(name, _)| spec.inherit_env.admits(name));
    env.retain(|(name, _)| name.to_str().is_none_or(|name| !spec.env.contains_key(name)));
    env.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
    env
}
