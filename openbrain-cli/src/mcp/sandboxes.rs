//! `create_sandbox`, `end_sandbox`, and the tools for the files of a sandbox.

use std::sync::Arc;

use openbrain::{NewSandbox, WriteOptions};
use rmcp::model::JsonObject;
use tokio::time::sleep;

use super::{
    arguments::{EndSandbox, ListFiles, ReadFile, WriteFile, parse},
    call::Call,
    command::{given_up, refused},
    failure::Failure,
    sandbox_report::{self, Part, SandboxAnswer},
    sandbox_tools::{CREATE_SANDBOX, END_SANDBOX, LIST_FILES, READ_FILE, WRITE_FILE},
    server::Server,
    text::{page, room},
};
use crate::service::OpenSandbox;

/// The most bytes of a file in one answer: what is no text is a third longer in base64.
const PAGE: u64 = 20_000;

/// The most files in one answer.
const FILES: usize = 500;

impl Server {
    /// Calls a tool for sandboxes; `None` when it has another name.
    pub(super) async fn sandbox_tool(
        &self,
        name: &str,
        arguments: Option<JsonObject>,
        call: &Call,
    ) -> Option<Result<SandboxAnswer, Failure>> {
        Some(match name {
            CREATE_SANDBOX => self.create_sandbox(arguments, call).await,
            END_SANDBOX => self.end_sandbox(arguments).await,
            READ_FILE => self.read_file(arguments, call).await,
            WRITE_FILE => self.write_file(arguments, call).await,
            LIST_FILES => self.list_files(arguments, call).await,
            _ => return None,
        })
    }

    async fn create_sandbox(
        &self,
        arguments: Option<JsonObject>,
        call: &Call,
    ) -> Result<SandboxAnswer, Failure> {
        let new: NewSandbox = parse(self.input_schema(CREATE_SANDBOX), arguments)?;
        let open = self.patiently(call, async {
            let created = self.service().create_sandbox(new, call.caller()).await;
            created.map_err(|refusal| refused(&refusal))
        });
        let open = open.await?;
        if let Some(session) = &call.session {
            session.own_sandbox(&open);
        }
        Ok(sandbox_report::open(&open))
    }

    async fn end_sandbox(&self, arguments: Option<JsonObject>) -> Result<SandboxAnswer, Failure> {
        let EndSandbox { sandbox_id } = parse(self.input_schema(END_SANDBOX), arguments)?;
        let open = self.find_sandbox(&sandbox_id)?;
        match open.end_in_time().await {
            Ok(true) => Ok(sandbox_report::ended(&sandbox_id)),
            Ok(false) => Err(Failure::exhausted("the sandbox is being ended, which takes long")),
            Err(error) => Err(Failure::from(error.as_ref())),
        }
    }

    async fn read_file(
        &self,
        arguments: Option<JsonObject>,
        call: &Call,
    ) -> Result<SandboxAnswer, Failure> {
        let ReadFile { sandbox_id, path, offset, max_bytes } =
            parse(self.input_schema(READ_FILE), arguments)?;
        let open = self.find_sandbox(&sandbox_id)?;
        let (offset, most) = (offset.unwrap_or(0), max_bytes.unwrap_or(PAGE).clamp(4, PAGE));
        let read = self.work(call, async {
            let mut reader = open.sandbox().files().reader(&path, offset).await?;
            let mut bytes = Vec::new();
            while bytes.len() as u64 <= most {
                let Some(piece) = reader.next().await? else { break };
                bytes.extend(piece);
            }
            Ok(bytes)
        });
        let mut bytes = read.await?;
        let room = room(&bytes, PAGE).min(most as usize);
        let goes_on = bytes.len() > room;
        if goes_on {
            bytes.truncate(room);
            bytes = page(bytes);
        }
        Ok(sandbox_report::read(&sandbox_id, Part { path, offset, bytes, goes_on }))
    }

    async fn write_file(
        &self,
        arguments: Option<JsonObject>,
        call: &Call,
    ) -> Result<SandboxAnswer, Failure> {
        let WriteFile { sandbox_id, path, content, append, executable } =
            parse(self.input_schema(WRITE_FILE), arguments)?;
        let open = self.find_sandbox(&sandbox_id)?;
        let options = WriteOptions { append, mode: executable.then_some(0o755) };
        let written = self.work(call, async {
            let mut writer = open.sandbox().files().writer(&path, options).await?;
            writer.write(content.as_bytes()).await?;
            writer.finish().await
        });
        written.await?;
        Ok(sandbox_report::written(&sandbox_id, path, content.len() as u64))
    }

    async fn list_files(
        &self,
        arguments: Option<JsonObject>,
        call: &Call,
    ) -> Result<SandboxAnswer, Failure> {
        let ListFiles { sandbox_id, path, pattern } =
            parse(self.input_schema(LIST_FILES), arguments)?;
        let open = self.find_sandbox(&sandbox_id)?;
        let path = path.unwrap_or_else(|| ".".to_owned());
        let files = open.sandbox().files();
        let found = self.work(call, files.find(&path, pattern.as_deref(), FILES)).await?;
        Ok(sandbox_report::listed(&sandbox_id, path, found.entries, found.truncated))
    }

    /// The open sandbox of this name.
    pub(super) fn find_sandbox(&self, id: &str) -> Result<Arc<OpenSandbox>, Failure> {
        self.service().find_sandbox(id).ok_or_else(|| Failure {
            code: "not_found".into(),
            message: format!("there is no open sandbox `{id}`"),
            retryable: false,
            remedy: Some(
                "it has ended, with its `timeout` or before; open another one with create_sandbox"
                    .into(),
            ),
        })
    }

    /// Works on files, which is a command as any other and waits for a place as they do.
    async fn work<T>(
        &self,
        call: &Call,
        work: impl Future<Output = openbrain::Result<T>>,
    ) -> Result<T, Failure> {
        self.patiently(call, async {
            let _place = self.service().enter().await.map_err(|refusal| refused(&refusal))?;
            work.await.map_err(|error| Failure::from(&error))
        })
        .await
    }

    /// Does something as long as the client waits for it.
    async fn patiently<T>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            () = call.abandoned() => Err(given_up()),
            () = sleep(self.service().settings().server.yield_after) => {
                Err(Failure::exhausted("it took longer than a client waits")
                    .with_remedy("the server or the sandbox is busy; the key is `server.yield_seconds`"))
            }
        }
    }
}
