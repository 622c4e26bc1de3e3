//! Process trees that are hard to end.

use std::time::Duration;

use openbrain::Exec;

use crate::support::{Fixture, Leash, UP};

/// A script whose processes hold a [`Leash`].
#[derive(Debug)]
pub(crate) struct Tree {
    script: &'static str,
    /// How many lines it writes to the leash before all of it runs.
    lines: usize,
}

/// From the deadline, or from the order, to the result.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(1);

pub(crate) const SLEEPER: Tree = Tree { script: "exec sleep 1000", lines: 1 };

pub(crate) const IGNORES_TERM: Tree =
    Tree { script: "trap '' TERM; echo up >&9; while :; do sleep 1000; done", lines: 2 };

pub(crate) const GRANDCHILD: Tree =
    Tree { script: "sleep 1000 \"$MARK\" & echo up >&9; wait", lines: 2 };

/// In a session of its own.
pub(crate) const DAEMON: Tree = Tree {
    script: "setsid sh -c 'echo up >&9; exec sleep 1000 \"$0\"' \"$MARK\" & wait",
    lines: 2,
};

/// In a session of its own, its parent gone, its streams closed.
pub(crate) const DETACHED: Tree = Tree {
    script: "(setsid sh -c 'echo up >&9; exec sleep 1000 \"$0\"' \"$MARK\" <&- >&- 2>&- &); \
             sleep 1000",
    lines: 2,
};

/// As before, and not even on the leash.
pub(crate) const HIDDEN: Tree = Tree {
    script: "(setsid sh -c 'echo up >&9; exec 9>&- <&- >&- 2>&-; exec sleep 1000 \"$0\"' \"$MARK\" &); \
             sleep 1000",
    lines: 2,
};

pub(crate) const STOPPED: Tree = Tree {
    script: "sleep 1000 \"$MARK\" & kill -STOP $!; echo up >&9; kill -STOP $$; wait",
    lines: 2,
};

pub(crate) const OTHER_GROUP: Tree =
    Tree { script: "set -m; sleep 1000 \"$MARK\" & set +m; echo up >&9; wait", lines: 2 };

/// All of them.
pub(crate) const ALL: [Tree; 8] =
    [SLEEPER, IGNORES_TERM, GRANDCHILD, DAEMON, DETACHED, HIDDEN, STOPPED, OTHER_GROUP];

impl Tree {
    /// The command that grows the tree, and a leash for it.
    pub(crate) fn plant(&self, f: &Fixture) -> (Exec, Leash) {
        let leash = f.leash();
        (leash.hold(f, f.shell(self.source())), leash)
    }

    /// The script itself.
    pub(crate) fn source(&self) -> String {
        format!("echo so far; {UP}; {}", self.script)
    }

    /// Waits until all of it runs.
    pub(crate) async fn up(&self, leash: &mut Leash) {
        leash.up(self.lines).await;
    }

    /// How many lines it writes to the leash.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }
}
