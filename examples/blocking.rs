//! Without an async runtime, and with the failure of the command as an error:
//! `cargo run --example blocking`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use openbrain::Exec;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let output = Exec::argv(["sort", "-r"]).sandbox().stdin_bytes("1\n2\n").run_blocking()?;
    println!("{}", output.check()?.stdout_text());

    let failed = Exec::new("echo no such luck >&2; exit 3").sandbox().run_blocking()?.check();
    println!("{}", failed.expect_err("it exits with 3"));

    let error = Exec::argv(["no-such-program"]).sandbox().run_blocking().expect_err("not there");
    println!("{} ({})", error, error.code());
    Ok(())
}
