//! One command in a sandbox: `cargo run --example sandbox`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use openbrain::Exec;

#[tokio::main(flavor = "current_thread")]
async fn main() -> openbrain::Result<()> {
    let output = Exec::new("whoami; pwd; ls -A /home/sandbox | wc -l").sandbox().run().await?;
    println!("{}", output.stdout_text());
    println!("status: {:?}", output.status);
    println!("files: {}", output.isolation.filesystem);
    println!("walls: {}", output.isolation.layers.join(", "));
    Ok(())
}
