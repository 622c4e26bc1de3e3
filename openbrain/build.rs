//! Compiles the helper (`helper/main.rs`) with the same compiler, for the same target, without any
//! library, so that the crate carries it and nothing has to be installed beside it.

use std::{env, path::Path, process::Command};

fn main() {
    // A directory stands for everything in it.
    println!("cargo:rerun-if-changed=helper");
    let out_dir = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let rustc = env::var("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let mut command = Command::new(rustc);
    command
        .args([
            "helper/main.rs",
            "--edition=2024",
            "--crate-type=bin",
            "--crate-name=openbrain_helper",
        ])
        .args(["--target", &target, "-o"])
        .arg(Path::new(&out_dir).join("helper"))
        .args(["-C", "panic=abort", "-C", "force-unwind-tables=no"])
        .args(["-C", "opt-level=s", "-C", "strip=symbols"])
        .args(["-C", "relocation-model=static", "-C", "codegen-units=1", "-C", "lto=fat"])
        .args([
            "-C",
            "link-arg=-nostdlib",
            "-C",
            "link-arg=-nostartfiles",
            "-C",
            "link-arg=-static",
        ])
        .args(["-C", "link-arg=-Wl,--build-id=none,--gc-sections,-z,noexecstack"]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        command.arg("-C").arg(format!("linker={linker}"));
    }
    let status = command.status().expect("rustc can be started");
    assert!(
        status.success(),
        "the helper could not be compiled: see above; a linker (cc) must be installed"
    );
}
