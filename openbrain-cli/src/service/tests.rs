//! The service with real commands on the host.

use std::{sync::Arc, time::Duration};

use openbrain::{Caller, Exec, Limits, Settings, Status, Stdin, Surface, settings::AuditedExecs};

use super::{InputFailure, Item, Refusal, Service, Stream};

fn service(change: impl FnOnce(&mut Settings)) -> Arc<Service> {
    let mut settings = Settings::default();
    settings.audit.execs = AuditedExecs::None;
    change(&mut settings);
    Service::new(settings)
}

fn caller() -> Caller {
    Caller::new(Surface::Rest).named("uid:0")
}

#[tokio::test]
async fn a_command_outlives_its_request_and_is_found_again() {
    let service = service(|_| {});
    let exec = Exec::new("read line; echo got $line; echo oops >&2; exit 3").stdin(Stdin::Pipe);
    let id = service.keep(exec, caller(), None).await.unwrap().exec_id().to_owned();
    let kept = service.find(&id).unwrap();
    assert!(kept.outcome().is_none());
    kept.write(b"it\n", true).await.unwrap();
    kept.ended().await;
    let outcome = kept.outcome().unwrap();
    let output = outcome.as_ref().as_ref().unwrap();
    assert_eq!((output.status, output.stdout_text()), (Status::Exited(3), "got it\n".into()));
    assert_eq!(kept.read(Stream::Stderr, 2, 9).bytes, b"ps\n");
    assert_eq!(kept.write(b"more", true).await, Err(InputFailure::Closed));
    assert_eq!(service.list(&caller()).len(), 1);
    assert_eq!(service.list(&caller().named("uid:1")).len(), 0);
}

