//! Traces reach a collector, in builds with the feature `otlp`.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[test]
fn a_request_is_a_span_of_the_callers_trace() {
    let (collector, received) = collector();
    let mut server = serve(&collector);
    let address = listening(&mut server);
    let mut connection = TcpStream::connect(&address).unwrap();
    let request = format!(
        "GET /version HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).unwrap();
    connection.read_to_end(&mut Vec::new()).unwrap();
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
    let body = received.join().unwrap();
    let contains = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    let trace = u128::from_str_radix(TRACE, 16).unwrap().to_be_bytes();
    assert!(contains(&trace), "not the caller's trace");
    assert!(contains(b"/version") && contains(b"openbrain"));
}

#[test]
fn a_collector_that_cannot_be_meant_is_refused() {
    let output = serve("collector:4318").wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no address of a collector"));
}

fn serve(collector: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_openbrain"))
        .args(["serve", "--listen", "127.0.0.1:0", "--otlp", collector])
        .current_dir("/")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The address that a server says it listens on.
fn listening(server: &mut Child) -> String {
    let mut line = String::new();
    let mut stderr = BufReader::new(server.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    // Somebody must read the rest.
    thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    line.trim().rsplit_once("http://").unwrap().1.to_owned()
}

/// A collector that takes one message.
fn collector() -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let received = thread::spawn(move || {
        let mut connection = BufReader::new(listener.accept().unwrap().0);
        let (mut length, mut line) = (0, String::new());
        while connection.read_line(&mut line).unwrap() > 2 {
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        connection.get_mut().write_all(answer).unwrap();
        body
    });
    (address, received)
}
