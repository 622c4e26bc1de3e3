//! Servers that are killed, at every step of a run.

use std::time::Duration;

use openbrain::{Engine, Status, Stdin};

use crate::{
    docker,
    front::Fault,
    lab::{LABEL, Lab, assert_error, rest, run, shell, until},
    server::Server,
};

/// A server of the test's own, behind its front.
async fn server(lab: &Lab) -> Server {
    let server = Server::start().await;
    lab.front.lead_to(server.address());
    server
}

#[test]
fn a_server_that_is_down_is_told_of_with_how_to_start_it() {
    run("down", async |lab: &Lab| {
        let mut server = server(lab).await;
        let mut settings = lab.settings();
        settings.security.sandbox.server_url = Some(format!("http://{}", server.address()));
        server.kill().await;
        let (error, time) = lab.error(&Engine::new(settings), shell("true")).await;
        assert_error(
            &error,
            "sandbox_unavailable",
            &["no connection", &server.address()],
            "opensandbox-server",
        );
        assert!(time < Duration::from_secs(10), "{time:?}");
    });
}

#[test]
fn a_server_killed_while_it_creates_leaves_nothing() {
    run("killed-create", async |lab: &Lab| {
        let mut server = server(lab).await;
        let engine = lab.engine();
        let failed = lab.error(&engine, shell("true"));
        let kill = async {
            lab.front.until("POST", "/sandboxes").await;
            // The container is there, the answer is not: it waits for the agent's files.
            let filter = format!(r#"%7B%22label%22:%5B%22{LABEL}={}%22%5D%7D"#, lab.label());
            let path = format!("/containers/json?all=1&filters={filter}");
            while docker::ask("GET", &path).await.as_array().is_none_or(Vec::is_empty) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            server.kill().await;
        };
        let ((error, time), ()) = tokio::join!(failed, kill);
        assert_error(&error, "sandbox_unavailable", &["create a sandbox"], "");
        assert!(time < Duration::from_secs(15), "{time:?}");
        server.restart().await;
        lab.empty(Duration::from_secs(40)).await;
    });
}

#[test]
fn a_server_killed_before_the_run_is_told_of_and_deletes_when_it_is_back() {
    run("killed-before", async |lab: &Lab| {
        let mut server = server(lab).await;
        let gate = lab.front.hold("GET", "/endpoints/");
        let engine = lab.engine();
        let failed = lab.error(&engine, shell("true"));
        let kill = async {
            gate.reached().await;
            server.kill().await;
            gate.open();
        };
        let ((error, time), ()) = tokio::join!(failed, kill);
        assert_eq!(error.code(), "sandbox_unavailable", "{error}");
        assert!(time < Duration::from_secs(25), "{time:?}");
        assert_eq!(lab.sandboxes().await.len(), 1);
        lab.lead_home();
        lab.empty(Duration::from_secs(40)).await;
    });
}

#[test]
fn a_run_outlives_its_server() {
    run("killed-during", async |lab: &Lab| {
        let mut server = server(lab).await;
        let mut process = lab
            .engine()
            .spawn(shell("echo up; read line; echo $line; exit 5").stdin(Stdin::Pipe))
            .await
            .unwrap();
        until(&mut process, "up").await;
        server.kill().await;
        drop(process.take_stdin());
        let (stdout, output) = rest(process).await.unwrap();
        assert_eq!((stdout, output.status), (b"\n".to_vec(), Status::Exited(5)));
        let [warning] = &output.warnings[..] else { panic!("{:?}", output.warnings) };
        assert!(warning.contains("not deleted yet"), "{warning}");
        lab.lead_home();
        lab.empty(Duration::from_secs(40)).await;
    });
}

#[test]
fn a_run_through_the_server_is_lost_with_it() {
    run("killed-through", async |lab: &Lab| {
        let mut server = server(lab).await;
        let exec = shell("echo up; exec sleep 100");
        let mut process = lab.engine_through_server().spawn(exec).await.unwrap();
        until(&mut process, "up").await;
        server.kill().await;
        let error = rest(process).await.unwrap_err();
        assert_error(&error, "sandbox_lost", &["the connection broke"], "look at what it did");
        lab.lead_home();
        lab.empty(Duration::from_secs(40)).await;
    });
}

#[test]
fn a_server_killed_while_it_deletes_deletes_when_it_is_back() {
    run("killed-delete", async |lab: &Lab| {
        let mut server = server(lab).await;
        let gate = lab.front.hold("DELETE", "/sandboxes/");
        let engine = lab.engine();
        let kill = async {
            gate.reached().await;
            server.kill().await;
            gate.open();
            server.restart().await;
        };
        let (output, ()) = tokio::join!(engine.run(shell("exit 4")), kill);
        assert_eq!(output.unwrap().status, Status::Exited(4));
        lab.empty(Duration::from_secs(40)).await;
    });
}

#[test]
fn a_deletion_whose_answer_is_lost_is_no_failure() {
    run("lost-deletion", async |lab: &Lab| {
        lab.front.fault("DELETE", "/sandboxes/", 1, Fault::LoseAnswer);
        let output = lab.engine().run(shell("exit 4")).await.unwrap();
        assert_eq!((output.status, output.warnings), (Status::Exited(4), Vec::new()));
    });
}
