//! A time limit and a memory limit: `cargo run --example limits`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use openbrain::{Exec, Limits, Result, Status};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let sleeper = Exec::new("echo working; sleep 60").sandbox();
    let output = sleeper.timeout(Duration::from_millis(500)).run().await?;
    assert_eq!(output.status, Status::TimedOut);
    println!("timed out, and said: {}", output.stdout_text());

    let limits = Limits { memory: Some(64 << 20), pids: Some(32), ..Limits::default() };
    let hungry = Exec::script("python", "x = bytearray(512 << 20)").sandbox();
    let output = hungry.limits(limits).run().await?;
    assert!(!output.success());
    println!("out of memory: {:?}", output.status);
    for (limit, means) in &output.isolation.limits {
        println!("{limit} by {means}");
    }
    Ok(())
}
