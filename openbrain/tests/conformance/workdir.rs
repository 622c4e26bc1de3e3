//! Where a command starts.

use openbrain::ErrorKind;

use crate::support::{Fixture, text};

pub(crate) async fn a_directory_is_entered(f: &Fixture) {
    let output = f.run(f.argv(["pwd", "-P"]).workdir("/usr/bin")).await;
    assert_eq!(output.stdout_text(), "/usr/bin\n");
}

pub(crate) async fn a_missing_directory_is_refused(f: &Fixture) {
    let exec = f.share(f.shell("touch \"$DIR/marker\"")).workdir("/no/such/directory");
    let error = f.refused(exec).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
    assert!(error.to_string().contains("`/no/such/directory`"), "{error:?}");
    assert!(!f.directory().join("marker").exists());
}

pub(crate) async fn a_file_is_refused(f: &Fixture) {
    let error = f.refused(f.argv(["true"]).workdir("/etc/passwd")).await;
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
}

pub(crate) async fn the_callers_directory_is_the_default(f: &Fixture) {
    let own = std::env::current_dir().unwrap().canonicalize().unwrap();
    let output = f.run(f.argv(["pwd", "-P"])).await;
    assert_eq!(output.stdout_text(), format!("{}\n", text(&own)));
}

pub(crate) async fn the_workspace_is_the_default(f: &Fixture) {
    let output = f.run(f.argv(["pwd", "-P"])).await;
    assert_eq!(output.stdout_text(), "/workspace\n");
}

pub(crate) async fn a_relative_directory_is_refused(f: &Fixture) {
    for path in ["tmp", ".", "/tmp/../etc", ""] {
        let error = f.refused(f.argv(["true"]).workdir(path)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error:?}");
    }
}

pub(crate) async fn a_directory_of_a_mount_is_entered(f: &Fixture) {
    f.file("below/file", "here\n", 0o644);
    let exec = f.argv(["cat", "file"]).mount(f.directory()).workdir("/workspace/below");
    assert_eq!(f.run(exec).await.stdout_text(), "here\n");
}
