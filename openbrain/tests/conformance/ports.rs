//! Ports of a sandbox, from outside.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use openbrain::{Connection, ErrorKind, Exec, NewSandbox, Process, Sandbox};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::TcpStream,
};

use crate::support::{Fixture, until};

pub(crate) const PORT: u16 = 7000;
const SOON: Duration = Duration::from_secs(60);

/// Serves connections one after the other, each in a thread of its own.
const SERVER: &str = r#"
import socket, sys, threading
def serve(handle, family=socket.AF_INET, address="127.0.0.1"):
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 7000))
    listener.listen(128)
    print("up", flush=True)
    while True:
        threading.Thread(target=handle, args=(listener.accept()[0],)).start()
def echo(peer):
    while piece := peer.recv(65536):
        peer.sendall(piece)
    peer.close()
"#;

/// A server in a sandbox, which listens.
pub(crate) async fn serving(sandbox: &Sandbox, program: &str) -> Process {
    let exec = Exec::script("python", format!("{SERVER}\n{program}"));
    let mut process = sandbox.spawn(exec).await.unwrap();
    until(&mut process, "up\n").await;
    process
}

pub(crate) async fn ask(connection: &mut Connection, question: &[u8]) -> Vec<u8> {
    connection.write_all(question).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    answer
}

