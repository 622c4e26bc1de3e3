use std::{
    collections::BTreeMap,
    io::Write,
    net::TcpListener,
    time::{Duration, Instant, SystemTime},
};

use super::{
    super::{
        Client, Connection, CreateSandbox, DiagnosticsKind, Failure, FailureKind, ListFilter,
        NetworkPolicy, NetworkRule, RuleAction, SandboxState,
        script::{Script, Step, answer},
    },
    base,
};
use crate::{Error, ErrorKind};

const SANDBOX: &str = r#"{"id":"a","status":{"state":"Running"}}"#;

fn connection(url: &str) -> Connection {
    let mut connection = Connection::new(url);
    connection.request_timeout = Duration::from_millis(500);
    connection
}

async fn refusal(status: &str, body: &str) -> Failure {
    let script = Script::of(&[(status, body)]).await;
    script.client().create(&CreateSandbox::image("img:1")).await.unwrap_err()
}

#[test]
fn addresses_are_taken_as_people_write_them() {
    for (given, expected) in [
        ("http://h:8080", "http://h:8080/"),
        ("http://h:8080/", "http://h:8080/"),
        ("http://h:8080/v1", "http://h:8080/"),
        (" https://h/sandbox/v1/ ", "https://h/sandbox"),
        ("localhost:8080", "http://localhost:8080/"),
        ("h", "http://h/"),
        ("http://h?x=1#y", "http://h/"),
    ] {
        assert_eq!(base(given).unwrap().as_str(), expected, "{given}");
    }
    for given in ["", "ftp://h", "http://me:hunter2@h", "http://", "http://h:99999"] {
        let failure = base(given).expect_err(given);
        assert_eq!(failure.kind(), FailureKind::InvalidConnection);
        assert!(!failure.to_string().contains("hunter2"));
    }
}

