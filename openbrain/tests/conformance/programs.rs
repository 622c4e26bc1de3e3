//! Programs of the host's system directories, at work in a sandbox.

use crate::support::Fixture;

/// Runs a script that must succeed, and returns what it printed.
async fn printed(f: &Fixture, script: &str) -> String {
    let output = f.run(f.shell(script)).await;
    assert!(output.success(), "{}{}", output.stdout_text(), output.stderr_text());
    output.stdout_text()
}

pub(crate) async fn git_works(f: &Fixture) {
    let script = "git init -q . && echo hello > file && git add file && \
                  git -c user.name=a -c user.email=a@b commit -qm one && git log --format=%s";
    assert_eq!(printed(f, script).await, "one\n");
}

pub(crate) async fn make_and_cc_work(f: &Fixture) {
    let script = "printf 'int puts(const char *);int main(void){puts(\"made\");}' > a.c && \
                  printf 'a: a.c\\n\\tcc -o a a.c\\n' > Makefile && make -s && ./a";
    assert_eq!(printed(f, script).await, "made\n");
}

pub(crate) async fn node_and_npm_work(f: &Fixture) {
    let script = "npm init -y > /dev/null && node -p 'require(\"./package.json\").version'";
    assert_eq!(printed(f, script).await, "1.0.0\n");
}

/// A wheel made on the spot: a package index needs a network.
pub(crate) async fn pip_installs_what_is_mounted(f: &Fixture) {
    let script = r#"
set -e
python3 - <<'EOF'
import zipfile
with zipfile.ZipFile("thing-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("thing.py", "word = 'installed'")
    info = "thing-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
EOF
export PIP_BREAK_SYSTEM_PACKAGES=1
/usr/bin/python3 -m pip install --quiet --no-index --user ./thing-1.0-py3-none-any.whl >&2
/usr/bin/python3 -c 'import thing; print(thing.word)'
"#;
    assert_eq!(printed(f, script).await, "installed\n");
}
