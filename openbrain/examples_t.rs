use openbrain::*;
use std::time::*;
fn main() {
    let rt =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let which = std::env::args().nth(1).unwrap_or_default();
    let mut s = Settings::default();
    if which.contains("nolim") {
        s.security.sandbox.limits.memory = None;
        s.security.sandbox.limits.pids = None;
    }
    let e = Engine::new(s);
    let n = 200;
    let mut v = vec![];
    for _ in 0..n {
        let t = Instant::now();
        let x = if which.contains("direct") {
            Exec::argv(["true"])
        } else {
            Exec::argv(["true"]).sandbox()
        };
        assert!(rt.block_on(e.run(x)).unwrap().success());
        v.push(t.elapsed());
    }
    v.sort();
    println!("{which}: p10 {:?} p50 {:?} p90 {:?}", v[n / 10], v[n / 2], v[n * 9 / 10]);
}
