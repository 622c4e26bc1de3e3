//! A command on an OpenSandbox server, and a sandbox there that stays:
//! `OPEN_SANDBOX_API_KEY=… cargo run --example opensandbox -- http://localhost:8080 python:3.12-slim`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use openbrain::{
    Engine, Exec, Settings,
    opensandbox::{AgentEvent, Client, Connection, CreateSandbox, OutputText, RunCommand, Upload},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> openbrain::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "http://localhost:8080".into());
    let image = arguments.next();
    let mut settings = Settings::load()?.settings;
    let sandbox = &mut settings.security.sandbox;
    sandbox.server_url = Some(url);
    if let Some(image) = image {
        sandbox.image = image;
    }
    one_command(settings.clone()).await?;
    a_sandbox_that_stays(&settings).await
}

/// The same call as for an embedded sandbox; only the settings differ.
async fn one_command(settings: Settings) -> openbrain::Result<()> {
    let exec = Exec::new("echo hello; read line; echo \"got $line\"; exit 3").sandbox();
    let exec = exec.stdin_bytes("a line\n").timeout(Duration::from_secs(60));
    let output = Engine::new(settings).run(exec).await?;
    println!("{}status: {:?}", output.stdout_text(), output.status);
    Ok(())
}

/// The client by itself: the sandbox is there until it is deleted, or for two minutes.
async fn a_sandbox_that_stays(settings: &Settings) -> openbrain::Result<()> {
    let sandbox = &settings.security.sandbox;
    let mut connection = Connection::new(sandbox.server_url.as_deref().unwrap_or_default());
    connection.api_key = sandbox.api_key.clone();
    let client = Client::new(connection)?;
    let mut request = CreateSandbox::image(&sandbox.image);
    request.timeout = Some(Duration::from_secs(120));
    let made = client.create(&request).await?;
    let result = use_it(&client, &made.id).await;
    println!("deleted: {}", client.delete(&made.id).await?);
    result
}

async fn use_it(client: &Client, id: &str) -> openbrain::Result<()> {
    let agent = client.agent(id).await?;
    // That a sandbox runs does not mean that its agent answers yet.
    while agent.ping().await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    agent.upload(vec![Upload::bytes("/tmp/greeting", "one\ntwo\n")]).await?;
    let mut events = agent.run(&RunCommand::shell("wc -l < /tmp/greeting")).await?;
    let mut text = OutputText::new(None);
    while let Some(event) = events.next().await? {
        match event {
            AgentEvent::Stdout(piece) => print!("lines: {}", text.push(piece)),
            AgentEvent::Done(completion) => println!("{}{completion:?}", text.finish()),
            _ => {}
        }
    }
    Ok(())
}
