//! The commands that talk to a running cluster: each one's good and bad paths, exit codes and JSON.

mod cluster;
mod data;
mod feeds;
mod hostile;
mod index;
mod lifetimes;
mod transfer;
mod typed;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::dev::{Dev, free_port};

/// A cluster of three nodes in one process, and a user with a state directory of their own.
pub(crate) struct Cli {
    dev: Dev,
    user: User,
}

/// Someone who runs commands against these addresses.
pub(crate) struct User {
    state: TempDir,
    url: String,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Cli {
    pub(crate) fn start() -> Self {
        let (dev, _) = Dev::start(free_port(), &[]);
        let user = User::of(dev.addr(1));
        Self { dev, user }
    }

    /// Another user of the same cluster, at another node.
    pub(crate) fn other(&self) -> User {
        User::of(self.dev.addr(2))
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.user.run(args)
    }

    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Ran {
        self.user.pipe(args, input)
    }

    pub(crate) fn json(&self, args: &[&str], code: i32) -> Value {
        self.user.json(args, code)
    }
}

impl User {
    pub(crate) fn of(addr: SocketAddr) -> Self {
        Self { state: TempDir::new().unwrap(), url: format!("http://{addr}") }
    }

    /// A command with this user's environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        command.args(args).env("QUORATE_URL", &self.url).env("XDG_STATE_HOME", self.state.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.pipe(args, b"")
    }

    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(args).spawn().unwrap();
        // A command that does not read its input has closed it.
        drop(child.stdin.take().unwrap().write_all(input));
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Ran { code: output.status.code().unwrap(), out, err }
    }

    /// Runs a command with `--json`, checks its exit code, and parses what it printed.
    pub(crate) fn json(&self, args: &[&str], code: i32) -> Value {
        let ran = self.run(&[args, &["--json"]].concat());
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        serde_json::from_str(ran.out.trim())
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {ran:?}"))
    }
}

/// One command and what is expected of it: exit code, a part of its output, a part of its errors.
pub(crate) type Case<'a> = (&'a [&'a str], i32, &'a str, &'a str);

impl Ran {
    pub(crate) fn check(&self, (args, code, out, err): Case<'_>) {
        assert_eq!(self.code, code, "{args:?}: {self:?}");
        assert!(self.out.contains(out), "{args:?}: no {out:?} in {self:?}");
        assert!(self.err.contains(err), "{args:?}: no {err:?} in {self:?}");
    }
}

#[test]
fn every_command_teaches_by_example_and_documents_exit_codes() {
    let user = User::of(SocketAddr::from(([127, 0, 0, 1], 1)));
    let help = user.run(&["--help"]);
    assert!(
        help.out.contains("Exit codes:") && help.out.contains("6  unknown outcome"),
        "{help:?}"
    );
    let commands = [
        "get",
        "put",
        "delete",
        "keys",
        "feed",
        "siblings",
        "resolve",
        "typed",
        "explain",
        "load",
        "verify",
        "export",
        "import",
        "status",
        "top",
        "ring",
        "locate",
        "hints",
        "anti-entropy",
        "jobs",
        "bucket",
        "wait",
        "doctor",
        "healthcheck",
        "completions",
        "man",
    ];
    for command in commands {
        assert!(help.out.contains(command), "{command}");
        let ran = user.run(&[command, "--help"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(
            ran.out.contains("Examples:") && ran.out.contains(&format!("quorate {command}")),
            "{ran:?}"
        );
        assert_eq!(user.run(&[command, "--no-such-option"]).code, 2);
    }
}

#[test]
fn completions_and_manual_pages_are_made_without_a_cluster() {
    let user = User::of(SocketAddr::from(([127, 0, 0, 1], 1)));
    for shell in ["bash", "zsh", "fish"] {
        user.run(&["completions", shell]).check((&["completions"], 0, "anti-entropy", ""));
    }
    assert_eq!(user.run(&["completions", "cmd.exe"]).code, 2);
    let dir = TempDir::new().unwrap();
    let man = dir.path().join("man/man1");
    assert_eq!(user.run(&["man", man.to_str().unwrap()]).code, 0);
    for page in ["quorate.1", "quorate-get.1", "quorate-serve.1"] {
        assert!(man.join(page).exists(), "{page}");
    }
    user.run(&["man", "/proc/no/such"]).check((&["man"], 1, "", "/proc/no/such"));
}
