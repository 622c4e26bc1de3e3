//! Container engines that stop behind their server.

use std::time::Duration;

use openbrain::{Status, Stdin};

use crate::{
    docker::Way,
    lab::{Lab, assert_error, rest, run, shell, until},
    server::Server,
};

#[test]
fn an_engine_that_is_down_is_named() {
    run("engine-down", async |lab: &Lab| {
        let way = Way::open();
        let server = Server::with(Some(way.host()), |config| config).await;
        lab.front.lead_to(server.address());
        way.cut().await;
        let (error, time) = lab.error(&lab.engine(), shell("true")).await;
        assert_error(
            &error,
            "sandbox_unavailable",
            &["container engine"],
            "systemctl start docker",
        );
        assert!(time < Duration::from_secs(20), "{time:?}");
        assert_eq!(lab.creations().len(), 1);
        way.restore();
        assert_eq!(lab.engine().run(shell("exit 3")).await.unwrap().status, Status::Exited(3));
    });
}

#[test]
fn a_run_outlives_the_engine_behind_its_server() {
    run("engine-during", async |lab: &Lab| {
        let way = Way::open();
        let server = Server::with(Some(way.host()), |config| config).await;
        lab.front.lead_to(server.address());
        let mut process = lab
            .engine()
            .spawn(shell("echo up; read line; exit 6").stdin(Stdin::Pipe))
            .await
            .unwrap();
        until(&mut process, "up").await;
        way.cut().await;
        drop(process.take_stdin());
        let (_, output) = rest(process).await.unwrap();
        assert_eq!(output.status, Status::Exited(6));
        let [warning] = &output.warnings[..] else { panic!("{:?}", output.warnings) };
        assert!(warning.contains("not deleted yet"), "{warning}");
        way.restore();
        lab.empty(Duration::from_secs(40)).await;
    });
}
