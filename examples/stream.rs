//! What a command prints, as it prints it, and input while it runs: `cargo run --example stream`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows its result")]

use openbrain::{Event, Exec, Stdin};
use tokio::io::AsyncWriteExt;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let script = "while read -r line; do echo \"got $line\"; done; echo all read >&2";
    let mut process = Exec::new(script).sandbox().stdin(Stdin::Pipe).spawn().await?;

    let mut stdin = process.take_stdin().ok_or("a pipe was asked for")?;
    stdin.write_all(b"one\ntwo\n").await?;
    // The end of the input.
    drop(stdin);

    while let Some(event) = process.next_event().await? {
        match event {
            Event::Stdout(bytes) => print!("{}", String::from_utf8_lossy(&bytes)),
            Event::Stderr(bytes) => eprint!("{}", String::from_utf8_lossy(&bytes)),
            Event::Ended(output) => println!("{:?}", output.status),
            _ => {}
        }
    }
    Ok(())
}