#[tokio::test]
async fn requests_carry_what_the_server_wants() {
    let script = Script::of(&[("202 Accepted", SANDBOX)]).await;
    let sandbox = script.client().create(&CreateSandbox::image("img:1")).await.unwrap();
    assert_eq!(sandbox.status.state, SandboxState::Running);
    let request = script.requests().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/sandboxes HTTP/1.1"), "{head}");
    for header in ["open-sandbox-api-key: hunter2", "x-request-id: ", "user-agent: openbrain/"] {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    let image = &serde_json::from_str::<serde_json::Value>(body).unwrap()["image"];
    assert_eq!(*image, serde_json::json!({"uri": "img:1"}));
}

#[tokio::test]
async fn refusals_are_told_apart() {
    use FailureKind as F;
    for (status, body, expected) in [
        ("401 No", r#"{"code":"MISSING_API_KEY","message":"m"}"#, F::KeyMissing),
        ("401 No", r#"{"code":"INVALID_API_KEY","message":"m"}"#, F::KeyWrong),
        (
            "500 No",
            r#"{"code":"DOCKER::SANDBOX_IMAGE_PULL_FAILED","message":"Failed to pull image"}"#,
            F::ImageUnavailable,
        ),
        (
            "500 No",
            r#"{"code":"DOCKER::SANDBOX_IMAGE_PULL_FAILED","message":"('Connection aborted.', FileNotFoundError(2))"}"#,
            F::RuntimeDown,
        ),
        ("503 No", r#"{"code":"DOCKER::INITIALIZATION_ERROR","message":"m"}"#, F::RuntimeDown),
        ("400 No", r#"{"code":"VOLUME::HOST_PATH_NOT_ALLOWED","message":"m"}"#, F::HostPathRefused),
        (
            "400 No",
            r#"{"code":"SANDBOX::INVALID_PARAMETER","message":"egress.image must be configured when networkPolicy is provided."}"#,
            F::EgressMissing,
        ),
        (
            "400 No",
            r#"{"code":"SANDBOX::INVALID_PARAMETER","message":"networkPolicy is not supported when docker network_mode=host."}"#,
            F::PolicyRefused,
        ),
        (
            "400 No",
            r#"{"code":"SANDBOX::INVALID_PARAMETER","message":"timeout"}"#,
            F::InvalidRequest,
        ),
        ("403 No", r#"{"code":"KUBERNETES::QUOTA_EXCEEDED","message":"m"}"#, F::Exhausted),
        ("429 No", "slow down", F::Exhausted),
        ("404 No", r#"{"code":"DOCKER::SANDBOX_NOT_FOUND","message":"m"}"#, F::NotFound),
        ("404 No", r#"{"code":"KUBERNETES::POD_IP_NOT_AVAILABLE","message":"m"}"#, F::NotReady),
        ("409 No", r#"{"code":"DOCKER::SANDBOX_NOT_RUNNING","message":"m"}"#, F::WrongState),
        ("501 No", r#"{"code":"FSB::API_NOT_SUPPORTED","message":"m"}"#, F::NotSupported),
        (
            "422 No",
            r#"{"detail":[{"loc":["body","timeout"],"msg":"too small"}]}"#,
            F::InvalidRequest,
        ),
        ("404 No", r#"{"detail":"Not Found"}"#, F::NotOpenSandbox),
        ("405 No", "<html>nginx</html>", F::NotOpenSandbox),
        ("500 No", "Internal Server Error", F::ServerFailed),
        ("502 No", r#"{"code":"BACKEND_CONNECTION_FAILED","message":"m"}"#, F::SandboxUnreachable),
        ("502 No", "", F::ServerFailed),
        ("418 No", "teapot", F::Surprise),
    ] {
        let failure = refusal(status, body).await;
        assert_eq!(failure.kind(), expected, "{body}: {failure}");
        assert!(failure.request_id().is_some_and(|id| failure.to_string().contains(id)));
    }
}

#[tokio::test]
async fn a_server_without_its_engine_is_recognised() {
    let bare = ("500 No", "Internal Server Error");
    let script = Script::of(&[bare, bare]).await;
    let failure = script.client().create(&CreateSandbox::image("x")).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::RuntimeDown);
    assert!(failure.remedy().unwrap().contains("start Docker"));
    let script = Script::of(&[bare, ("200 OK", r#"{"items":[]}"#)]).await;
    let failure = script.client().create(&CreateSandbox::image("x")).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::ServerFailed);
}

#[tokio::test]
async fn errors_say_what_and_what_to_do() {
    let body = r#"{"code":"DOCKER::SANDBOX_IMAGE_PULL_FAILED","message":"denied"}"#;
    let error = Error::from(refusal("500 No", body).await);
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::SandboxUnavailable);
    for part in ["create a sandbox", "image `img:1`: denied", "DOCKER::SANDBOX_IMAGE_PULL_FAILED"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let body = r#"{"code":"INVALID_API_KEY","message":"no"}"#;
    let error = Error::from(refusal("401 No", body).await);
    assert_eq!(error.kind(), ErrorKind::InvalidSettings);
    let remedy = error.remedy().unwrap();
    assert!(remedy.contains("OPEN_SANDBOX_API_KEY") && remedy.contains("security.sandbox.api_key"));
    let body = r#"{"code":"VOLUME::HOST_PATH_NOT_ALLOWED","message":"no"}"#;
    let error = Error::from(refusal("400 No", body).await);
    assert_eq!(error.kind(), ErrorKind::PolicyDenied);
    assert!(error.remedy().unwrap().contains("allowed_host_paths"));
    let error = Error::from(refusal("429 No", "{}").await);
    assert!(error.retryable());
    let error = refusal("500 No", "Internal Server Error").await.while_running();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::SandboxLost, false));
}

#[tokio::test]
async fn an_echoed_key_is_not_shown() {
    for (status, body) in [
        ("401 No", r#"{"code":"INVALID_API_KEY","message":"not hunter2"}"#),
        ("500 No", "hunter2"),
        ("200 OK", "<html>open-sandbox-api-key: hunter2</html>"),
        ("302 No\r\nLocation: http://x/?key=hunter2", ""),
    ] {
        let failure = refusal(status, body).await;
        let shown = format!("{failure} {failure:?} {:?}", Error::from(refusal(status, body).await));
        assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
    }
    let shown = format!("{:?}", Script::of(&[]).await.connection());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn what_may_be_sent_again_is_sent_again() {
    let script = Script::of(&[
        ("503 No\r\nRetry-After: 0", ""),
        ("429 No", "{}"),
        ("502 No", ""),
        ("200 OK", SANDBOX),
    ])
    .await;
    script.client().get("a").await.unwrap();
    let ids: Vec<String> = script
        .requests()
        .iter()
        .filter_map(|head| Some(head.split_once("x-request-id: ")?.1[..32].to_owned()))
        .collect();
    assert_eq!(ids.len(), 4);
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[tokio::test]
async fn what_may_not_be_sent_again_is_not() {
    let script = Script::of(&[("503 No", ""), ("202 Accepted", SANDBOX)]).await;
    let failure = script.client().create(&CreateSandbox::image("x")).await.unwrap_err();
    assert_eq!((failure.status(), script.requests().len()), (Some(503), 1));
    // A connection that broke may have brought the request.
    let script = Script::new(vec![vec![], vec![Step::Send(answer("200 OK", SANDBOX))]]).await;
    let failure = script.client().create(&CreateSandbox::image("x")).await.unwrap_err();
    assert_eq!((failure.kind(), script.requests().len()), (FailureKind::Lost, 1));
}

#[tokio::test]
async fn a_long_retry_after_is_not_waited_for() {
    let script = Script::of(&[("503 No\r\nRetry-After: 3600", ""), ("200 OK", SANDBOX)]).await;
    let failure = script.client().get("a").await.unwrap_err();
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!(script.requests().len(), 1);
}

#[tokio::test]
async fn a_cut_answer_is_asked_for_again_and_then_lost() {
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec();
    let broken = vec![Step::Send(cut)];
    let whole = vec![Step::Send(answer("200 OK", SANDBOX))];
    let script = Script::new(vec![broken.clone(), whole]).await;
    script.client().get("a").await.unwrap();
    let script = Script::new(vec![broken; 4]).await;
    let failure = script.client().get("a").await.unwrap_err();
    assert_eq!((failure.kind(), script.requests().len()), (FailureKind::Lost, 4));
}

#[tokio::test]
async fn a_huge_answer_is_not_read_to_its_end() {
    let huge = "x".repeat(17 << 20);
    let script = Script::of(&[("200 OK", &huge)]).await;
    let failure = script.client().get("a").await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Surprise);
    assert!(failure.to_string().len() < 1000);
    let long = format!(r#"{{"code":"A","message":"{}"}}"#, &huge[..60 << 10]);
    for body in [huge, long] {
        let script = Script::of(&[("400 No", &body)]).await;
        let failure = script.client().get("a").await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::InvalidRequest);
        assert!(failure.to_string().len() < 3000);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for() {
    let head = Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec());
    for steps in [vec![Step::Hang], vec![head, Step::Hang]] {
        let script = Script::new(vec![steps]).await;
        let client = Client::new(connection(&script.url())).unwrap();
        let begin = Instant::now();
        let failure = client.get("a").await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn something_else_that_answers_is_recognised() {
    let script = Script::of(&[("200 OK", "<html>It works!</html>"); 2]).await;
    for failure in
        [script.client().health().await.unwrap_err(), script.client().get("a").await.unwrap_err()]
    {
        assert_eq!(failure.kind(), FailureKind::NotOpenSandbox);
        assert!(failure.to_string().contains("It works!"));
    }
    let script = Script::of(&[("200 OK", r#"{"what":1}"#)]).await;
    let failure = script.client().get("a").await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Surprise);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Script::of(&[("200 OK", SANDBOX)]).await;
    let status = format!("307 No\r\nLocation: {}/v1/sandboxes/a", other.url());
    let script = Script::of(&[(status.as_str(), "")]).await;
    let failure = script.client().get("a").await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Surprise);
    assert_eq!(other.requests(), Vec::<String>::new());
}

/// An address where nothing listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_server_that_is_down_is_told_with_how_to_start_it() {
    let client = Client::new(Connection::new(nowhere())).unwrap();
    let failure = client.create(&CreateSandbox::image("x")).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Unreachable);
    assert!(failure.to_string().contains("onnection refused"), "{failure}");
    assert!(failure.remedy().unwrap().contains("opensandbox-server init-config"));
}

#[tokio::test]
async fn trouble_with_tls_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drop((&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        }
    });
    let client = Client::new(connection(&format!("https://{address}"))).unwrap();
    let failure = client.health().await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Tls, "{failure}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for content in ["", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
        file.write_all(content.as_bytes()).unwrap();
        let mut connection = Connection::new("https://localhost");
        connection.ca_file = Some(file.path().to_owned());
        let failure = Client::new(connection).unwrap_err();
        assert_eq!(failure.kind(), FailureKind::InvalidConnection, "{failure}");
    }
}

#[test]
fn a_client_works_in_one_runtime_after_the_other() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, first, second) = (runtime(), runtime(), runtime());
    // The connection stays open, so that it would be used again.
    let stay = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{SANDBOX}", SANDBOX.len());
    let steps = vec![Step::Send(stay.into_bytes()), Step::Hang];
    let script = server.block_on(Script::new(vec![steps.clone(), steps]));
    let client = script.client();
    std::thread::spawn(move || server.block_on(std::future::pending::<()>()));
    for runtime in [&first, &second] {
        runtime.block_on(client.get("a")).unwrap();
    }
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let page =
        |next| format!(r#"{{"items":[{SANDBOX}],"pagination":{{"page":1,"hasNextPage":{next}}}}}"#);
    let script =
        Script::of(&[("200 OK", &page(true)), ("200 OK", &page(true)), ("200 OK", &page(false))])
            .await;
    let filter = ListFilter {
        metadata: BTreeMap::from([("a".into(), "b&c".into()), ("d".into(), "e".into())]),
        states: vec![SandboxState::Running, SandboxState::Paused],
    };
    assert_eq!(script.client().list(&filter).await.unwrap().len(), 3);
    let first = script.requests().remove(0);
    let query = "?page=1&pageSize=200&state=Running&state=Paused&metadata=a%3Db%2526c%26d%3De ";
    assert!(first.contains(query), "{first}");
}

#[tokio::test]
async fn what_is_gone_already_is_deleted() {
    let gone = r#"{"code":"DOCKER::SANDBOX_NOT_FOUND","message":"no"}"#;
    let script = Script::of(&[("204 No Content", ""), ("404 No", gone)]).await;
    let client = script.client();
    assert!(client.delete("a").await.unwrap());
    assert!(!client.delete("../b").await.unwrap());
    assert!(script.requests()[1].starts_with("DELETE /v1/sandboxes/..%2Fb "));
}

#[tokio::test]
async fn the_other_verbs_ask_what_the_server_understands() {
    let policy =
        r#"{"status":"ok","mode":"deny_all","enforcementMode":"dns","policy":{"egress":null}}"#;
    let script = Script::of(&[
        ("200 OK", r#"{"version":"1.1.1"}"#),
        ("200 OK", r#"{"expiresAt":"2030-01-01T00:00:00Z"}"#),
        ("202 Accepted", ""),
        ("202 Accepted", ""),
        ("200 OK", SANDBOX),
        ("200 OK", policy),
        ("200 OK", policy),
        ("200 OK", policy),
        ("200 OK", r#"{"scope":"all","content":"text"}"#),
    ])
    .await;
    let client = script.client();
    assert_eq!(client.version().await.unwrap(), "1.1.1");
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_893_456_000_000_000);
    assert_eq!(client.renew("a", at).await.unwrap(), at);
    client.pause("a").await.unwrap();
    client.resume("a").await.unwrap();
    let changes = BTreeMap::from([("k".to_owned(), None)]);
    client.patch_metadata("a", &changes).await.unwrap();
    let found = client.network_policy("a").await.unwrap();
    let rules = vec![NetworkRule { action: RuleAction::Allow, target: "pypi.org".into() }];
    let policy = NetworkPolicy { default_action: RuleAction::Deny, egress: rules };
    assert_eq!(client.set_network_policy("a", &policy).await.unwrap(), found);
    client.patch_network_policy("a", &policy.egress).await.unwrap();
    let told = client.diagnostics("a", DiagnosticsKind::Logs).await.unwrap();
    assert_eq!(told.content, "text");
    let sent: Vec<(String, String)> = script
        .requests()
        .iter()
        .filter_map(|request| request.split_once("\r\n\r\n"))
        .map(|(head, body)| (head.split(" HTTP").next().unwrap().to_owned(), body.to_owned()))
        .collect();
    let expected = [
        ("GET /version", ""),
        ("POST /v1/sandboxes/a/renew-expiration", r#"{"expiresAt":"2030-01-01T00:00:00.000000Z"}"#),
        ("POST /v1/sandboxes/a/pause", ""),
        ("POST /v1/sandboxes/a/resume", ""),
        ("PATCH /v1/sandboxes/a/metadata", r#"{"k":null}"#),
        ("GET /v1/sandboxes/a/networkpolicy", ""),
        (
            "PUT /v1/sandboxes/a/networkpolicy",
            r#"{"defaultAction":"deny","egress":[{"action":"allow","target":"pypi.org"}]}"#,
        ),
        ("PATCH /v1/sandboxes/a/networkpolicy", r#"[{"action":"allow","target":"pypi.org"}]"#),
        ("GET /v1/sandboxes/a/diagnostics/logs?scope=all", ""),
    ];
    assert_eq!(sent, expected.map(|(line, body)| (line.to_owned(), body.to_owned())));
}
