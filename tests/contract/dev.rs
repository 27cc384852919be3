//! `quorate dev`: a cluster in one process.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::common::http::Request;
use crate::common::until;

/// The process, killed when dropped.
pub(crate) struct Dev {
    child: Child,
    port: u16,
}

impl Dev {
    /// Starts it and reads what it says, up to the last line that it promises.
    pub(crate) fn start(port: u16, args: &[&str]) -> (Self, String) {
        let mut command = command();
        command.args(["--port", &port.to_string()]).args(args).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        for line in said.lines().map(Result::unwrap) {
            text += &format!("{line}\n");
            if line.starts_with("Console: ") {
                break;
            }
        }
        (Self { child, port }, text)
    }

    pub(crate) fn addr(&self, node: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port + node - 1))
    }

    /// Ctrl-C: it must end by itself, and well.
    fn interrupt(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        until("it stops", || self.child.try_wait().unwrap().is_some());
        assert!(self.child.try_wait().unwrap().unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.arg("dev").stdin(Stdio::null());
    command
}

/// A port that is free, with the two after it and those of the peers.
pub(crate) fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 90) as u16 * 200;
    let first = 12_000 + own + TAKEN.fetch_add(10, Relaxed);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let fits = |port: &u16| (0..3).all(|more| free(port + more) && free(port + 100 + more));
    (first..32_000).step_by(7).find(fits).unwrap()
}

