//! `doctor`, `completions` and `man`.

use crate::support::Place;

#[test]
fn doctor_reports_in_both_forms() {
    let place = Place::new();
    let ran = place.run(&["doctor", "--json"]);
    let report = ran.json();
    let checks = report["checks"].as_array().unwrap();
    let failed = checks.iter().any(|check| check["status"] == "failed");
    assert_eq!(ran.code, Some(failed.into()), "{ran:#?}");
    let text = place.run(&["doctor"]).code(failed.into()).stdout;
    assert!(checks.iter().all(|check| text.contains(check["id"].as_str().unwrap())), "{text}");
    assert!(text.contains("right now"), "{text}");
}

#[test]
fn doctor_tells_of_broken_settings() {
    let place = Place::new();
    place.file("config/settings.yaml", "security:\n  mod: direct\n");
    let ran = place.run(&["doctor"]).code(1);
    assert!(ran.stdout.starts_with("failed   settings"), "{ran:#?}");
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.run(&["completions", shell]).code(0).stdout.contains("--allow-network"));
    }
    assert!(place.run(&["man"]).code(0).stdout.contains(".TH openbrain"));
    assert!(place.run(&["man", "exec"]).code(0).stdout.contains("allow\\-network"));
    place.run(&["man", "nothing"]).code(125).complains("`nothing` is no command");
}
