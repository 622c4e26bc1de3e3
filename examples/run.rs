//! Runs its arguments in a sandbox.
fn main() -> openbrain::Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let direct = args.first().is_some_and(|a| a == "-d");
    if direct {
        args.remove(0);
    }
    let exec = if args.len() == 1 {
        openbrain::Exec::new(args[0].clone())
    } else {
        openbrain::Exec::argv(args)
    };
    let exec = if direct { exec } else { exec.sandbox() };
    let o = exec.run_blocking()?;
    print!("{}", o.stdout_text());
    eprint!("{}", o.stderr_text());
    println!("{}", serde_json::to_string_pretty(&o).unwrap());
    Ok(())
}
