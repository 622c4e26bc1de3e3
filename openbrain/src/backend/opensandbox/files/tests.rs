use std::{collections::BTreeMap, io};

use tokio::io::AsyncReadExt;

use super::super::{
    Agent, FailureKind, FileKind, Permission, Replacement, Upload,
    script::{Script, Step, agent, answer},
};

async fn replying(replies: &[(&str, &str)]) -> (Script, Agent) {
    let steps = |(status, body): &(&str, &str)| vec![Step::Send(answer(status, body))];
    agent(replies.iter().map(steps).collect()).await
}

#[tokio::test]
async fn files_go_up_in_one_request_of_known_length() {
    let (script, agent) = replying(&[("200 OK", "")]).await;
    let permission = Permission { owner: Some("me".into()), group: None, mode: Some(0o755) };
    let files = vec![
        Upload::bytes("/a", &b"one"[..]),
        Upload::reader("/b", io::Cursor::new(*b"two, and more"), 3).permission(permission),
    ];
    agent.upload(files).await.unwrap();
    let request = script.requests().remove(0);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /proxy/44772/files/upload "), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    let parts: Vec<&str> = body.split("\r\n").filter(|line| !line.starts_with("--")).collect();
    let part =
        |name| format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"");
    let (metadata, file) = (part("metadata"), part("file"));
    let expected = [
        metadata.as_str(),
        "",
        r#"{"path":"/a","mode":644}"#,
        &file,
        "",
        "one",
        &metadata,
        "",
        r#"{"path":"/b","owner":"me","mode":755}"#,
        &file,
        "",
        "two",
        "",
    ];
    assert_eq!(parts, expected);
}

#[tokio::test]
async fn a_large_file_that_did_not_arrive_is_an_error() {
    let content = vec![b'x'; 20_000];
    for (size, arrived) in [(20_000, true), (0, false)] {
        let info = format!(r#"{{"/a":{{"path":"/a","size":{size}}}}}"#);
        let (_script, agent) = replying(&[("200 OK", ""), ("200 OK", &info)]).await;
        let result = agent.upload(vec![Upload::bytes("/a", content.clone())]).await;
        assert_eq!(result.is_ok(), arrived);
        let told = result.err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(arrived || told.contains("0 of 20000 bytes of `/a` arrived"), "{told}");
    }
}

#[tokio::test]
async fn a_reader_that_ends_early_is_an_error() {
    let (_script, agent) = replying(&[("200 OK", "")]).await;
    let file = Upload::reader("/a", io::Cursor::new(*b"abc"), 5);
    let failure = agent.upload(vec![file]).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Lost, "{failure}");
}

#[tokio::test]
async fn a_range_is_downloaded_as_a_stream() {
    let (script, agent) = replying(&[("206 Partial Content", "bcd")]).await;
    let mut download = agent.download("/a b", Some(1..4)).await.unwrap();
    let mut content = String::new();
    download.read_to_string(&mut content).await.unwrap();
    assert_eq!((download.size(), content.as_str()), (Some(3), "bcd"));
    let request = script.requests().remove(0);
    assert!(request.starts_with("GET /proxy/44772/files/download?path=%2Fa+b "), "{request}");
    assert!(request.contains("range: bytes=1-3\r\n"), "{request}");
    let mut nothing = agent.download("/a", Some(4..4)).await.unwrap();
    assert_eq!(nothing.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_download_that_is_cut_is_an_error() {
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nabc".to_vec();
    for steps in [vec![Step::Send(cut.clone())], vec![Step::Send(cut), Step::Hang]] {
        let (_script, agent) = agent(vec![steps]).await;
        let mut download = agent.download("/a", None).await.unwrap();
        assert!(download.read_to_end(&mut Vec::new()).await.is_err());
    }
    let body = r#"{"code":"FILE_NOT_FOUND","message":"no"}"#;
    let (_script, agent) = replying(&[("404 No", body)]).await;
    let failure = agent.download("/a", None).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::NotFound);
}

#[tokio::test]
async fn the_other_verbs_ask_what_the_agent_understands() {
    let entry = r#"{"path":"/a/b","type":"fifo","size":2,"mode":644}"#;
    let list = format!("[{entry}]");
    let info = format!(r#"{{"/a/b":{entry}}}"#);
    let (script, agent) = replying(&[
        ("200 OK", &list),
        ("200 OK", "null"),
        ("200 OK", &info),
        ("200 OK", ""),
        ("200 OK", ""),
        ("200 OK", ""),
        ("200 OK", ""),
        ("200 OK", r#"{"/a":{"replacedCount":2}}"#),
        ("200 OK", ""),
    ])
    .await;
    let found = agent.list("/a", 2).await.unwrap().remove(0);
    assert_eq!((found.kind, found.mode), (Some(FileKind::Other("fifo".into())), Some(0o644)));
    assert_eq!(agent.search("/a", "*.py").await.unwrap(), []);
    assert_eq!(agent.info(&["/a/b", "/c"]).await.unwrap()["/a/b"].size, 2);
    agent.remove(&["/a"]).await.unwrap();
    agent.remove_directories(&["/a", "/b"]).await.unwrap();
    let directories = BTreeMap::from([("/d".to_owned(), Permission::mode(0o700))]);
    agent.make_directories(&directories).await.unwrap();
    agent.rename("/a", "/b").await.unwrap();
    let replacement = Replacement { old: "x".into(), new: "y".into() };
    let counts = agent.replace(&BTreeMap::from([("/a".to_owned(), replacement)])).await.unwrap();
    assert_eq!(counts["/a"], 2);
    agent.set_permissions(&directories).await.unwrap();
    let sent: Vec<(String, String)> = script
        .requests()
        .iter()
        .filter_map(|request| request.split_once("\r\n\r\n"))
        .map(|(head, body)| (head.split(" HTTP").next().unwrap().to_owned(), body.to_owned()))
        .collect();
    let expected = [
        ("GET /proxy/44772/directories/list?path=%2Fa&depth=2", ""),
        ("GET /proxy/44772/files/search?path=%2Fa&pattern=*.py", ""),
        ("GET /proxy/44772/files/info?path=%2Fa%2Fb&path=%2Fc", ""),
        ("DELETE /proxy/44772/files?path=%2Fa", ""),
        ("DELETE /proxy/44772/directories?path=%2Fa&path=%2Fb", ""),
        ("POST /proxy/44772/directories", r#"{"/d":{"mode":700}}"#),
        ("POST /proxy/44772/files/mv", r#"[{"src":"/a","dest":"/b"}]"#),
        ("POST /proxy/44772/files/replace?verbose=true", r#"{"/a":{"old":"x","new":"y"}}"#),
        ("POST /proxy/44772/files/permissions", r#"{"/d":{"mode":700}}"#),
    ];
    assert_eq!(sent, expected.map(|(line, body)| (line.to_owned(), body.to_owned())));
}
