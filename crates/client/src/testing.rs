//! A real cluster for a program's own tests: `quorate dev`, started and stopped by the test.

use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use crate::client::Client;
use crate::error::Error;

/// How many ports are tried, as another process may take one in between.
const TRIES: usize = 5;
/// Client ports begin here; peer ports are 100 above.
const PORT_FIRST: u16 = 22_000;
/// And end below this.
const PORT_END: u16 = 32_000;

/// Three nodes in one process, in a temporary directory. They end, and the directory with them, when this
/// is dropped; the nodes also when this process ends without dropping it.
#[derive(Debug)]
pub struct DevCluster {
    child: Child,
    first: u16,
    dir: PathBuf,
}

impl DevCluster {
    /// Starts a cluster and waits until it is ready; blocks the thread for about a second.
    ///
    /// The node's binary is `QUORATE_BIN`, else that of the workspace that this crate is in, else `quorate`
    /// in `PATH`.
    ///
    /// # Errors
    /// If there is no binary, with what to do about it, or if it does not start.
    pub fn start() -> io::Result<Self> {
        let mut failed = io::Error::other("no free ports");
        for _ in 0..TRIES {
            let Some(first) = free_port() else { break };
            let dir =
                std::env::temp_dir().join(format!("quorate-test-{:016x}", rand::random::<u64>()));
            std::fs::create_dir_all(&dir)?;
            match start(first, &dir) {
                Ok(child) => return Ok(Self { child, first, dir }),
                Err(error) => failed = error,
            }
            drop(std::fs::remove_dir_all(&dir));
        }
        Err(failed)
    }

    /// The URLs of its nodes.
    pub fn urls(&self) -> [String; 3] {
        [0, 1, 2].map(|more| format!("http://127.0.0.1:{}", self.first + more))
    }

    /// A client that was told of the first node only.
    ///
    /// # Errors
    /// None that a cluster of this kind can cause.
    pub fn client(&self) -> Result<Client, Error> {
        Client::connect(self.urls().into_iter().take(1))
    }

    /// Ends its process now. Configurations and data stay until this is dropped, so that a test can run
    /// the nodes as processes of their own (`quorate serve`).
    pub fn stop(&mut self) {
        // It may be gone already: that is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Where its nodes keep configurations (`n1/node.toml`) and data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        self.stop();
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Starts the process, and waits for what it says once it is ready.
fn start(first: u16, dir: &Path) -> io::Result<Child> {
    let mut command = Command::new(binary());
    command.args(["dev", "--port", &first.to_string(), "--data"]).arg(dir);
    // The pipe ends with this process, even where nothing is dropped, as in a static.
    command.arg("--until-eof").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| {
        let program = command.get_program().display();
        let detail =
            format!("{program}: {error}; run `cargo build --release --locked`, or set QUORATE_BIN");
        io::Error::new(error.kind(), detail)
    })?;
    let said = child.stdout.take().map(BufReader::new);
    let mut lines = said.into_iter().flat_map(|said| said.lines()).map_while(Result::ok);
    if lines.any(|line| line.starts_with("Console: ")) {
        return Ok(child);
    }
    drop(child.kill());
    Err(io::Error::other(format!("quorate dev ended before it was ready: {}", child.wait()?)))
}

/// The node's binary.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("QUORATE_BIN") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    let built = target.join("release/quorate");
    if built.exists() { built } else { PathBuf::from("quorate") }
}

/// A port that is free, with the two after it and those of the peers.
fn free_port() -> Option<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let turn = TAKEN.fetch_add(1, Relaxed);
        let first = PORT_FIRST + turn / 10 * 200 + turn % 10 * 10;
        if first >= PORT_END {
            return None;
        }
        if (0..3).all(|more| free(first + more) && free(first + 100 + more)) {
            return Some(first);
        }
    }
}
