//! What a server refuses, or is not, and what is refused before it is asked.

use std::time::Duration;

use openbrain::{Engine, Exec, Limits, Mount, MountMode, Settings};

use crate::{
    front::{Fault, Front},
    lab::{Lab, assert_error, run, shell, variable},
    server::{STARTS, Server},
};

/// The error of a run with other settings.
async fn error(lab: &Lab, change: impl FnOnce(&mut Settings), exec: Exec) -> openbrain::Error {
    let mut settings = lab.settings();
    change(&mut settings);
    let (error, time) = lab.error(&Engine::new(settings), exec).await;
    assert!(time < Duration::from_secs(30), "{time:?}: {error}");
    error
}

#[test]
fn a_wrong_key_is_told_of() {
    run("wrong-key", async |lab: &Lab| {
        let wrong = |settings: &mut Settings| {
            settings.security.sandbox.api_key = Some("wrong-but-secret".into());
        };
        let error = error(lab, wrong, shell("true")).await;
        assert_error(
            &error,
            "invalid_settings",
            &["does not accept the API key"],
            "OPEN_SANDBOX_API_KEY",
        );
        assert!(!format!("{error:?} {error}").contains("wrong-but-secret"));
    });
}

#[test]
fn a_missing_key_is_told_of() {
    run("no-key", async |lab: &Lab| {
        let without = |settings: &mut Settings| settings.security.sandbox.api_key = None;
        let error = error(lab, without, shell("true")).await;
        assert_error(&error, "invalid_settings", &["wants an API key"], "OPEN_SANDBOX_API_KEY");
    });
}

#[test]
fn something_else_that_speaks_http_is_told_of() {
    run("not-one", async |lab: &Lab| {
        for (status, body) in [(200, "<html>welcome</html>"), (404, "<html>not here</html>")] {
            let answer = format!(
                "HTTP/1.1 {status} Status\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            for method in ["GET", "POST"] {
                lab.front.fault(method, "", 1, Fault::Answer(answer.clone()));
            }
            let error = error(lab, |_| {}, shell("true")).await;
            assert_error(
                &error,
                "sandbox_unavailable",
                &["not an OpenSandbox server"],
                "server_url",
            );
        }
    });
}

#[test]
fn an_image_that_is_nowhere_is_named() {
    run("no-image", async |lab: &Lab| {
        let other = |settings: &mut Settings| {
            settings.security.sandbox.image = "localhost:1/nobody/nothing:1".into();
        };
        let error = error(lab, other, shell("true")).await;
        assert_error(
            &error,
            "sandbox_unavailable",
            &["cannot get the image", "nobody/nothing:1"],
            "docker pull",
        );
    });
}

#[test]
fn a_host_path_that_the_server_does_not_allow_is_told_of() {
    run("host-path", async |lab: &Lab| {
        let exec = shell("true").mount_at(Mount::new("/etc", "/mnt", MountMode::Ro));
        let error = error(lab, |_| {}, exec).await;
        assert_error(&error, "policy_denied", &["host path", "/etc"], "allowed_host_paths");
    });
}

#[test]
fn a_server_that_is_not_set_up_for_policies_is_told_of() {
    run("no-egress", async |lab: &Lab| {
        let image = format!("image = \"{}\"", variable("EGRESS_IMAGE"));
        let server = Server::with(None, |config| {
            assert!(config.contains(&image), "{config}");
            config.replace(&image, "")
        })
        .await;
        lab.front.lead_to(server.address());
        let error = error(lab, |_| {}, shell("true").allow_network(false)).await;
        assert_error(
            &error,
            "sandbox_unavailable",
            &["not set up for network policies"],
            "[egress]",
        );
    });
}

/// A policy that is only a matter of names is none: nothing runs under it.
#[test]
fn a_policy_that_would_not_be_enforced_is_refused_before_anything_runs() {
    run("dns-only", async |lab: &Lab| {
        let server = Server::with(None, |config| config.replace("\"dns+nft\"", "\"dns\"")).await;
        let _no_starts = STARTS.read().await;
        lab.front.lead_to(server.address());
        let error = error(lab, |_| {}, shell("true").allow_network(false)).await;
        assert_error(
            &error,
            "sandbox_unavailable",
            &["does not enforce the network policy"],
            "dns+nft",
        );
        assert_eq!(lab.creations().len(), 1);
        assert_eq!(lab.front.count("GET", "/endpoints/"), 0, "nothing was run");
    });
}

#[test]
fn ports_are_refused_before_anything_is_made() {
    run("ports", async |lab: &Lab| {
        let restrict = |settings: &mut Settings| {
            settings.security.sandbox.network.restrict_egress = true;
            settings.security.sandbox.network.allowed_ports = Some(vec![443]);
        };
        let error = error(lab, restrict, shell("true")).await;
        assert_error(&error, "invalid_request", &["cannot restrict ports"], "allowed_domains");
        assert!(lab.front.seen().is_empty());
    });
}

#[test]
fn limits_that_no_server_has_are_refused_before_anything_is_made() {
    run("limits", async |lab: &Lab| {
        let pids = Limits { pids: Some(10), ..Limits::default() };
        let disk = Limits { disk: Some(1 << 30), ..Limits::default() };
        for (limits, name) in [(pids, "`pids`"), (disk, "`disk`")] {
            let error = error(lab, |_| {}, shell("true").limits(limits)).await;
            assert_error(&error, "invalid_request", &["cannot limit", name], "leave the limit out");
        }
        assert!(lab.front.seen().is_empty());
    });
}

/// The key goes to the server alone: no sandbox sees it, no request to an agent holds it.
#[test]
fn the_key_stays_between_us_and_the_server() {
    run("key", async |lab: &Lab| {
        let key = variable("KEY");
        let agent = Front::start("", "").await;
        lab.front.fault("GET", "/endpoints/", 1, Fault::Endpoint(agent.address()));
        let engine = lab.engine();
        let script = "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; ls -la / /tmp; cat /opt/opensandbox/* | tr -c '[:print:]' ' '";
        let run = engine.run(shell(script));
        let lead = async {
            // The container's port is known when the front has asked for it.
            lab.front.until("GET", "/endpoints/").await;
            let id = lab.sandbox().await.id;
            let endpoint = lab.look.endpoint(&id, 44772).await.unwrap().endpoint;
            agent.lead_to(endpoint.split('/').next().unwrap());
        };
        let (output, ()) = tokio::join!(run, lead);
        let output = output.unwrap();
        assert!(output.success() && output.stdout.bytes.len() > 1000, "{output:?}");
        let told = format!("{} {} {output:?}", output.stdout_text(), output.stderr_text());
        assert!(!told.contains(&key), "the sandbox has the key");
        let seen = agent.seen();
        assert!(seen.iter().any(|seen| seen.path.ends_with("/command")), "{seen:#?}");
        assert!(seen.iter().all(|seen| !seen.head.contains(&key)), "an agent was sent the key");
        assert!(lab.front.seen().iter().all(|seen| seen.head.contains(&key)));
        assert!(!format!("{engine:?}").contains(&key));
        assert!(!serde_json::to_string(engine.settings()).unwrap().contains(&key));
    });
}
