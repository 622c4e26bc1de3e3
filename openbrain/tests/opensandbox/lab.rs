//! What every test works with: a way to the server on which faults can be made, and a look at what
//! is left.

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use openbrain::{
    Engine, Error, Event, Exec, Output, Process, Settings,
    opensandbox::{Client, Connection, ListFilter, Sandbox},
};
use tokio::time::{sleep, timeout};

use crate::front::{Front, Seen};

/// No test takes longer than this, whatever goes wrong.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// How long a sandbox may outlive its run: a deletion and, where the server was away, its retries.
const GONE: Duration = Duration::from_secs(40);

/// The label that the front gives to every sandbox of a test.
pub(crate) const LABEL: &str = "openbrain-test";

/// A test that needs the whole machine runs alone; all others run beside each other.
static MACHINE: RwLock<()> = RwLock::new(());

/// Where the engine of a test sends its requests, and what it made there.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) front: Front,
    /// Sees what all servers on this engine see, whatever is done to the front.
    pub(crate) look: Client,
    label: String,
}

/// Runs a test, bounded in time, and looks whether it left a sandbox.
pub(crate) fn run(name: &str, test: impl AsyncFnOnce(&Lab)) {
    let _beside = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    run_for(BOUND, name, test);
}

/// As [`run`], with the machine for itself.
pub(crate) fn run_alone(bound: Duration, name: &str, test: impl AsyncFnOnce(&Lab)) {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    run_for(bound, name, test);
}

fn run_for(bound: Duration, name: &str, test: impl AsyncFnOnce(&Lab)) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let lab = Lab::new(name).await;
        let ended = timeout(bound, test(&lab)).await;
        assert!(ended.is_ok(), "not within {bound:?}; the front saw {:#?}", lab.front.seen());
        lab.empty(GONE).await;
    });
    runtime.shutdown_background();
}

/// One of the variables that tell of the server.
pub(crate) fn variable(name: &str) -> String {
    let name = format!("TEST_OPENSANDBOX_{name}");
    if let Ok(value) = env::var(&name) {
        return value;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = here.ancestors().map(|directory| directory.join("target/opensandbox/env"));
    let text = files.into_iter().find_map(|file| fs::read_to_string(file).ok());
    let found = text.as_deref().and_then(|text| {
        text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name)
    });
    match found {
        Some((_, value)) => value.to_owned(),
        None => panic!("no OpenSandbox server to test with: run `.ci/opensandbox up`"),
    }
}

pub(crate) fn connection(url: &str) -> Connection {
    let mut connection = Connection::new(url);
    connection.api_key = Some(variable("KEY").into());
    connection
}

impl Lab {
    async fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let label = format!("{}-{count}-{name}", std::process::id());
        let label: String = label.replace("::", ".").chars().take(63).collect();
        let url = variable("URL");
        let front = Front::start(url.strip_prefix("http://").unwrap(), &label).await;
        Self { front, look: Client::new(connection(&url)).unwrap(), label }
    }

    /// Leads the front to the common server, which knows the sandboxes of every other one: as if
    /// that were back.
    pub(crate) fn lead_home(&self) {
        self.front.lead_to(variable("URL").strip_prefix("http://").unwrap());
    }

    /// Settings that lead to the front.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        let sandbox = &mut settings.security.sandbox;
        sandbox.server_url = Some(self.front.url());
        sandbox.api_key = Some(variable("KEY").into());
        sandbox.image = variable("IMAGE");
        settings
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::new(self.settings())
    }

    /// As [`Lab::engine`], with the agent's traffic through the server, and so through the front.
    pub(crate) fn engine_through_server(&self) -> Engine {
        let mut settings = self.settings();
        settings.security.sandbox.use_server_proxy = true;
        Engine::new(settings)
    }

    /// The error of a run, and how long it took to come.
    pub(crate) async fn error(&self, engine: &Engine, exec: Exec) -> (Error, Duration) {
        let start = Instant::now();
        match engine.run(exec).await {
            Ok(output) => panic!("no error but {output:?}"),
            Err(error) => (error, start.elapsed()),
        }
    }

    /// The sandboxes of this test.
    pub(crate) async fn sandboxes(&self) -> Vec<Sandbox> {
        let metadata = BTreeMap::from([(LABEL.to_owned(), self.label.clone())]);
        let filter = ListFilter { metadata, ..ListFilter::default() };
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match self.look.list(&filter).await {
                Ok(found) => return found,
                // A container that is being removed while the server looks at it fails the list.
                Err(failure) if Instant::now() > end => panic!("{failure}"),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// The one sandbox of this test.
    pub(crate) async fn sandbox(&self) -> Sandbox {
        let mut found = self.sandboxes().await;
        assert_eq!(found.len(), 1, "{found:#?}");
        found.remove(0)
    }

    /// Waits until no sandbox of this test is left.
    pub(crate) async fn empty(&self, bound: Duration) {
        let end = Instant::now() + bound;
        loop {
            let found = self.sandboxes().await;
            if found.is_empty() {
                return;
            }
            let seen = self.front.seen();
            assert!(Instant::now() < end, "left behind: {found:#?}\nthe front saw {seen:#?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The label of its sandboxes.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The requests that made a sandbox.
    pub(crate) fn creations(&self) -> Vec<Seen> {
        self.front.seen().into_iter().filter(Seen::creates).collect()
    }
}

/// A shell script in a sandbox.
pub(crate) fn shell(script: &str) -> Exec {
    Exec::new(script).sandbox()
}

/// A Python program in a sandbox.
pub(crate) fn python(source: &str) -> Exec {
    Exec::argv(["python3", "-c", source]).sandbox()
}

/// Checks that an error says what happened and what to do.
#[track_caller]
pub(crate) fn assert_error(error: &Error, code: &str, words: &[&str], remedy: &str) {
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in `{text}`");
    }
    let found = error.remedy().unwrap_or_default();
    assert!(!found.is_empty() && found.contains(remedy), "`{remedy}` is not in `{found}`: {text}");
    assert!(!format!("{error:?}{error}{}", error.to_json()).contains(&variable("KEY")), "{text}");
}

/// Reads events until standard output has said `text`.
pub(crate) async fn until(process: &mut Process, text: &str) {
    let mut said = String::new();
    while !said.contains(text) {
        match process.next_event().await.unwrap() {
            Some(Event::Stdout(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("before `{text}`: {said:?}, then {other:?}"),
        }
    }
}

/// The rest of a run.
pub(crate) async fn rest(mut process: Process) -> Result<(Vec<u8>, Output), Error> {
    let mut stdout = Vec::new();
    loop {
        match process.next_event().await? {
            Some(Event::Stdout(bytes)) => stdout.extend(bytes),
            Some(Event::Ended(output)) => return Ok((stdout, *output)),
            Some(_) => {}
            None => panic!("no end"),
        }
    }
}
