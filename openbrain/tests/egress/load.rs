//! Much at once, much in a row, and peers that do not behave.

use std::time::{Duration, Instant};

use openbrain::Exec;

use crate::world::{World, engine, exchanged, run, said};

fn python(source: &str) -> openbrain::Output {
    let exec = Exec::script("python", source).sandbox().timeout(Duration::from_secs(120));
    engine("{}").run_blocking(exec).expect("the sandbox starts")
}

stages! {
    fn a_gigabyte_comes_down_and_goes_up_unchanged(_world: &World) {
        let output = python(r#"
import http.client, zlib
pattern, size = bytes(range(256)) * 4096, 1 << 30
expected = 0
for _ in range(size >> 20):
    expected = zlib.crc32(pattern, expected)
down = http.client.HTTPConnection("www.example", 80, timeout=60)
down.request("GET", f"/bytes?{size}")
response, crc, count = down.getresponse(), 0, 0
while chunk := response.read(1 << 20):
    crc, count = zlib.crc32(chunk, crc), count + len(chunk)
print(count == size, crc == expected)
up = http.client.HTTPConnection("www.example", 80, timeout=60)
up.putrequest("PUT", "/")
up.putheader("Content-Length", str(size))
up.endheaders()
for _ in range(size >> 20):
    up.send(pattern)
print(up.getresponse().read().decode() == f"{size} {expected}\n")
"#);
        assert_eq!(output.stdout_text(), "True True\nTrue\n", "{}", said(&output));
        let used = exchanged(&output, "www.example", 80);
        assert!(used.bytes_received > 1 << 30 && used.bytes_sent > 1 << 30, "{used:?}");
        assert!(output.duration < Duration::from_secs(60), "{:?}", output.duration);
    }

    fn five_hundred_downloads_at_once(_world: &World) {
        let output = python(r#"
import asyncio
async def get(n):
    reader, writer = await asyncio.open_connection("www.example", 80)
    writer.write(b"GET /bytes?100000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    body = (await reader.read()).split(b"\r\n\r\n", 1)[1]
    writer.close()
    return len(body)
async def all():
    print(set(await asyncio.gather(*map(get, range(500)))))
asyncio.run(all())
"#);
        assert_eq!(output.stdout_text(), "{100000}\n", "{}", said(&output));
        assert_eq!(exchanged(&output, "www.example", 80).connections, 500);
    }

    fn more_connections_than_places_wait(_world: &World) {
        // Each is held open until all that have a place have answered; the rest come after.
        let output = python(r#"
import socket
held = [socket.create_connection(("www.example", 7), 30) for _ in range(1500)]
held[0].sendall(b"x")
print(held[0].recv(1))
late = held[-1]
late.settimeout(0.5)
late.sendall(b"y")
try:
    print("early", late.recv(1))
except TimeoutError:
    print("waits")
for s in held[:1200]:
    s.close()
late.settimeout(20)
print(late.recv(1))
"#);
        assert_eq!(output.stdout_text(), "b'x'\nwaits\nb'y'\n", "{}", said(&output));
    }

    fn a_flood_of_connections_harms_nobody_else(_world: &World) {
        let flood = r#"
import socket
for n in range(10000):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("203.0.113.5", 80 if n % 2 else 7))
    s.close()
print("done")
"#;
        let other = std::thread::spawn(|| python(flood));
        let started = Instant::now();
        while !other.is_finished() {
            let beside = run("curl -sS -m 9 http://www.example/hello", |exec| exec);
            assert_eq!(beside.stdout_text(), "hello over v4\n", "{}", said(&beside));
        }
        let output = other.join().unwrap();
        assert_eq!(output.stdout_text(), "done\n", "{}", said(&output));
        assert!(started.elapsed() < Duration::from_secs(60));
        // What the servers still have to end is waited for, for five seconds.
        let left = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let deadline = Instant::now() + Duration::from_secs(9);
        while left() > 50 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(left() <= 50, "{} descriptors are left", left());
    }

    fn half_open_connections_are_kept_apart(_world: &World) {
        let output = python(r#"
import socket
held = []
for n in range(200):
    s = socket.create_connection(("www.example", 9), 9)
    s.sendall(b"x")
    held.append(s)
s = socket.create_connection(("www.example", 7), 9)
s.sendall(b"through")
s.shutdown(socket.SHUT_WR)
print(s.recv(99), s.recv(99))
"#);
        assert_eq!(output.stdout_text(), "b'through' b''\n", "{}", said(&output));
        assert!(output.duration < Duration::from_secs(20));
    }

    fn a_receiver_that_does_not_read_slows_the_sender(_world: &World) {
        let output = python(r#"
import socket
s = socket.create_connection(("www.example", 9), 9)
s.settimeout(1)
sent = 0
try:
    while sent < 1 << 30:
        sent += s.send(bytes(1 << 16))
except TimeoutError:
    pass
print(sent < 100 << 20)
"#);
        assert_eq!(output.stdout_text(), "True\n", "{}", said(&output));
    }

    fn a_trickle_arrives_as_it_comes(_world: &World) {
        let output = python(r#"
import http.client, time
c = http.client.HTTPConnection("www.example", 80, timeout=9)
c.request("GET", "/trickle")
r, times = c.getresponse(), []
while r.read(1):
    times.append(time.time())
gaps = [b - a for a, b in zip(times, times[1:])]
print(len(times), max(gaps) < 0.3)
"#);
        assert_eq!(output.stdout_text(), "10 True\n", "{}", said(&output));
    }

    fn what_is_sent_last_arrives(world: &World) {
        let output = python(r#"
import socket
s = socket.create_connection(("www.example", 26), 9)
s.sendall(bytes(3 << 20))
"#);
        assert!(output.success(), "{}", said(&output));
        assert_eq!(exchanged(&output, "www.example", 26).bytes_sent, 3 << 20);
        let deadline = Instant::now() + Duration::from_secs(5);
        let swallowed = || std::fs::read_to_string(world.path("swallowed")).unwrap_or_default();
        while swallowed().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(swallowed(), format!("{}\n", 3 << 20));
    }

    fn a_connection_that_breaks_off_is_no_complete_one(_world: &World) {
        let output = python(r#"
import socket
s = socket.create_connection(("www.example", 27), 9)
try:
    while chunk := s.recv(99):
        print(chunk)
    print("complete")
except ConnectionResetError:
    print("reset")
"#);
        assert_eq!(output.stdout_text(), "b'half'\nreset\n", "{}", said(&output));
    }

    fn what_nobody_answers_is_counted_as_failed(world: &World) {
        let output = run("curl -sS -m 9 http://www.example:81/; curl -sS -m 9 http://192.0.2.2:82", |exec| exec);
        assert!(!output.success());
        let used = exchanged(&output, "www.example", 81);
        assert!(used.failed >= 1 && used.bytes_received == 0, "{used:?}");
        world.ip_there("link set eth0 down");
        let gone = run("curl -sS -m 3 http://203.0.113.5/", |exec| exec);
        assert!(!gone.success() && gone.duration < Duration::from_secs(9));
    }

    fn a_deadline_ends_a_transfer(_world: &World) {
        let exec = Exec::new("curl -sS http://www.example/bytes?100000000000 > /dev/null");
        let started = Instant::now();
        let output = engine("{}").run_blocking(exec.sandbox().timeout(Duration::from_secs(1)));
        assert!(output.unwrap().timed_out());
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