#[tokio::test]
async fn events_go_on_after_a_gap_and_end() {
    let service = service(|_| {});
    let limits = Limits { output: Some(100_000), ..Limits::default() };
    let exec = Exec::new("head -c 5000000 /dev/zero | tr '\\0' x; echo end").limits(limits);
    let kept = service.keep(exec, caller(), None).await.unwrap();
    kept.ended().await;
    let (mut seq, mut gaps, mut text) = (0, 0, String::new());
    while let Some(item) = kept.event_after(seq).await {
        match item {
            Item::Gap { from_seq, to_seq } => {
                assert_eq!(from_seq, seq + 1);
                (seq, gaps) = (to_seq, gaps + 1);
            }
            Item::Lost { .. } => panic!("the command was lost"),
            Item::Record(record) => {
                assert_eq!(record.seq, seq + 1);
                seq = record.seq;
                text += &serde_json::to_string(&record).unwrap();
            }
        }
    }
    assert_eq!(gaps, 1);
    assert!(text.contains("end\\n\"") && text.contains(r#""type":"ended""#), "{text:.200}");
    assert!(service.shelf.used() < 300_000, "{}", service.shelf.used());
}

#[tokio::test]
async fn memory_is_for_all_together() {
    let service = service(|settings| settings.server.max_kept_output = 1 << 20);
    let exec = || Exec::new("head -c 4000000 /dev/zero");
    let first = service.keep(exec(), caller(), None).await.unwrap();
    first.ended().await;
    let second = service.keep(exec(), caller(), None).await.unwrap();
    second.ended().await;
    // Every command may have a little in spite of the bound.
    assert!(service.shelf.used() <= 5 << 18, "{}", service.shelf.used());
    assert!(service.find(second.exec_id()).is_some());
}

/// What is on its way to a client is in memory, so it takes up a place until it is gone.
#[tokio::test]
async fn a_result_has_its_place_until_it_is_let_go() {
    let service = service(|settings| {
        settings.server.max_execs = 1;
        settings.server.max_queue = 0;
    });
    let attached = service.attach(Exec::new("echo hello"), caller(), None).await.unwrap();
    let (output, place) = attached.wait().await.unwrap();
    assert!(output.success());
    let second = service.attach(Exec::new("true"), caller(), None).await;
    assert!(matches!(second, Err(Refusal::Busy { .. })), "{second:?}");
    drop(place);
    service.attach(Exec::new("true"), caller(), None).await.unwrap();
}

/// A remembered result does not keep what the sandbox has written: that is memory, as much as its limit.
#[tokio::test]
async fn a_remembered_report_of_changes_lets_the_sandbox_go() {
    let service = service(|_| {});
    if !openbrain::doctor(service.settings()).ok() {
        eprintln!("SKIPPED: no sandbox can be had here");
        return;
    }
    let place = tempfile::TempDir::new().unwrap();
    let mut settings = service.settings().clone();
    settings.server.allowed_mounts = vec![place.path().to_owned()];
    let service = Service::new(settings);
    let mount = openbrain::Mount {
        mode: openbrain::MountMode::Overlay,
        ..openbrain::Mount::workspace(place.path())
    };
    let exec = Exec::new("echo new > file").sandbox().mount_at(mount).changes();
    let kept = service.keep(exec, caller(), None).await.unwrap();
    kept.ended().await;
    let outcome = kept.outcome().unwrap();
    let mut changes = outcome.as_ref().as_ref().unwrap().changes.clone().unwrap();
    assert_eq!(changes.entries[0].to_string(), "A /workspace/file");
    assert!(kept.cost() > 0);
    // There is nothing left to be saved.
    changes.save(&place.path().join("saved")).unwrap_err();
}

#[tokio::test]
async fn a_request_that_is_given_up_kills_its_command() {
    let service = service(|_| {});
    let attached = service.attach(Exec::new("sleep 1000"), caller(), None).await.unwrap();
    assert_eq!(service.running(), 1);
    drop(attached);
    service.running.none().await;
}

#[tokio::test]
async fn too_many_are_sent_away() {
    let service = service(|settings| {
        settings.server.max_execs = 1;
        settings.server.max_queue = 0;
    });
    let first = service.attach(Exec::new("sleep 1000"), caller(), None).await.unwrap();
    let second = service.attach(Exec::new("true"), caller(), None).await;
    assert!(matches!(second, Err(Refusal::Busy { .. })), "{second:?}");
    drop(first);
    assert!(service.metrics().contains(r#"code="busy"} 1"#));
}

#[tokio::test]
async fn a_service_that_ends_waits_and_then_kills() {
    let service = service(|settings| settings.server.drain = Duration::from_millis(300));
    let short = service.keep(Exec::new("sleep 0.1; echo done"), caller(), None).await.unwrap();
    let long = service.keep(Exec::new("sleep 1000"), caller(), None).await.unwrap();
    service.close().await;
    assert!(short.outcome().unwrap().as_ref().as_ref().unwrap().success());
    let outcome = long.outcome().unwrap();
    assert_eq!(outcome.as_ref().as_ref().unwrap().status, Status::Cancelled);
    let late = service.attach(Exec::new("true"), caller(), None).await;
    assert!(matches!(late, Err(Refusal::Closing)));
}

#[tokio::test]
async fn what_may_be_secret_is_not_remembered() {
    let service = service(|_| {});
    let exec = Exec::new("true").env("KEY", "hidden").stdin_bytes(b"hidden");
    let kept = service.keep(exec, caller(), None).await.unwrap();
    assert!(!format!("{:?}", kept.exec()).contains("hidden"));
}

#[tokio::test]
async fn a_long_request_is_not_remembered() {
    let service = service(|_| {});
    let long = "x".repeat(1 << 20);
    for exec in [
        Exec::new(format!("true {long}")),
        Exec::argv(std::iter::once("true".to_owned()).chain((0..9999).map(|n| n.to_string()))),
        Exec::new("true").env(&long[..100_000], "").stdin_bytes(long.clone()),
    ] {
        let kept = service.keep(exec, caller(), None).await.unwrap();
        kept.ended().await;
        assert!(format!("{:?}", kept.exec()).len() < 8 << 10, "{:?}", kept.exec());
    }
}
