use std::time::{Duration, Instant};

use super::super::{
    Agent, AgentEvent, Client, CommandStream, Completion, CreateSandbox, Failure, FailureKind,
    RunCommand,
    script::{Script, Step, agent, answer, chunk},
};

/// What is awaited in a task of its own must be able to change its thread; compiling proves it.
#[test]
fn futures_can_cross_threads() {
    fn check<T: Send>(_: T) {}
    fn all(client: &Client, agent: &Agent, mut stream: CommandStream) {
        check(client.create(&CreateSandbox::default()));
        check(client.delete("a"));
        check(client.agent("a"));
        check(agent.run(&RunCommand::shell("true")));
        check(agent.upload(Vec::new()));
        check(agent.download("/a", None));
        check(stream.next());
        check(stream);
    }
    let _ = all;
}

const INIT: &str = "{\"type\":\"init\",\"text\":\"c1\"}\n\n";
const DONE: &str = "{\"type\":\"execution_complete\"}\n\n";

/// Runs a command whose stream is `steps`.
async fn run(steps: Vec<Step>) -> Result<Vec<AgentEvent>, Failure> {
    let (_script, agent) = agent(vec![steps]).await;
    let mut stream = agent.run(&RunCommand::shell("true")).await?;
    all(&mut stream).await
}

async fn all(stream: &mut CommandStream) -> Result<Vec<AgentEvent>, Failure> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await? {
        events.push(event);
    }
    Ok(events)
}

fn init() -> AgentEvent {
    AgentEvent::Init { id: "c1".to_owned() }
}

fn done() -> AgentEvent {
    AgentEvent::Done(Completion::Exited(0))
}

#[tokio::test]
async fn the_result_is_there_before_the_end_of_the_stream() {
    let begin = Instant::now();
    let events = run(vec![Step::Send(chunk(&(INIT.to_owned() + DONE))), Step::Hang]).await;
    assert_eq!(events.unwrap(), [init(), done()]);
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn an_unclean_end_after_the_result_is_fine() {
    let events = run(vec![Step::Send(chunk(&(INIT.to_owned() + DONE)))]).await;
    assert_eq!(events.unwrap(), [init(), done()]);
    let unfinished = INIT.to_owned() + DONE.trim_end();
    assert_eq!(run(vec![Step::Send(chunk(&unfinished))]).await.unwrap(), [init(), done()]);
}

#[tokio::test]
async fn an_end_before_the_result_is_an_error() {
    let clean = [chunk(INIT), b"0\r\n\r\n".to_vec()].concat();
    let inside = chunk(&(INIT.to_owned() + "{\"type\":\"std"));
    for (bytes, words) in [(clean, "closed"), (chunk(INIT), ""), (inside, "12 bytes into")] {
        let failure = run(vec![Step::Send(bytes)]).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Cut);
        assert!(failure.to_string().contains(words), "{failure}");
    }
}

#[tokio::test]
async fn silence_is_an_error_and_slowness_is_not() {
    let failure = run(vec![Step::Send(chunk(INIT)), Step::Hang]).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Stalled);
    let pause = Step::Pause(Duration::from_millis(120));
    let mut steps = vec![Step::Send(chunk(INIT))];
    for byte in DONE.bytes().take(4) {
        steps.extend([pause.clone(), Step::Send(vec![b'1', b'\r', b'\n', byte, b'\r', b'\n'])]);
    }
    let rest = &DONE[4..];
    steps.push(Step::Send(format!("{:x}\r\n{rest}\r\n", rest.len()).into_bytes()));
    assert_eq!(run(steps).await.unwrap(), [init(), done()]);
}

#[tokio::test]
async fn garbage_is_quoted() {
    let failure = run(vec![Step::Send(chunk("<html>busy\n\n"))]).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Surprise);
    assert!(failure.to_string().contains("<html>busy"), "{failure}");
}

#[tokio::test]
async fn a_refused_command_is_an_error_at_once() {
    let body = r#"{"code":"INVALID_REQUEST_BODY","message":"no such directory"}"#;
    let failure = run(vec![Step::Send(answer("400 No", body))]).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::InvalidRequest);
    assert_eq!(failure.server_code(), Some("INVALID_REQUEST_BODY"));
}

#[tokio::test]
async fn the_key_stays_away_from_the_agent() {
    let (script, agent) = agent(vec![vec![Step::Send(answer("200 OK", ""))]]).await;
    agent.ping().await.unwrap();
    let request = script.requests().remove(0);
    assert!(request.starts_with("GET /proxy/44772/ping HTTP/1.1"), "{request}");
    assert!(request.contains("x-token: t0ken"), "{request}");
    assert!(!request.contains("hunter2"), "{request}");
}

#[tokio::test]
async fn through_the_server_the_key_goes_along() {
    let script = Script::knowing_itself(|address| {
        let body = format!(r#"{{"endpoint":"{address}/v1/sandboxes/a/proxy/44772"}}"#);
        let replies = [answer("200 OK", &body), answer("200 OK", "")];
        replies.map(|bytes| vec![Step::Send(bytes)]).to_vec()
    })
    .await;
    let mut connection = script.connection();
    connection.use_server_proxy = true;
    let agent = Client::new(connection).unwrap().agent("a").await.unwrap();
    agent.ping().await.unwrap();
    let requests = script.requests();
    assert!(requests[0].contains("/endpoints/44772?use_server_proxy=true "), "{}", requests[0]);
    assert!(requests[1].starts_with("GET /v1/sandboxes/a/proxy/44772/ping "), "{}", requests[1]);
    assert!(requests[1].contains("hunter2"));
}

#[tokio::test]
async fn background_commands_are_followed_by_their_id() {
    let status = r#"{"id":"c1","running":false,"exit_code":3,"finished_at":null}"#;
    let replies = vec![
        vec![Step::Send(chunk(&(INIT.to_owned() + DONE)))],
        vec![Step::Send(answer("200 OK", status))],
        vec![Step::Send(answer("200 OK\r\nEXECD-COMMANDS-TAIL-CURSOR: 7", "abc\n"))],
        vec![Step::Send(answer("200 OK", ""))],
        vec![Step::Send(answer("500 No", r#"{"code":"RUNTIME_ERROR","message":"no"}"#))],
        vec![Step::Send(answer("200 OK", status))],
    ];
    let (script, agent) = agent(replies).await;
    let id = agent.start_background(&RunCommand::shell("make")).await.unwrap();
    let status = agent.status(&id).await.unwrap();
    assert_eq!((status.running, status.exit_code), (false, Some(3)));
    let page = agent.logs(&id, 3).await.unwrap();
    assert_eq!((&page.bytes[..], page.cursor), (&b"abc\n"[..], Some(7)));
    assert!(agent.interrupt(&id).await.unwrap());
    assert!(!agent.interrupt(&id).await.unwrap());
    let requests = script.requests();
    assert!(requests[0].ends_with(r#"{"command":"make","background":true}"#), "{}", requests[0]);
    assert!(requests[2].starts_with("GET /proxy/44772/command/c1/logs?cursor=3 "));
    assert!(requests[3].starts_with("DELETE /proxy/44772/command?id=c1 "));
}
