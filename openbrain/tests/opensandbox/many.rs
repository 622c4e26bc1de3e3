//! Many runs that end in every way, and an owner that is killed.

use std::{
    env,
    pin::pin,
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use openbrain::{Engine, Status};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::lab::{Lab, run, run_alone, shell, until};

const RUNS: u64 = 200;
const AT_A_TIME: usize = 8;
const MANY: Duration = Duration::from_secs(150);

/// Set in a process that is to be killed: where its server is.
const OWNER: &str = "OPENBRAIN_FAULTS_OWNER";

/// A different number from each; the same in each run of the test.
fn random(seed: u64) -> u64 {
    // The finalizer of SplitMix64.
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[test]
fn two_hundred_runs_that_end_in_every_way_leave_no_sandbox() {
    run_alone(MANY, "many", async |lab: &Lab| {
        let engine = lab.engine();
        let room = Arc::new(Semaphore::new(AT_A_TIME));
        let mut runs = JoinSet::new();
        for number in 0..RUNS {
            let permit = Arc::clone(&room).acquire_owned().await.unwrap();
            let engine = engine.clone();
            runs.spawn(async move {
                end_somehow(&engine, random(number)).await;
                drop(permit);
            });
        }
        while let Some(ended) = runs.join_next().await {
            ended.unwrap();
        }
        tokio::task::spawn_blocking(|| openbrain::settle(Duration::from_secs(30))).await.unwrap();
        lab.empty(Duration::from_secs(1)).await;
        let made = lab.creations().len();
        assert!(made > RUNS as usize / 2, "only {made} were made");
    });
}

async fn end_somehow(engine: &Engine, random: u64) {
    // Up to longer than a whole run takes, so that every step of one is hit.
    let pause = Duration::from_millis((random >> 8) % 2500);
    match random % 6 {
        0 => {
            let output = engine.run(shell("echo $((6 * 7))")).await.unwrap();
            assert_eq!(output.stdout_text(), "42\n");
        }
        1 => {
            // The future is dropped, wherever it is.
            let _ = timeout(pause, engine.run(shell("exec sleep 100"))).await;
        }
        2 => {
            let exec = shell("exec sleep 100").timeout(Duration::from_millis(200));
            assert_eq!(engine.run(exec).await.unwrap().status, Status::TimedOut);
        }
        3 => {
            let mut process = engine.spawn(shell("echo up; exec sleep 100")).await.unwrap();
            until(&mut process, "up").await;
            process.cancel();
            assert_eq!(process.wait().await.unwrap().status, Status::Cancelled);
        }
        4 => {
            let mut process = engine.spawn(shell("echo up; exec sleep 100")).await.unwrap();
            until(&mut process, "up").await;
            process.kill();
            process.wait().await.unwrap();
        }
        _ => {
            let process = engine.spawn(shell("exec sleep 100")).await.unwrap();
            let handle = process.handle();
            let mut wait = pin!(process.wait());
            if timeout(pause, &mut wait).await.is_err() {
                handle.cancel();
                assert_eq!(wait.await.unwrap().status, Status::Cancelled);
            }
        }
    }
}

#[test]
fn what_a_killed_owner_leaves_expires_within_minutes() {
    if let Ok(url) = env::var(OWNER) {
        return own(&url);
    }
    run("owner", async |lab: &Lab| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([
            "many::what_a_killed_owner_leaves_expires_within_minutes",
            "--exact",
            "--nocapture",
        ]);
        command.env(OWNER, lab.front.url()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut owner = command.spawn().unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        while lines.next_line().await.unwrap().expect("the owner says `up`") != "up" {}
        lab.front.until("POST", "/renew-expiration").await;
        owner.kill().await.unwrap();
        // Whatever was on its way has arrived.
        sleep(Duration::from_millis(500)).await;
        let sandbox = lab.look.get(&lab.sandbox().await.id).await.unwrap();
        let left = sandbox.expires_at.unwrap().duration_since(SystemTime::now()).unwrap();
        assert!(left <= Duration::from_secs(600), "it lives {left:?}");
        assert!(left >= Duration::from_secs(60), "it lives {left:?}");
        lab.look.delete(&sandbox.id).await.unwrap();
    });
}

/// Holds a sandbox until it is killed.
fn own(url: &str) {
    let mut settings = openbrain::Settings::default();
    let sandbox = &mut settings.security.sandbox;
    sandbox.server_url = Some(url.to_owned());
    sandbox.api_key = Some(crate::lab::variable("KEY").into());
    sandbox.image = crate::lab::variable("IMAGE");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let exec = shell("echo up; exec sleep 1000");
        let mut process = Engine::new(settings).spawn(exec).await.unwrap();
        until(&mut process, "up").await;
        println!("\nup");
        process.wait().await.unwrap();
    });
}