#[test]
fn a_cluster_runs_without_configuration_and_leaves_nothing() {
    let begun = Instant::now();
    let (dev, said) = Dev::start(free_port(), &[]);
    assert!(said.starts_with("3 nodes are up: "), "{said}");
    let put = Request::put("/kv/carts/alice?w=3", "2 apples").send(dev.addr(1));
    assert_eq!(put.status, 204, "{}", put.text());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    for node in 1..=3 {
        assert_eq!(Request::get("/kv/carts/alice").send(dev.addr(node)).text(), "2 apples");
    }
    let dir = said.split("Data in ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert!(std::path::Path::new(&dir).join("n3/data").exists(), "{said}");
    dev.interrupt();
    assert!(!std::path::Path::new(&dir).exists(), "{dir}");
}

#[test]
fn what_a_killed_process_left_goes_with_the_next_start_and_eof_ends_one_that_is_asked() {
    let dir_of = |said: &str| {
        let dir = said.split("Data in ").nth(1).unwrap().split(' ').next().unwrap();
        std::path::PathBuf::from(dir)
    };
    let (killed, said) = Dev::start(free_port(), &["--nodes", "1"]);
    let left = dir_of(&said);
    drop(killed);
    assert!(left.exists(), "SIGKILL leaves it");
    let port = free_port().to_string();
    let mut command = command();
    command.args(["--nodes", "1", "--until-eof", "--port", &port]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said: Vec<String> = lines.take_while(|line| !line.starts_with("Console: ")).collect();
    let own = dir_of(&said.join("\n"));
    assert!(own.exists() && !left.exists(), "{}", left.display());
    drop(child.stdin.take());
    until("it stops", || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success() && !own.exists());
}

#[test]
fn data_that_is_kept_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("mine");
    let (port, data) = (free_port(), data.to_str().unwrap());
    let (dev, said) = Dev::start(port, &["--nodes", "1", "--data", data]);
    assert!(said.starts_with("1 node is up: "), "{said}");
    assert_eq!(Request::put("/kv/b/k", "kept").send(dev.addr(1)).status, 204);
    dev.interrupt();
    let (dev, _) = Dev::start(port, &["--nodes", "1", "--data", data]);
    assert_eq!(Request::get("/kv/b/k").send(dev.addr(1)).text(), "kept");
    dev.interrupt();
    let other = command().args(["--nodes", "2", "--data", data]).output().unwrap();
    let error = String::from_utf8(other.stderr).unwrap();
    assert!(!other.status.success() && error.contains("use --nodes 1"), "{error}");
}

#[test]
fn what_cannot_run_is_refused_in_words() {
    let refused = |args: &[&str]| {
        let mut child = command().args(args).stderr(Stdio::piped()).spawn().unwrap();
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(!child.wait().unwrap().success(), "{args:?}");
        error
    };
    assert!(refused(&["--nodes", "0"]).contains("--nodes"));
    assert!(refused(&["--nodes", "10"]).contains("1..=9"));
    assert!(refused(&["--port", "65530"]).contains("--port must be from 1 to"));
    assert!(refused(&["--data", "/dev/null/x"]).contains("/dev/null/x"));
    assert!(refused(&["--log", "inof"]).contains("inof"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    if port < 65_000 {
        let error = refused(&["--nodes", "1", "--port", &port.to_string()]);
        assert!(error.contains("is another process using the port"), "{error}");
    }
}

#[test]
fn with_tls_it_says_whom_to_believe_and_nothing_else_gets_in() {
    let (dev, said) = Dev::start(free_port(), &["--nodes", "3", "--tls"]);
    let ca = said.split("--ca ").nth(1).unwrap().split_whitespace().next().unwrap();
    let url = |node| format!("https://{}", dev.addr(node));
    let state = tempfile::tempdir().unwrap();
    let cli = |args: &[&str], node: u16, authority: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command.args(args).args(["--url", &url(node)]).stdin(Stdio::null());
        command.env("XDG_STATE_HOME", state.path()); // without contexts of earlier runs
        match authority {
            Some(file) => command.env("QUORATE_CA", file),
            None => command.env_remove("QUORATE_CA"),
        };
        command.output().unwrap()
    };
    let put = cli(&["put", "carts/alice", "2 apples"], 1, Some(ca));
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let got = cli(&["get", "carts/alice"], 3, Some(ca));
    assert!(String::from_utf8_lossy(&got.stdout).contains("2 apples"), "{got:?}");
    // The others are found and asked over TLS too.
    until("all nodes to be well", || cli(&["status"], 2, Some(ca)).status.success());
    let unbelieved = cli(&["get", "carts/alice"], 1, None);
    assert!(!unbelieved.status.success());
    let plain = Request::get("/kv/carts/alice").send(dev.addr(1));
    let detail = plain.assert_problem(426, "tls_required");
    assert!(detail.contains("https://"), "{detail}");
    dev.interrupt();
}

#[test]
fn with_tokens_it_says_one_that_works_and_nothing_else_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let (port, data) = (free_port(), dir.path().join("mine"));
    let data = data.to_str().unwrap();
    let (dev, said) = Dev::start(port, &["--auth", "--data", data]);
    let token = |said: &str| {
        let rest = said.split("export QUORATE_TOKEN=").nth(1).unwrap_or_else(|| panic!("{said}"));
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let shown = token(&said);
    let with = |request: Request| request.header("Authorization", &format!("Bearer {shown}"));
    Request::get("/kv/carts/alice").send(dev.addr(1)).assert_problem(401, "unauthenticated");
    for node in 1..=3 {
        until("every node knows the token", || {
            with(Request::get("/cluster")).send(dev.addr(node)).status == 200
        });
    }
    // What it says to try works as it is said.
    let lines: Vec<&str> = said.lines().skip_while(|line| !line.contains("export")).collect();
    let quorate = env!("CARGO_BIN_EXE_quorate");
    let script = lines[..4].join("\n").replace("quorate status", &format!("{quorate} status"));
    let run = |script: &str| Command::new("bash").args(["-ec", script]).output().unwrap();
    let ran = run(&script.replace("curl", "curl -sf"));
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && told.contains("2 apples"), "{script}: {ran:?}");
    dev.interrupt();
    // It is the same one the next time, and the cluster does not start without tokens.
    let (dev, said) = Dev::start(port, &["--auth", "--data", data]);
    assert_eq!(token(&said), shown);
    dev.interrupt();
    let other = command().args(["--data", data]).output().unwrap();
    let error = String::from_utf8(other.stderr).unwrap();
    assert!(!other.status.success() && error.contains("with --auth"), "{error}");
}
