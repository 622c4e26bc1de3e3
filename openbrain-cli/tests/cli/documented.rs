//! Every documented line works as it is written; what needs a network has a local stand-in.

use crate::support::{Place, installed, sandboxes};

const PROGRAM: &str = "import os\nprint(os.listdir(\"/\"))  # Only sees sandbox fs\n";

#[test]
fn a_command_runs_on_the_host() {
    Place::new()
        .run(&["exec", "echo pip install requests"])
        .code(0)
        .prints("pip install requests\n");
}

#[test]
fn a_command_runs_in_a_sandbox() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    let ran = place.run(&["exec", "--sandbox", "echo pip install requests"]).code(0);
    assert_eq!(ran.stdout, "pip install requests\n");
    let ran = place.run(&["exec", "--sandbox", "--timeout", "600", "echo make install"]).code(0);
    assert_eq!(ran.stdout, "make install\n");
    let ran = place.run(&["exec", "--sandbox", "--allow-network", "true", "echo curl"]).code(0);
    assert_eq!(ran.stdout, "curl\n");
}

#[test]
fn a_mount_is_the_working_directory() {
    if !sandboxes() {
        return;
    }
    let place = Place::new();
    place.file("workspace/inside", "");
    let ran = place.run(&["exec", "--sandbox", "--mount", "workspace", "ls; touch new"]);
    assert_eq!(ran.code(0).stdout, "inside\n");
    assert!(place.path().join("workspace/new").exists());
}

#[test]
fn a_program_on_stdin_is_python() {
    if !installed("python3") {
        return;
    }
    let ran = Place::new().run_with(&["exec"], PROGRAM).code(0);
    assert!(ran.stdout.contains("'usr'"), "{ran:#?}");
}

#[test]
fn a_program_on_stdin_sees_the_sandbox_only() {
    if !sandboxes() || !installed("python3") {
        return;
    }
    let place = Place::new();
    let program = format!("import os\nprint(os.path.exists({:?}))\n", place.path());
    place.run_with(&["exec", "--sandbox"], PROGRAM).code(0);
    assert_eq!(place.run_with(&["exec", "--sandbox"], program).code(0).stdout, "False\n");
}
