use axum::routing::post;
use http::request::Builder;
use tower::ServiceExt;

use super::*;

const OTHER: &str = "https://app.example";
const TOKEN: &str = "correct-horse-battery";

fn settings() -> ServerSettings {
    ServerSettings {
        allowed_names: vec!["brain.example".into()],
        allowed_origins: vec![OTHER.into()],
        ..ServerSettings::default()
    }
}

fn own() -> Peer {
    Peer::Uid(rustix::process::geteuid().as_raw())
}

fn request() -> Builder {
    let builder = Request::builder().method("POST").uri("/exec").extension(own());
    builder.header("host", "localhost:8000")
}

/// What the guard makes of a request with this body, which must not be read.
async fn answer_with(settings: &ServerSettings, request: Builder) -> Response {
    let seen = |request: Request| async move {
        let Identity(name) = request.extensions().get().cloned().unwrap();
        name
    };
    let router = Router::new().route("/exec", post(seen)).route(HEALTH, post(seen));
    let router = layer(router, settings, &settings.listen);
    let body = Body::from_stream(futures_util::stream::once(async {
        panic!("the body was read");
        #[allow(unreachable_code)]
        Ok::<&str, std::io::Error>("")
    }));
    router.oneshot(request.body(body).unwrap()).await.unwrap()
}

async fn answer(request: Builder) -> Response {
    answer_with(&settings(), request).await
}

#[track_caller]
fn refused(response: &Response, status: u16) {
    assert_eq!(response.status().as_u16(), status, "{response:?}");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn curl_passes() {
    let response = answer(request()).await;
    assert_eq!(response.status(), 200, "{response:?}");
    let allowed = |name: &HeaderName| name.as_str().starts_with("access-control");
    assert!(!response.headers().keys().any(allowed), "{response:?}");
}

#[tokio::test]
async fn the_hostile_headers_are_refused() {
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", ""),
        ("origin", "http://localhost:3000"),
        ("origin", "https://localhost:8000"),
        ("origin", "http://localhost:8000.evil.example"),
        ("origin", "http://localhost"),
        ("origin", "https://app.example.evil"),
        ("origin", "https://app.example:8443"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "anything"),
    ] {
        refused(&answer(request().header(name, value)).await, 403);
    }
}

#[tokio::test]
async fn a_rebound_name_is_refused_though_its_origin_is_the_same() {
    let rebound = || Request::builder().method("POST").uri("/exec").extension(own());
    let rebound = || rebound().header("host", "evil.example:8000");
    refused(&answer(rebound()).await, 403);
    let same = rebound().header("origin", "http://evil.example:8000");
    refused(&answer(same.header("sec-fetch-site", "same-origin")).await, 403);
    // Whether such a name is asked of a name server is up to the browser.
    let below = Request::builder().uri("/exec").extension(own()).header("host", "a.localhost:8000");
    refused(&answer(below.header("origin", "http://a.localhost:8000")).await, 403);
}

#[tokio::test]
async fn a_request_has_one_host() {
    let bare = || Request::builder().method("POST").uri("/exec").extension(own());
    refused(&answer(bare()).await, 400);
    refused(&answer(request().header("host", "localhost:8000")).await, 400);
    refused(&answer(request().header("host", "evil.example")).await, 400);
    refused(&answer(bare().header("host", "a@localhost")).await, 400);
    refused(&answer(bare().header("host", &b"\xff"[..])).await, 400);
    let absolute = |uri: &str| request().uri(uri);
    assert_eq!(answer(absolute("http://127.0.0.1:8000/exec")).await.status(), 200);
    refused(&answer(absolute("http://evil.example/exec")).await, 403);
    refused(&answer(absolute("http://user@localhost/exec")).await, 400);
}

#[tokio::test]
async fn two_origins_are_refused_though_one_is_allowed() {
    refused(&answer(request().header("origin", OTHER).header("origin", OTHER)).await, 403);
    let both = request().header("origin", OTHER).header("origin", "https://evil.example");
    refused(&answer(both).await, 403);
}

