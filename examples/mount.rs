//! A host directory in a sandbox, in three ways: `cargo run --example mount -- DIRECTORY`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use openbrain::{Exec, Mount, MountMode, Result};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let directory = std::env::args().nth(1).unwrap_or_else(|| ".".into());
    let touch = "touch new && ls";

    // Read-only: the directory can be read, and writing fails.
    let read_only = Mount::new(&directory, "/workspace", MountMode::Ro);
    show("read-only", Exec::new(touch).mount_at(read_only)).await?;

    // Overlay: writing succeeds, and what was written is gone with the sandbox.
    let overlay = Mount::new(&directory, "/workspace", MountMode::Overlay);
    show("overlay", Exec::new(touch).mount_at(overlay)).await?;

    // Read-write, at /workspace: what is written stays.
    show("read-write", Exec::new(touch).mount(&directory)).await
}

async fn show(name: &str, exec: Exec) -> Result<()> {
    let output = exec.sandbox().run().await?;
    println!("{name}: {:?}\n{}{}", output.status, output.stdout_text(), output.stderr_text());
    Ok(())
}