pub(crate) async fn a_port_is_connected_to(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let _server = serving(&sandbox, "serve(echo)").await;
    for question in [&b"a question"[..], &[0, 255, 10, 13], b""] {
        let mut connection = sandbox.connect(PORT).await.unwrap();
        assert_eq!(ask(&mut connection, question).await, question);
        // At the end it stays at the end.
        assert_eq!(connection.read(&mut [0; 8]).await.unwrap(), 0);
        let error = connection.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

/// Both directions at once, with more than fits anywhere on the way.
pub(crate) async fn much_goes_both_ways_through_a_port(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let _server = serving(&sandbox, "serve(echo)").await;
    let sent: Vec<u8> = (0..3 << 20).map(|n: u32| (n / 3) as u8).collect();
    let (mut reader, mut writer) = split(sandbox.connect(PORT).await.unwrap());
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let read = async {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        got
    };
    let ((), got) = tokio::join!(write, read);
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
}

/// Each side ends what it writes when it likes.
pub(crate) async fn each_side_of_a_connection_ends_by_itself(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let program = "
def first(peer):
    peer.sendall(b'mine'); peer.shutdown(socket.SHUT_WR)
    print('got', peer.makefile('rb').read(), flush=True); peer.close()
serve(first)";
    let mut server = serving(&sandbox, program).await;
    let mut connection = sandbox.connect(PORT).await.unwrap();
    let mut got = Vec::new();
    connection.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"mine");
    connection.write_all(b"yours").await.unwrap();
    connection.shutdown().await.unwrap();
    until(&mut server, "got b'yours'").await;
}

pub(crate) async fn a_dropped_connection_is_closed_after_what_was_written(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let program = "
def told(peer):
    print('got', peer.makefile('rb').read(), flush=True)
serve(told)";
    let mut server = serving(&sandbox, program).await;
    let mut connection = sandbox.connect(PORT).await.unwrap();
    connection.write_all(b"the last word").await.unwrap();
    drop(connection);
    until(&mut server, "got b'the last word'").await;
}

/// A server that is gone is an error for who reads, and for who writes.
pub(crate) async fn a_broken_connection_is_told(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let program = "
import struct
def broken(peer):
    peer.recv(1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); peer.close()
serve(broken)";
    let _server = serving(&sandbox, program).await;
    let mut connection = sandbox.connect(PORT).await.unwrap();
    connection.write_all(b"x").await.unwrap();
    let error = connection.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    let write = async { while connection.write_all(&[0; 4096]).await.is_ok() {} };
    tokio::time::timeout(SOON, write).await.unwrap();
}

/// Containers of a server often have no IPv6.
pub(crate) async fn ipv6_is_connected_to(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let _server = serving(&sandbox, "serve(echo, socket.AF_INET6, '::1')").await;
    let mut connection = sandbox.connect(PORT).await.unwrap();
    assert_eq!(ask(&mut connection, b"six").await, b"six");
}

pub(crate) async fn a_port_that_nobody_listens_on_is_refused(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let error = sandbox.connect(PORT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionFailed, "{error}");
    assert_eq!(error.io_kind(), Some(io::ErrorKind::ConnectionRefused), "{error}");
    assert!(error.to_string().contains("port 7000") && error.remedy().is_some(), "{error:?}");
    let error = sandbox.wait_for_port(PORT, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitFailed, "{error}");
    assert_eq!(error.io_kind(), Some(io::ErrorKind::TimedOut), "{error}");
    sandbox.kill().await.unwrap();
    let error = sandbox.connect(PORT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SandboxLost, "{error}");
}

pub(crate) async fn a_port_is_waited_for(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    sandbox.run(Exec::new("mkfifo /tmp/go")).await.unwrap();
    let exec = Exec::script("python", format!("{SERVER}\nopen('/tmp/go').read()\nserve(echo)"));
    let _server = sandbox.spawn(exec).await.unwrap();
    let waiting = sandbox.wait_for_port(PORT, SOON);
    tokio::pin!(waiting);
    let go = sandbox.run(Exec::new("echo go >/tmp/go"));
    tokio::select! {
        biased;
        waited = &mut waiting => panic!("nothing listened: {waited:?}"),
        gone = go => assert!(gone.unwrap().success()),
    }
    waiting.await.unwrap();
    let mut connection = sandbox.connect(PORT).await.unwrap();
    assert_eq!(ask(&mut connection, b"there").await, b"there");
}

async fn ask_at(address: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(question).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

pub(crate) async fn a_port_is_forwarded(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let _server = serving(&sandbox, "serve(echo)").await;
    let forward = sandbox.forward(PORT).await.unwrap();
    let address = forward.local_addr();
    assert!(address.ip().is_loopback() && address.port() != 0);
    let (one, two) = tokio::join!(ask_at(address, b"one"), ask_at(address, b"two"));
    assert_eq!((one.unwrap(), two.unwrap()), (b"one".to_vec(), b"two".to_vec()));
    // Open connections end with the forward.
    let mut open = TcpStream::connect(address).await.unwrap();
    open.write_all(b"x").await.unwrap();
    assert_eq!(open.read(&mut [0; 8]).await.unwrap(), 1);
    drop(forward);
    assert!(matches!(open.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    let refused = ask_at(address, b"x").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

pub(crate) async fn what_cannot_be_forwarded_is_told(f: &Fixture) {
    let mut sandbox = f.create(NewSandbox::default()).await;
    for local in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
        let error = sandbox.forward_to(PORT, local.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{local}: {error}");
    }
    let mut forward = sandbox.forward(PORT).await.unwrap();
    let taken = sandbox.forward_to(PORT, forward.local_addr()).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::ConnectionFailed, "{taken}");
    assert_eq!(taken.io_kind(), Some(io::ErrorKind::AddrInUse));
    // Nobody listens: no empty answer, and the next one may find somebody.
    let refused = ask_at(forward.local_addr(), b"x").await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionReset, "{refused}");
    let _server = serving(&sandbox, "serve(echo)").await;
    assert_eq!(ask_at(forward.local_addr(), b"x").await.unwrap(), b"x");
    // It does not keep the sandbox open, and ends with it.
    sandbox = f.create(NewSandbox::default()).await;
    assert!(ask_at(forward.local_addr(), b"x").await.is_err());
    assert_eq!(forward.ended().await.kind(), ErrorKind::SandboxLost);
    drop(sandbox);
}

/// More connections than are relayed at a time, and other commands find a place beside them.
pub(crate) async fn many_connections_are_forwarded(f: &Fixture) {
    let sandbox = f.create(NewSandbox::default()).await;
    let _server = serving(&sandbox, "serve(echo)").await;
    let forward = sandbox.forward_to(PORT, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(forward.local_addr()).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 1);
        open.push(stream);
    }
    let mut waits = TcpStream::connect(forward.local_addr()).await.unwrap();
    waits.write_all(b"y").await.unwrap();
    sandbox.run(Exec::new("true")).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), waits.read(&mut [0; 8])).await;
    assert!(early.is_err(), "{early:?}");
    open.pop();
    assert_eq!(waits.read(&mut [0; 8]).await.unwrap(), 1);
}
