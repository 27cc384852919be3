//! One `quorate` process of a test: its directory, ports, configuration, and operations on it: kill
//! -9, SIGSTOP, SIGTERM, wipe. It does not outlive the test.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many lines of a node's log are shown when its test fails.
const LOG_LINES_SHOWN: usize = 25;

/// A node, running or not.
pub struct Process {
    pub name: String,
    pub client_addr: SocketAddr,
    pub peer_addr: SocketAddr,
    pub directory: PathBuf,
    child: Mutex<Option<Child>>,
    paused: AtomicBool,
    /// How many files it may have open; 0 for as many as the test.
    descriptors_max: AtomicU32,
}

/// What all nodes of a cluster have in common.
pub struct Shape<'a> {
    pub cluster_id: &'a str,
    pub key: [u8; 32],
    /// The default if none.
    pub partitions: Option<u32>,
    /// `fsync` or `buffered`.
    pub durability: &'a str,
    /// More settings, in TOML: keys, then tables.
    pub settings: &'a str,
}

impl Process {
    /// The node of this number, with a directory and ports of its own.
    pub fn new(parent: &Path, number: usize) -> Self {
        let name = format!("n{number}");
        let directory = parent.join(&name);
        fs::create_dir_all(&directory).unwrap();
        Self {
            name,
            client_addr: free_addr(),
            peer_addr: free_addr(),
            directory,
            child: Mutex::default(),
            paused: AtomicBool::default(),
            descriptors_max: AtomicU32::default(),
        }
    }

    /// Writes its configuration as one of these nodes, each in a zone of its own.
    pub fn configure<'a>(&self, shape: &Shape, nodes: impl Iterator<Item = &'a Self>) {
        let key: String = shape.key.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut text = format!(
            "cluster_id = {:?}\ncluster_keys = [{key:?}]\nnode = {:?}\ndata_dir = {:?}\n\
             client_addr = \"{}\"\npeer_addr = \"{}\"\nfault_hook = true\ndurability = {:?}\n\
             {}\n[layout]\nversion = 1\n",
            shape.cluster_id,
            self.name,
            self.data_dir(),
            self.client_addr,
            self.peer_addr,
            shape.durability,
            shape.settings,
        );
        if let Some(partitions) = shape.partitions {
            text += &format!("partitions = {partitions}\n");
        }
        for Self { name, peer_addr, .. } in nodes {
            text += &format!(
                "[[layout.nodes]]\nname = {name:?}\npeer_addr = \"{peer_addr}\"\nzone = {name:?}\n"
            );
        }
        fs::write(self.config(), text).unwrap();
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A command of the binary with its configuration, whose output is appended to the node's log.
    pub fn command(&self, verb: &str) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_quorate")), verb)
    }

    /// Likewise of another binary.
    pub fn command_of(&self, binary: &Path, verb: &str) -> Command {
        let log = File::options().create(true).append(true).open(self.directory.join("log"));
        let log = log.unwrap();
        let mut command = Command::new(binary);
        command.arg(verb).arg("--config").arg(self.config());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts the process. It may not listen yet when this returns.
    pub fn launch(&self) {
        let own = self.command("serve");
        match self.descriptors_max.load(Ordering::Relaxed) {
            0 => self.launch_as(own),
            max => self.launch_as(self.limited(&own, &format!("ulimit -n {max}"))),
        }
    }

    /// Limits its open files from the next launch on.
    pub fn limit_descriptors(&self, max: u32) {
        self.descriptors_max.store(max, Ordering::Relaxed);
    }

    /// A command of the binary under limits that `ulimit` sets.
    pub fn limited(&self, own: &Command, limits: &str) -> Command {
        let mut command = Command::new("sh");
        let script = format!("{limits}; exec \"$0\" \"$@\"");
        command.arg("-c").arg(script).arg(own.get_program()).args(own.get_args());
        for (name, _) in own.get_envs() {
            command.env_remove(name);
        }
        let log = File::options().create(true).append(true).open(self.directory.join("log"));
        let log = log.unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// Likewise, with a command that the test has built.
    pub fn launch_as(&self, mut command: Command) {
        let mut child = self.child();
        assert!(child.is_none(), "{} runs already", self.name);
        *child = Some(command.spawn().unwrap());
    }

    /// Whether it was launched, and not ended by the test.
    pub fn is_running(&self) -> bool {
        self.child().is_some()
    }

    /// Whether it was sent SIGSTOP.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Whether it has ended by itself, and how.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(|child| child.try_wait().unwrap())
    }

    /// Forgets a process that has ended.
    pub fn forget(&self) {
        assert!(self.ended().is_some(), "{} runs", self.name);
        *self.child() = None;
    }

    /// kill -9, and waits for the end. Does nothing to a node that does not run.
    pub fn kill(&self) {
        self.paused.store(false, Ordering::Relaxed);
        if let Some(mut child) = self.child().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGSTOP: the node goes silent, its connections stay.
    pub fn pause(&self) {
        self.signal("STOP");
        self.paused.store(true, Ordering::Relaxed);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
        self.paused.store(false, Ordering::Relaxed);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap();
        assert!(sent.success(), "kill -{signal} {pid}");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child().as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// How much memory it has, in MiB, and how many files are open; `None` if it does not run.
    pub fn usage(&self) -> Option<(u64, usize)> {
        let process = PathBuf::from(format!("/proc/{}", self.child().as_ref()?.id()));
        let status = fs::read_to_string(process.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some((kib >> 10, fs::read_dir(process.join("fd")).ok()?.count()))
    }

    /// Removes the data of a node that does not run. A file system mounted there stays, but empty.
    pub fn wipe(&self) {
        assert!(!self.is_running(), "{} runs", self.name);
        let data = self.data_dir();
        if fs::remove_dir_all(&data).is_err() {
            assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "{} is not empty", data.display());
        }
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    /// All it has logged.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill(); // also ends a paused process
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- {}\n{}", self.name, tail.join("\n"));
        }
    }
}

/// An address that was free a moment ago. Its port is below the ephemeral range, so that it is
/// still free when a node that was down comes back.
fn free_addr() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const RANGE: std::ops::Range<u32> = 12_000..32_000;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = RANGE.start + (std::process::id() * 101 + step) % RANGE.len() as u32;
        let addr = SocketAddr::from(([127, 0, 0, 1], port as u16));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}