#[tokio::test]
async fn pages_of_the_server_itself_pass() {
    for host in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "brain.example"] {
        let request = Request::builder().method("POST").uri("/exec").extension(own());
        let request = request.header("host", host).header("origin", format!("http://{host}"));
        let response = answer(request.header("sec-fetch-site", "same-origin")).await;
        assert_eq!(response.status(), 200, "{host}: {response:?}");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn pages_of_the_settings_pass_and_may_read_the_answer() {
    let response = answer(request().header("origin", OTHER).header("sec-fetch-site", "cross-site"));
    let response = response.await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], OTHER);
    assert_eq!(response.headers()["vary"], "origin");
    assert!(!response.headers().contains_key("access-control-allow-credentials"));
}

#[tokio::test]
async fn only_pages_of_the_settings_get_a_preflight() {
    let ask = |origin: &str| {
        let request = request().method("OPTIONS").header("origin", origin);
        request.header("access-control-request-method", "POST")
    };
    let response = answer(ask(OTHER).header("access-control-request-headers", "authorization"));
    let response = response.await;
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()["access-control-allow-headers"], "authorization");
    refused(&answer(ask("https://evil.example")).await, 403);
    let plain = answer(request().method("OPTIONS")).await;
    assert_eq!(plain.status(), 405);
    assert_eq!(plain.headers()["allow"], "POST");
}

#[tokio::test]
async fn null_cannot_be_allowed() {
    let settings = ServerSettings { allowed_origins: vec!["null".into()], ..settings() };
    refused(&answer_with(&settings, request().header("origin", "null")).await, 403);
}

#[tokio::test]
async fn other_users_need_the_setting() {
    for peer in [Peer::Uid(12345), Peer::Unknown] {
        let by = || request().extension(peer);
        refused(&answer(by()).await, 403);
        let settings = ServerSettings { allow_other_users: true, ..settings() };
        assert_eq!(answer_with(&settings, by()).await.status(), 200);
    }
}

#[tokio::test]
async fn a_token_is_all_it_takes_and_is_needed() {
    let settings = ServerSettings { token: Some(TOKEN.into()), ..settings() };
    let with = |value: &str| request().extension(Peer::Unknown).header("authorization", value);
    for value in [format!("Bearer {TOKEN}"), format!("bearer {TOKEN}")] {
        assert_eq!(answer_with(&settings, with(&value)).await.status(), 200);
    }
    let prefix = &TOKEN[..TOKEN.len() - 1];
    for value in [
        format!("Bearer {prefix}"),
        format!("Bearer {TOKEN}x"),
        format!("Basic {TOKEN}"),
        TOKEN.into(),
        "Bearer".into(),
        "Bearer ".into(),
        "é".into(),
    ] {
        let response = answer_with(&settings, with(&value)).await;
        refused(&response, 401);
        assert!(response.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    }
    let response = answer_with(&settings, request()).await;
    refused(&response, 401);
    assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"openbrain\"");
    let twice = with(&format!("Bearer {TOKEN}")).header("authorization", "Bearer x");
    refused(&answer_with(&settings, twice).await, 400);
}

#[tokio::test]
async fn health_needs_no_token_but_the_right_name() {
    let settings = ServerSettings { token: Some(TOKEN.into()), ..settings() };
    let health = || request().uri(HEALTH).extension(Peer::Unknown);
    assert_eq!(answer_with(&settings, health()).await.status(), 200);
    refused(&answer_with(&settings, health().header("origin", "null")).await, 403);
    let foreign = Request::builder().uri(HEALTH).header("host", "evil.example");
    refused(&answer_with(&settings, foreign).await, 403);
}

#[tokio::test]
async fn nothing_is_told_before_the_checks() {
    let foreign = || Request::builder().uri("/nowhere").header("host", "evil.example");
    refused(&answer(foreign()).await, 403);
    assert_eq!(answer(request().uri("/nowhere")).await.status(), 404);
}
