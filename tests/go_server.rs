//! A server of Go: many threads, a runtime that polls, and listeners of MPTCP, which Go makes by default since 1.24.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::conntrack;
use crate::harness::daemon::{Daemon, no_starts};
use crate::harness::dataset::Dataset;
use crate::harness::kernel::{OLDER_SOCKETS, WHO_CLOSED, lacks};
use crate::harness::namespace::Namespace;
use crate::harness::program::Program;

const CONNECTIONS: usize = 20;

/// Serves TCP at one port and MPTCP at another one. Older versions of Go have no function for the latter.
const SOURCE: &str = r#"
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

const ipprotoMPTCP = 262

func mptcp(port int) (net.Listener, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, ipprotoMPTCP)
	if err != nil {
		return nil, err
	}
	address := syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
	if err := syscall.Bind(fd, &address); err != nil {
		return nil, err
	}
	if err := syscall.Listen(fd, 128); err != nil {
		return nil, err
	}
	return net.FileListener(os.NewFile(uintptr(fd), "listener"))
}

func serve(listener net.Listener, err error) {
	if err != nil {
		panic(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			io.Copy(io.Discard, connection)
			connection.Close()
		}()
	}
}

func main() {
	tcp, err := net.Listen("tcp", "127.0.0.1:5000")
	if err != nil {
		panic(err)
	}
	other, err := mptcp(5001)
	fmt.Fprintln(os.Stderr, "listening")
	go serve(tcp, nil)
	go serve(other, err)
	// Ends with the test.
	io.Copy(io.Discard, os.Stdin)
}
"#;

#[test]
fn a_server_of_go_is_named_whether_it_is_older_or_newer() {
    let programs = tempfile::tempdir().unwrap();
    let Some(server) = build(programs.path()) else {
        println!("skipped: no Go compiler on this machine");
        return;
    };
    for is_older in [false, true] {
        let namespace = Namespace::tracked();
        let output = tempfile::tempdir().unwrap();
        let start = || {
            let running = Program::start_command(&namespace, Command::new(&server));
            running.wait_for("listening");
            running
        };
        let older = is_older.then(start);
        let daemon = Daemon::start(output.path(), &[&namespace], &[]);
        let running = older.unwrap_or_else(start);
        let closing = no_starts();
        for port in [5000, 5001] {
            for _ in 0..CONNECTIONS {
                let at: SocketAddr = ([127, 0, 0, 1], port).into();
                namespace.inside(|| TcpStream::connect(at).unwrap().write_all(b"request")).unwrap();
            }
        }
        conntrack::flush_closed(&namespace);
        drop(closing);
        let log = daemon.stop();
        if is_older && lacks(OLDER_SOCKETS) {
            continue;
        }

        let dataset = Dataset::read(output.path());
        for port in [5000, 5001] {
            let rows = dataset.rows_to(port);
            assert_eq!(rows.len(), CONNECTIONS, "{log}");
            for row in rows {
                assert_eq!(row.int("dst_pid"), Some(i64::from(running.pid())), "older: {is_older}, {row:?}");
                if !lacks(WHO_CLOSED) {
                    assert_eq!(row.text("dst_attribution"), Some("closer"), "older: {is_older}, {row:?}");
                }
            }
        }
    }
}

/// The program; `None` if there is no compiler.
fn build(directory: &Path) -> Option<PathBuf> {
    let [source, program] = ["server.go", "fl-go"].map(|name| directory.join(name));
    fs::write(&source, SOURCE).unwrap();
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&program).arg(&source);
    // Nothing is fetched, and nothing stays.
    command
        .env("GOCACHE", directory.join("cache"))
        .env("GOFLAGS", "-mod=mod")
        .env("GO111MODULE", "off")
        .env("HOME", directory);
    let built = command.status().ok()?;
    assert!(built.success(), "go cannot build the server: {built}");
    Some(program)
}
